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

import errno
import os
import tempfile
from unittest import mock

from cinder.tests.unit import test
from cinder.volume.copier import engine
from cinder.volume.copier import local_file
from cinder.volume.copier import volume_file

DATA = volume_file.Kind.DATA
HOLE = volume_file.Kind.HOLE

MIB = 1 << 20


class LocalFileTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def make(self, size, *parts):
        fd, path = tempfile.mkstemp(dir=self.folder)
        with open(fd, 'wb') as made:
            made.truncate(size)
            for offset, content in parts:
                made.seek(offset)
                made.write(content)
        return path

    def open(self, path, writable=False):
        opened = local_file.LocalFile.open(path, writable)
        self.addCleanup(opened.close)
        return opened

    def content(self, path):
        with open(path, 'rb') as file:
            return file.read()

    def test_open_does_not_truncate_or_make(self):
        path = self.make(1000, (0, b'x' * 1000))
        self.assertEqual(1000, self.open(path, writable=True).size)
        self.assertEqual(b'x' * 1000, self.content(path))
        self.assertRaises(FileNotFoundError, local_file.LocalFile.open,
                          path + 'no', True)

    def test_close_closes_the_descriptor_once(self):
        opened = local_file.LocalFile.open(self.make(10))
        with mock.patch('os.close', wraps=os.close) as close:
            opened.close()
            opened.close()
        self.assertEqual(1, close.call_count)

    def test_extents(self):
        path = self.make(4 * MIB, (MIB, b'x' * MIB))
        for begin, end in ((0, 4 * MIB), (MIB + 5, 3 * MIB), (3 * MIB, None)):
            length = None if end is None else end - begin
            found = self.open(path).extents(begin, length)
            for extent in engine.covered(found, begin, end or 4 * MIB):
                data = MIB <= extent.offset < 2 * MIB
                self.assertEqual(DATA if data else HOLE, extent.kind)

    def test_extents_where_the_file_system_does_not_tell(self):
        opened = self.open(self.make(4 * MIB))
        with mock.patch('os.lseek', side_effect=OSError(errno.EINVAL, '')):
            self.assertEqual([volume_file.Extent(5, 100, DATA)],
                             list(opened.extents(5, 100)))
        with mock.patch('os.lseek', side_effect=OSError(errno.EIO, '')):
            self.assertRaises(volume_file.VolumeIOError, list,
                              opened.extents())

    def test_reads_and_writes(self):
        path = self.make(8 * MIB)
        opened = self.open(path, writable=True)
        opened.write_at(3 * MIB + 1, b'abc')
        self.assertEqual(b'\0abc\0', opened.read_at(3 * MIB, 5))
        opened.close()
        self.assertEqual(b'abc', self.content(path)[3 * MIB + 1:][:3])

    def test_zeroes(self):
        for unmap in True, False:
            path = self.make(4 * MIB, (0, b'x' * 4 * MIB))
            opened = self.open(path, writable=True)
            opened.write_zeroes(MIB + 1, 2 * MIB, unmap)
            self.assertEqual(
                b'x' * (MIB + 1) + bytes(2 * MIB) + b'x' * (MIB - 1),
                self.content(path))
            blocks = os.stat(path).st_blocks * 512
            self.assertEqual(unmap, blocks < 3 * MIB)

    def test_zeroes_without_help_from_the_storage(self):
        path = self.make(MIB, (0, b'x' * MIB))
        opened = self.open(path, writable=True)
        refused = OSError(errno.EOPNOTSUPP, 'no')
        self.patch('cinder.volume.copier.local_file._fallocate',
                   side_effect=refused)
        opened.write_zeroes(10, 1000)
        opened.discard(0, 5)
        self.assertEqual(b'x' * 10 + bytes(1000) + b'x' * (MIB - 1010),
                         self.content(path))

    def test_zeroes_of_parts_of_sectors(self):
        """What a block device refuses in the middle of one."""
        path = self.make(MIB, (0, b'x' * MIB))
        opened = self.open(path, writable=True)
        self.patch('cinder.volume.copier.local_file._fallocate',
                   side_effect=OSError(errno.EINVAL, 'no whole sectors'))
        opened.write_zeroes(10, 1000)
        opened.discard(0, 5)
        self.assertEqual(b'x' * 10 + bytes(1000) + b'x' * (MIB - 1010),
                         self.content(path))

    def test_a_failure_to_zero_is_one(self):
        opened = self.open(self.make(MIB), writable=True)
        self.patch('cinder.volume.copier.local_file._fallocate',
                   side_effect=OSError(errno.EIO, 'broken'))
        error = self.assertRaises(volume_file.VolumeIOError,
                                  opened.write_zeroes, 10, 1000)
        self.assertEqual((errno.EIO, 10, 1000),
                         (error.errno, error.offset, error.length))

    def test_a_failed_fdatasync_is_reported(self):
        opened = self.open(self.make(MIB), writable=True)
        with mock.patch('os.fdatasync', side_effect=OSError(errno.EIO, '')):
            self.assertRaises(volume_file.VolumeIOError, opened.flush)

    def test_a_file_that_was_cut_short_meanwhile(self):
        path = self.make(MIB, (0, b'x' * MIB))
        opened = self.open(path)
        os.truncate(path, 1000)
        self.assertRaises(volume_file.VolumeEndError, opened.read_at, 0, 2000)
        self.assertRaises(volume_file.VolumeEndError, opened.check)

    def test_a_sparse_copy_stays_sparse_and_equal(self):
        source = self.make(16 * MIB, (MIB, os.urandom(MIB)),
                           (9 * MIB + 7, b'y'))
        for old in b'', b'old' * MIB:
            path = self.make(16 * MIB, (0, old))
            with self.open(path, writable=True) as destination:
                engine.copy(self.open(source), destination, 16 * MIB)
            self.assertEqual(self.content(source), self.content(path))
            self.assertLess(os.stat(path).st_blocks * 512, 3 * MIB)
