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
"""Cinder's RBD backend for a Ceph without a manager.

Only the manager counts what a pool holds and has left; it would take longer
to start than all of the lab. Everything else is upstream's.
"""

from cinder import interface
from cinder.volume.drivers import rbd


@interface.volumedriver
class LabDriver(rbd.RBDDriver):
    """Says, as upstream's does when Ceph does not, that it does not know."""

    def _get_pool_stats(self):
        return 'unknown', 'unknown'

    def set_throttle(self):
        """Leave limits to the copier: others need cgroups of the machine."""
