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
import io

from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import volume_file


class VolumeFileTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.content = bytes(range(256)) * 16
        self.file = fakes.MemoryFile(self.content)

    def faulty(self, *faults):
        left = list(faults)
        return fakes.FaultyFile(
            self.content, lambda among: left.pop(0) if left else 'none')

    def test_is_a_raw_file(self):
        self.assertIsInstance(self.file, io.RawIOBase)
        self.assertTrue(self.file.readable())
        self.assertTrue(self.file.writable())
        self.assertTrue(self.file.seekable())
        self.assertEqual(4096, self.file.seek(0, 2))
        self.assertEqual(b'', self.file.read(10))
        self.assertEqual(4000, self.file.seek(-96, 1))
        self.assertEqual(self.content[4000:], self.file.read(1000))
        self.assertEqual(4096, self.file.tell())
        self.assertRaises(OSError, self.file.seek, -1)

    def test_a_buffered_reader_reads_all_of_it(self):
        with io.BufferedReader(self.file, 100) as reader:
            self.assertEqual(self.content, reader.read())
        self.assertEqual(1, self.file.closes)

    def test_write_moves_and_says_how_much(self):
        self.file.seek(10)
        self.assertEqual(3, self.file.write(b'abc'))
        self.assertEqual(13, self.file.tell())
        self.assertEqual(b'abc', self.file.content[10:13])

    def test_does_not_grow(self):
        self.file.seek(4090)
        error = self.assertRaises(volume_file.VolumeEndError,
                                  self.file.write, b'1234567')
        self.assertEqual((errno.ENOSPC, 4090, 7),
                         (error.errno, error.offset, error.length))
        self.assertEqual(self.content, bytes(self.file.content))
        self.assertRaises(io.UnsupportedOperation, self.file.truncate, 0)
        self.assertRaises(OSError, self.file.fileno)

    def test_read_only(self):
        file = fakes.MemoryFile(self.content, writable=False)
        self.assertFalse(file.writable())
        for function, *args in ((file.write, b'x'), (file.write_at, 0, b'x'),
                                (file.write_zeroes, 0, 1),
                                (file.discard, 0, 1)):
            error = self.assertRaises(volume_file.VolumeIOError, function,
                                      *args)
            self.assertEqual(errno.EBADF, error.errno)
        file.close()
        self.assertEqual([], file.log)

    def test_short_transfers_are_completed(self):
        file = self.faulty('short', 'short', 'none', 'short', 'none')
        self.assertEqual(self.content[100:1100],
                         bytes(file.read_at(100, 1000)))
        file.write_at(5, b'z' * 99)
        self.assertEqual(b'z' * 99, file.content[5:104])
        self.assertEqual(5, len(file.log))

    def test_a_source_that_ends_early_is_an_error(self):
        error = self.assertRaises(volume_file.VolumeEndError,
                                  self.faulty('short', 'end').read_at, 8, 100)
        self.assertEqual((8, 100), (error.offset, error.length))

    def test_a_write_that_takes_nothing_is_an_error(self):
        self.assertRaises(volume_file.VolumeEndError,
                          self.faulty('short', 'nothing').write_at, 0, b'abc')

    def test_more_than_was_asked_for_is_an_error(self):
        self.assertRaises(volume_file.VolumeIOError,
                          self.faulty('long').read_at, 0, 100)

    def test_an_error_says_which_bytes(self):
        error = self.assertRaises(volume_file.VolumeIOError,
                                  self.faulty('EIO').write_at, 7, b'abc')
        self.assertEqual((errno.EIO, 7, 3),
                         (error.errno, error.offset, error.length))
        self.assertIn('3 bytes at 7 of memory', str(error))

    def test_zeroes_by_default_writes_them(self):
        class Plain(fakes.MemoryFile):
            _zero_at = volume_file.VolumeFile._zero_at

        file = Plain(b'x' * (3 << 20))
        file.write_zeroes(5, (2 << 20) + 1)
        self.assertEqual(b'x' * 5 + bytes((2 << 20) + 1) +
                         b'x' * ((1 << 20) - 6), bytes(file.content))

    def test_close_flushes_once_and_may_be_repeated(self):
        self.file.write(b'abc')
        self.file.close()
        self.file.close()
        self.assertEqual((1, 1), (self.file.closes,
                                  self.file.log.count(('flush',))))
        self.assertEqual(b'abc', self.file.durable[:3])
        for function in (self.file.readable, self.file.tell, self.file.flush,
                         self.file.read):
            self.assertRaises(ValueError, function)

    def test_release_is_what_takes_time_of_a_close(self):
        self.file.on_close(self.file.log.append, ('undone',))
        self.file.write(b'abc')
        self.file.release()
        self.assertEqual((1, ('flush',)), (self.file.closes,
                                           self.file.log[-1]))
        self.assertRaises(ValueError, self.file.read_at, 0, 1)
        self.file.release()
        self.file.close()
        self.assertEqual((1, [('flush',), ('undone',)]),
                         (self.file.closes, self.file.log[-2:]))

    def test_close_releases_even_if_the_flush_fails(self):
        file = self.faulty('EIO')
        self.assertRaises(volume_file.VolumeIOError, file.close)
        self.assertEqual(1, file.closes)
        self.assertTrue(file.closed)
        file.close()
        self.assertEqual(1, file.closes)
