#
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

"""Options of iSCSI, in the group of os-brick."""

from oslo_config import cfg

OPTS = [
    cfg.ListOpt('iscsi_ifaces',
                default=[],
                help='The open-iscsi ifaces that iSCSI volumes are connected '
                     'over: with multipathing all of them, to each portal, '
                     'else the first that works. Each is a name that '
                     '``iscsiadm -m iface`` shows, or the description of one '
                     'that is to be made, '
                     '``NAME=TRANSPORT.DEVICE[@ADDRESS]``, where DEVICE is a '
                     'net device or a hardware address. A service that has '
                     'an option of its own, such as Nova with ``[libvirt] '
                     'iscsi_iface``, and sets it, uses that.'),
    cfg.BoolOpt('iscsi_iface_fallback',
                default=True,
                help='Connect over open-iscsi\'s default iface where no '
                     'other that was asked for can be used, or lets log in '
                     'to any portal of the volume. If not, the volume is not '
                     'connected then.'),
]
