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
"""The LVM driver's own copies, by the real dd, with files as volumes."""

import os

import fixtures
from oslo_concurrency import processutils
from oslo_utils import units

from cinder import context
from cinder.tests.unit import test
from cinder import utils
from cinder.volume import configuration
from cinder.volume.drivers import lvm
from cinder.volume import volume_utils

STALE = b'\xaa' * units.Mi


class FakeVG:
    """A volume group as a directory: a new thick volume is not zeroed."""

    def __init__(self, vg_name, *args, lvm_type='default', **kwargs):
        self.vg_name = vg_name
        self.deleted = []

    def create_volume(self, name, size, lvm_type, mirror_count):
        with open(os.path.join(self.vg_name, name), 'wb') as volume:
            if lvm_type == 'thin':
                volume.truncate(units.Gi)
            else:
                volume.write(STALE * 4)

    def delete(self, name):
        self.deleted.append(name)


class LVMCopyTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.source_vg = self.useFixture(fixtures.TempDir()).path
        self.dest_vg = self.useFixture(fixtures.TempDir()).path
        self.mock_object(utils, 'execute', self._execute)
        self.mock_object(lvm.lvm, 'LVM', FakeVG)
        self.mock_object(volume_utils, 'get_all_volume_groups',
                         return_value=[{'name': self.dest_vg}])
        # A volume of 4 GiB has 4 MiB here.
        self.mock_object(units, 'Ki', 1)
        self.driver = lvm.LVMVolumeDriver(
            configuration=configuration.Configuration(lvm.volume_opts, 'lvm'),
            vg_obj=FakeVG(self.source_vg), execute=self._execute)
        self.mock_object(self.driver, 'local_path', self._local_path)
        self.mock_object(self.driver, '_delete_volume')

    def _execute(self, *cmd, run_as_root=False, root_helper=None, **kwargs):
        # dd truncates a file that it opens, but not a logical volume.
        return processutils.execute(*cmd, 'conv=notrunc', **kwargs)

    def _local_path(self, volume, vg=None):
        return os.path.join(vg or self.source_vg, volume['name'])

    def _migrate(self, data, lvm_type):
        """Migrate a volume of 4 MiB that holds data to dest_vg."""
        volume = {'name': 'a-volume', 'id': 1, 'size': 4,
                  'status': 'available'}
        with open(self._local_path(volume), 'wb') as source:
            source.write(data)
        self.driver.migrate_volume(
            context.get_admin_context(), volume,
            {'capabilities': {
                'location_info': 'LVMVolumeDriver:%s:%s:%s:0' % (
                    self.driver.hostname, self.dest_vg, lvm_type)}})
        with open(self._local_path(volume, self.dest_vg), 'rb') as dest:
            return dest.read(4 * units.Mi)

    def test_migrate_thin_to_thick_copies_zeros(self):
        self.driver._sparse_copy_volume = True
        data = b'\x01' * units.Mi + bytes(3 * units.Mi)
        self.assertEqual(data, self._migrate(data, 'default'))

    def test_migrate_thick_to_thin_skips_zeros(self):
        data = b'\x01' * units.Mi + bytes(3 * units.Mi)
        self.assertEqual(data, self._migrate(data, 'thin'))
        dest = os.stat(os.path.join(self.dest_vg, 'a-volume'))
        self.assertLess(dest.st_blocks * 512, 2 * units.Mi)
