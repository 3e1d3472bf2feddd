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

import io
import os
import tempfile
from unittest import mock

from cinder import exception
from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import handle_file
from cinder.volume.copier import volume_file
from cinder.volume import volume_utils

MIB = 1 << 20


class ShortHandle(io.RawIOBase):
    """Gives and takes at most a third of what it is asked to."""

    def __init__(self, content=b'', size=0):
        self.content = bytearray(content or bytes(size))
        self.at = 0
        self.flushed = False

    def seek(self, offset, whence=0):
        # As the handle of os-brick's RBD connector: it does not say where.
        self.at = offset

    def read(self, length=-1):
        data = bytes(self.content[self.at:self.at + length // 3 + 1])
        self.at += len(data)
        return data

    def write(self, data):
        part = data[:len(data) // 3 + 1]
        self.content[self.at:self.at + len(part)] = part
        return len(part)

    def flush(self):
        self.flushed = True


class CopyHandlesTestCase(test.TestCase):
    """volume_utils.copy_volume with what is not a path."""

    def setUp(self):
        super().setUp()
        self.data = os.urandom(MIB)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, 'volume')
        # The native threads, which stay, have some of their own.
        self.copy(io.BytesIO(self.data), io.BytesIO())
        self.descriptors = len(os.listdir('/proc/self/fd'))

    def make(self, content):
        with open(self.path, 'wb') as file:
            file.write(content)

    def content(self):
        with open(self.path, 'rb') as file:
            return file.read()

    def copy(self, source, destination, size=1):
        volume_utils.copy_volume(source, destination, size, '1M')

    def test_short_reads_and_writes(self):
        destination = ShortHandle(size=MIB)
        self.copy(ShortHandle(self.data), destination)
        self.assertEqual(self.data, bytes(destination.content))
        self.assertTrue(destination.flushed)

    def test_a_write_may_say_nothing(self):
        destination = io.BytesIO()
        quiet = mock.Mock(wraps=destination, spec=['seek', 'write', 'flush'])
        quiet.write.side_effect = lambda data: destination.write(data) and None
        self.copy(io.BytesIO(self.data), quiet)
        self.assertEqual(self.data, destination.getvalue())

    def test_the_end_before_the_end_is_an_error(self):
        self.assertRaises(volume_file.VolumeEndError, self.copy,
                          io.BytesIO(self.data[:-1]), io.BytesIO())

    def test_a_destination_path_is_neither_truncated_nor_left_open(self):
        self.make(self.data + b'more')

        class Bad(io.RawIOBase):
            def seek(self, offset, whence=0):
                pass

            def read(self, length=-1):
                raise OSError(5, 'EIO')

        self.assertRaises(volume_file.VolumeIOError, self.copy, Bad(),
                          self.path)
        self.assertEqual(MIB + 4, len(self.content()))
        self.assertEqual(self.descriptors, len(os.listdir('/proc/self/fd')))

    def test_from_and_to_a_path(self):
        self.make(bytes(MIB) + b'more')
        self.copy(io.BytesIO(self.data), self.path)
        self.assertEqual(self.data + b'more', self.content())
        back = io.BytesIO()
        self.copy(self.path, back)
        self.assertEqual(self.data, back.getvalue())

    def test_what_is_written_is_synced(self):
        self.make(bytes(MIB))
        with open(self.path, 'r+b') as destination, \
                mock.patch('os.fsync', wraps=os.fsync) as fsync:
            self.copy(io.BytesIO(self.data), destination)
            fsync.assert_called_with(destination.fileno())

    def test_nothing_to_copy_from_or_to(self):
        self.assertRaises(exception.DeviceUnavailable, self.copy, None,
                          io.BytesIO())
        self.assertRaises(exception.DeviceUnavailable, self.copy,
                          io.BytesIO(), '')

    def test_the_clock_may_stand_still(self):
        with mock.patch('time.time', return_value=1.0), \
                mock.patch('time.monotonic', return_value=1.0):
            self.copy(io.BytesIO(self.data), io.BytesIO(bytes(MIB)))

    def test_a_volume_file_stays_open(self):
        file = fakes.MemoryFile(self.data)
        self.copy(file, io.BytesIO())
        self.assertEqual(0, file.closes)

    def test_a_handle_that_gives_no_bytes(self):
        odd = mock.Mock(spec=['seek', 'read'])
        odd.read.return_value = 'text'
        file = handle_file.HandleFile(odd, 10, False)
        self.assertRaises(volume_file.VolumeIOError, file.read_at, 0, 4)
