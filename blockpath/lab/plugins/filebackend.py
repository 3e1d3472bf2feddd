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
"""A Cinder backend of sparse files that maps per compute host.

LVM, Cinder's reference, needs device-mapper, which containers and many test
machines do not have. A file needs nothing, and shows from outside what a
guest has written and when.
"""

import pathlib

from cinder import exception
from cinder.image import image_utils
from cinder import interface
from cinder import utils
from cinder.volume import configuration
from cinder.volume import driver
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_utils import units

from blockpath.lab import layout
from blockpath.lab import targets
from blockpath.lab import tgt

_OPTIONS = [
    cfg.StrOpt('blockpath_volumes',
               help='Folder of the volumes\' files.'),
    cfg.StrOpt('blockpath_tgtd', default='/run/tgtd/socket.0',
               help='Management socket of tgtd.'),
]
cfg.CONF.register_opts(_OPTIONS, group=configuration.SHARED_CONF_GROUP)

_one_at_a_time = utils.synchronized('blockpath-targets')


@interface.volumedriver
class FileDriver(driver.VolumeDriver):
    """Volumes are files, snapshots are copies of them."""

    VERSION = '1.0'
    CI_WIKI_NAME = 'none'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(_OPTIONS)
        self.folder = pathlib.Path(self.configuration.blockpath_volumes)
        self.targets: targets.Targets

    def do_setup(self, context):
        self.targets = targets.Targets(
            self.folder, tgt.Client(self.configuration.blockpath_tgtd))

    def check_for_setup_error(self):
        """Also fills a tgtd that was started anew."""
        if not self.folder.is_dir():
            raise exception.VolumeBackendAPIException(
                data=f'blockpath_volumes: {self.folder} is no folder')
        self.targets.restore()

    def set_throttle(self):
        """Leave limits to the copier: others need cgroups of the machine."""

    def _update_volume_stats(self):
        self._stats = {
            'volume_backend_name':
                self.configuration.safe_get('volume_backend_name'),
            'vendor_name': 'blockpath',
            'driver_version': self.VERSION,
            'storage_protocol': 'iSCSI',
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
        return self.targets.path(volume.name_id)

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

    @_one_at_a_time
    def extend_volume(self, volume, new_size):
        self._resize(self._path(volume), new_size)
        self.targets.resize(volume.name_id)

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
        """Nothing: a volume is mapped when a host is known."""

    def ensure_export(self, context, volume):
        """Nothing: all mappings were restored at start."""

    @_one_at_a_time
    def remove_export(self, context, volume):
        for host in layout.CLIENTS:
            self.targets.unmap(volume.name_id, host)

    def _host(self, connector):
        """:raises InvalidConnectorException: no host of the lab sent it."""
        host = targets.host_of(connector.get('initiator'))
        if host is None:
            raise exception.InvalidConnectorException(missing='initiator')
        return host

    def _shown_by(self, volume, connector):
        """Whose target shows a volume to a host: that of the host.

        A volume with the metadata ``target=shared`` is shown to all by the
        first host's, to compare with.
        """
        host = self._host(connector)
        shared = volume.metadata.get('target') == 'shared'
        return layout.COMPUTES[0] if shared else host

    def validate_connector(self, connector):
        self._host(connector)

    @_one_at_a_time
    def initialize_connection(self, volume, connector):
        owner = self._shown_by(volume, connector)
        mapping = self.targets.map(volume.name_id, owner)
        self.targets.admit(owner, self._host(connector))
        return {'driver_volume_type': 'iscsi', 'data': {
            'target_discovered': False,
            'target_portal': mapping.portal,
            'target_iqn': mapping.iqn,
            'target_lun': mapping.lun,
            'auth_method': 'CHAP',
            'auth_username': mapping.user,
            'auth_password': mapping.password,
            'volume_id': volume.id,
            'access_mode': 'rw',
        }}

    @_one_at_a_time
    def terminate_connection(self, volume, connector, **kwargs):
        """Unmap, unless another server on that host has the volume too.

        :returns: whether it is still mapped to some host. Were that not
            said, Cinder would call remove_export: during a live migration
            the volume is mapped to two hosts, and one of them goes.
        """
        # Without a connector, a forced detach, the host is not known.
        leaving = ([self._shown_by(volume, connector)] if connector
                   else layout.CLIENTS)
        for host in leaving:
            users = [attachment for attachment in volume.volume_attachment
                     if attachment.connector and
                     self._shown_by(volume, attachment.connector) == host]
            if len(users) < 2 or not connector:
                self.targets.unmap(volume.name_id, host)
        return self.targets.mapped(volume.name_id)
