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
"""What a cloud has of that which the tests need: ``[blockpath]``."""

from oslo_config import cfg

GROUP = cfg.OptGroup('blockpath', title='Guests, volumes and their paths')

OPTS = [
    cfg.BoolOpt(
        'live_migration_between_targets', default=False,
        help='Live-migrate a server that writes to a volume which each '
             'compute host reaches by a target of its own. Needs two '
             'compute hosts.'),
    cfg.BoolOpt(
        'volume_migration_between_backends', default=False,
        help='Move volumes from iSCSI to RBD and back, and compare every '
             'block.'),
    cfg.BoolOpt(
        'multipath_dead_portal', default=False,
        help='Attach a volume one of whose portals is dead; needs '
             'dead_portal_volume_type.'),
    cfg.BoolOpt(
        'interrupted_migration', default=False,
        help='Kill the volume service while it copies a volume; needs '
             'kill_volume_service and start_volume_service.'),
    cfg.StrOpt(
        'iscsi_volume_type', default='iscsi',
        help='The type of volumes on a backend that is reached by iSCSI.'),
    cfg.StrOpt(
        'rbd_volume_type', default='rbd',
        help='The type of volumes on Ceph.'),
    cfg.StrOpt(
        'dead_portal_volume_type',
        help='The type of volumes for which Cinder returns a portal that '
             'never answers, and one that works.'),
    cfg.IntOpt(
        'dead_portal_seconds', default=120, min=1,
        help='How long attaching a volume may take that has a dead portal.'),
    cfg.StrOpt(
        'kill_volume_service',
        help='A command, run where tempest runs, that kills the volume '
             'service of these types with SIGKILL.'),
    cfg.StrOpt(
        'start_volume_service',
        help='A command that starts it again.'),
]
