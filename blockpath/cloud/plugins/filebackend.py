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
"""A Cinder backend of sparse files, exported by Cinder's own targets.

LVM, Cinder's reference, needs device-mapper, which containers and many test
machines do not have. A file needs nothing, and shows from outside what a
guest has written and when.
"""

import pathlib

from cinder import exception
from cinder.image import image_utils
from cinder import interface
from cinder.volume import configuration
from cinder.volume import driver
from cinder.volume.targets import host_scope
from cinder.volume.targets import tgt
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_utils import units

from blockpath.machine import topology

_OPTIONS = [
    cfg.StrOpt('blockpath_volumes',
               help='Folder of the volumes\' files.'),
    *host_scope.OPTS,
]
cfg.CONF.register_opts(_OPTIONS, group=configuration.SHARED_CONF_GROUP)


@interface.volumedriver
class FileDriver(driver.VolumeDriver):
    """Volumes are files, snapshots are copies of them."""

    VERSION = '1.0'
    CI_WIKI_NAME = 'none'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(_OPTIONS)
        self.folder = pathlib.Path(self.configuration.blockpath_volumes)
        #: The target of each volume that is to have one for all hosts.
        self.by_volume = tgt.TgtAdm(configuration=self.configuration,
                                    executor=self._execute)
        self.target = host_scope.scoped(self.by_volume, self.configuration,
                                        self.host)

    def check_for_setup_error(self):
        if not self.folder.is_dir():
            raise exception.VolumeBackendAPIException(
                data=f'blockpath_volumes: {self.folder} is no folder')

    def set_throttle(self):
        """Leave limits to the copier: others need cgroups of the machine."""

    def _update_volume_stats(self):
        self._stats = {
            'volume_backend_name':
                self.configuration.safe_get('volume_backend_name'),
            'vendor_name': 'blockpath',
            'driver_version': self.VERSION,
            'storage_protocol': 'iSCSI',
            'shared_targets': True,
            # More than Ceph says: volumes of any type are made here.
            'total_capacity_gb': 1024,
            'free_capacity_gb': 1024,
            'reserved_percentage': 0,
            'thin_provisioning_support': True,
            'multiattach': True,
            'online_extend_support': True,
            'sparse_copy_volume': True,
        }

    # Files ---------------------------------------------------------------

    def _path(self, volume):
        return self.folder / volume.name

    def _snapshot_path(self, snapshot):
        return self.folder / f'snapshot-{snapshot.id}'

    def _resize(self, path, size_gb):
        with open(path, 'ab') as file:
            file.truncate(size_gb * units.Gi)

    def _copy(self, source, target):
        # As a process: a copy in this one would stop all its green threads.
        processutils.execute('cp', '--sparse=always', '--reflink=auto',
                             str(source), str(target))

    def create_volume(self, volume):
        self._resize(self._path(volume), volume.size)

    def delete_volume(self, volume):
        self._path(volume).unlink(missing_ok=True)

    def create_snapshot(self, snapshot):
        self._copy(self._path(snapshot.volume), self._snapshot_path(snapshot))

    def delete_snapshot(self, snapshot):
        self._snapshot_path(snapshot).unlink(missing_ok=True)

    def create_volume_from_snapshot(self, volume, snapshot):
        self._copy(self._snapshot_path(snapshot), self._path(volume))
        self._resize(self._path(volume), volume.size)

    def create_cloned_volume(self, volume, src_vref):
        self._copy(self._path(src_vref), self._path(volume))
        self._resize(self._path(volume), volume.size)

    def extend_volume(self, volume, new_size):
        self._resize(self._path(volume), new_size)
        self.target.extend_target(volume)

    def retype(self, context, volume, new_type, diff, host):
        """What types say of a volume changes nothing of its file."""
        return True, None

    def copy_image_to_volume(self, context, volume, image_service, image_id,
                             disable_sparse=False):
        """Write the image to the file itself: no initiator is needed."""
        image_utils.fetch_to_raw(
            context, image_service, image_id, str(self._path(volume)),
            self.configuration.volume_dd_blocksize, size=volume.size,
            run_as_root=False, disable_sparse=disable_sparse)
        self._resize(self._path(volume), volume.size)

    def copy_volume_to_image(self, context, volume, image_service,
                             image_meta):
        image_utils.upload_volume(context, image_service, image_meta,
                                  str(self._path(volume)), run_as_root=False)

    # Targets -------------------------------------------------------------

    def create_export(self, context, volume, connector):
        """A volume with the metadata ``target=shared`` has one target.

        To compare with: all hosts reach it there.
        """
        target = self.by_volume if _is_shared(volume) else self.target
        made = target.create_export(context, volume, str(self._path(volume)))
        return {'provider_location': made['location'],
                'provider_auth': made['auth']}

    def ensure_export(self, context, volume):
        return self.target.ensure_export(context, volume,
                                         str(self._path(volume)))

    def remove_export(self, context, volume):
        self.target.remove_export(context, volume)

    def validate_connector(self, connector):
        self.target.validate_connector(connector)
        _host(connector)

    def initialize_connection(self, volume, connector):
        """Also has each host come by a portal of its own.

        With the metadata ``mistaken_for=ID`` a host that has that volume is
        told its LUN: storage that maps wrongly.
        """
        told = self.target.initialize_connection(volume, connector)
        if _is_shared(volume):
            return told
        told['data']['target_portal'] = _host(connector).portal
        if _has_dead_portal(volume):
            _add_dead_portal(told['data'])
        units = self.target.targets.hosts[connector['initiator']].units
        if other := units.get(volume.metadata.get('mistaken_for')):
            told['data']['target_lun'] = other.lun
        return told

    def terminate_connection(self, volume, connector, **kwargs):
        """Hide a volume from a host.

        :returns: whether others are attached. Were that not said, Cinder
            would remove the export: during a live migration a volume is
            attached twice, and one of the hosts goes.
        """
        self.target.terminate_connection(volume, connector, **kwargs)
        return len(volume.volume_attachment) > 1


def _is_shared(volume):
    return volume.metadata.get('target') == 'shared'


def _has_dead_portal(volume):
    return (volume.volume_type_id and
            volume.volume_type.name == topology.DEAD_PORTAL)


def _add_dead_portal(data):
    """Tell of a portal at which nobody is, before the one that works."""
    dead = f'{topology.NOBODY}:{topology.ISCSI_PORT}'
    data['target_portals'] = [dead, data['target_portal']]
    data['target_iqns'] = [data['target_iqn']] * 2
    data['target_luns'] = [data['target_lun']] * 2
    data['target_portal'] = dead


def _host(connector):
    """:raises InvalidConnectorException: no host of the lab sent it."""
    for host in topology.CLIENTS:
        if host.initiator == connector.get('initiator'):
            return host
    raise exception.InvalidConnectorException(missing='initiator')
