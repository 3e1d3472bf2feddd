#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.
"""Emulated Debian guests, for iSER, which user-mode Linux lacks.

``Rig`` boots a few and joins them by networks of their own; each runs
commands through an agent. They have a kernel initiator, multipathd, device
mapper, LIO and RDMA over Ethernet, and see the checkout read-only
at its own path, with the virtual environment's packages.
"""
