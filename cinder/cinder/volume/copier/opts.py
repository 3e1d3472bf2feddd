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

"""The options of the copier; each may differ from backend to backend."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt('volume_copy_verify',
               default='none',
               choices=[
                   ('none', 'trust the storage'),
                   ('sampled', 'compare the first block, the last, and one '
                               'in 64 between them'),
                   ('full', 'compare all: the copy takes twice as long, '
                            'or more'),
               ],
               help='What is read back from the destination of a copy, after '
                    'it was flushed, and compared with what was read from '
                    'the source. A difference fails the copy, and the source '
                    'stays.'),
    cfg.StrOpt('volume_copy_iscsi_initiator',
               default='host',
               choices=[
                   ('host', 'open-iscsi, by way of os-brick; QEMU on a host '
                            'without iscsiadm'),
                   ('qemu', 'QEMU\'s own: no device appears on the host. '
                            'Needs qemu-storage-daemon with its iscsi block '
                            'driver, and libnbd\'s Python module'),
               ],
               help='Which initiator reaches an iSCSI volume whose data is '
                    'copied.'),
    cfg.IntOpt('volume_copy_in_flight',
               default=16, min=1, max=64,
               help='How many blocks a copy has in flight, and so the memory '
                    'it takes: they are of 1 MiB, and mostly of 2 MiB where '
                    'the destination is an RBD image. No more than 12 of '
                    'what a server of QEMU has opened.'),
    cfg.IntOpt('volume_copy_timeout',
               default=300, min=0,
               help='Seconds after which a copy fails if nothing was read or '
                    'written meanwhile. Also how long it takes to find out '
                    'that a Ceph cluster or an iSCSI target is not there. '
                    'Devices of the host and files keep the time limits of '
                    'the kernel. 0 waits for ever.'),
    cfg.BoolOpt('volume_copy_resume',
                default=False,
                help='Let a migration that the end of this service '
                     'interrupted go on where it was last flushed, instead '
                     'of undoing it, when the service is back.'),
]
