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
"""copy_volume() between two paths, with the real dd on real files."""

import os

import fixtures
from oslo_concurrency import processutils
from oslo_utils import units

from cinder.tests.unit import test
from cinder import utils
from cinder.volume import volume_utils


class DDCopyTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        directory = self.useFixture(fixtures.TempDir())
        self.src = directory.join('src')
        self.dest = directory.join('dest')
        self.commands = []
        self.not_direct = set()     # 'iflag=direct' or 'oflag=direct'
        self.mock_object(utils, 'execute', self._execute)

    def _execute(self, *cmd, run_as_root=False, **kwargs):
        """Run a command as who we are, on a file system with our faults."""
        if 'count=0' in cmd and self.not_direct.intersection(cmd):
            raise processutils.ProcessExecutionError(exit_code=1)
        self.commands.append(cmd)
        return processutils.execute(*cmd, **kwargs)

    def _write(self, path, data):
        with open(path, 'wb') as volume:
            volume.write(data)

    def _read(self, path):
        with open(path, 'rb') as volume:
            return volume.read()

    def _copy(self, size_in_m, **kwargs):
        volume_utils.copy_volume(self.src, self.dest, size_in_m, '1M',
                                 execute=self._execute, **kwargs)
        return self.commands[-1]

    def test_sync_needs_o_direct_at_the_destination(self):
        self._write(self.src, os.urandom(2 * units.Mi))
        self.not_direct = {'oflag=direct'}
        self.assertIn('conv=fdatasync', self._copy(2, sync=True))
        self.assertEqual(self._read(self.src), self._read(self.dest))

    def test_no_sync_if_not_asked_for(self):
        self._write(self.src, os.urandom(2 * units.Mi))
        self.not_direct = {'oflag=direct'}
        self.assertNotIn('conv=fdatasync', self._copy(2))
