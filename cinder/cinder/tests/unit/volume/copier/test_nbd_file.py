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


import collections
import errno
import importlib.util
import signal
import socket
import struct
import sys
import typing as ty
import unittest
from unittest import mock

from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import engine
from cinder.volume.copier import nbd_file
from cinder.volume.copier import volume_file

HAS_FLAGS, READ_ONLY, CAN_FLUSH, CAN_TRIM, CAN_ZERO = 1, 2, 4, 32, 64
ALL = HAS_FLAGS | CAN_FLUSH | CAN_TRIM | CAN_ZERO
READ, WRITE, FLUSH, TRIM, ZERO = 0, 1, 3, 4, 6
NO_HOLE = 2
MIB = 1 << 20


class Request(ty.NamedTuple):
    flags: int
    kind: int
    cookie: int
    offset: int
    length: int
    data: bytes

    @property
    def what(self) -> tuple[int, int, int]:
        return self.kind, self.offset, self.length


class Server:
    """The other end of a connection, which answers when it is told to.

    It greets in the protocol's old style, for which nothing need be asked.
    """

    def __init__(self, size: int = MIB, flags: int = ALL) -> None:
        self.socket, self.client = socket.socketpair()
        self.socket.settimeout(5)
        self.socket.sendall(b'NBDMAGIC' + struct.pack(
            '>QQHH124x', 0x00420281861253, size, 0, flags))

    def request(self) -> Request:
        magic, *fields = struct.unpack('>IHHQQI', self._receive(28))
        assert magic == 0x25609513
        data = self._receive(fields[-1]) if fields[1] == WRITE else b''
        return Request(*fields, data)

    def _receive(self, length: int) -> bytes:
        data = b''
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more
            data += more
        return data

    def answer(self, request: Request, number: int = 0,
               data: bytes = b'') -> None:
        self.socket.sendall(struct.pack('>IIQ', 0x67446698, number,
                                        request.cookie) + data)

    def silent(self) -> bool:
        """Whether nothing was asked beyond what was read."""
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(5)

    def close(self) -> None:
        self.socket.close()
        self.client.close()


@unittest.skipUnless(importlib.util.find_spec('nbd'),
                     'needs the Python module nbd (package python3-libnbd)')
class NBDFileTestCase(test.TestCase):
    """Against a server whose every answer is the test's."""

    def setUp(self):
        super().setUp()
        self.server = Server()
        self.addCleanup(self.server.close)
        #: tag -> each end that was told: an error or what was read
        self.ends = collections.defaultdict(list)
        self.released = []

    def _open(self, server: Server | None = None,
              writable: bool = True) -> nbd_file.NBDFile:
        self.file = nbd_file.connect(
            (server or self.server).client, 'vol', writable, 5,
            lambda: self.released.append(True))
        self.addCleanup(self._close)
        return self.file

    def _close(self) -> None:
        self.server.close()
        try:
            self.file.close()
        except volume_file.VolumeIOError:
            pass

    def _told(self, tag: ty.Any) -> volume_file.Done:
        return lambda error, data: self.ends[tag].append(error or data)

    def _drive(self) -> None:
        """Take in all that the server has said."""
        for _i in range(20):
            self.file.drive(0)

    def _one_at_a_time(self, call: ty.Callable[..., ty.Any], *args: ty.Any
                       ) -> list[Request]:
        """What a call asks for; each request is answered at once."""
        asked: list[Request] = []
        drive = self.file.drive

        def answering(timeout: float) -> None:
            asked.append(self.server.request())
            self.server.answer(asked[-1])
            drive(timeout)
        with mock.patch.object(self.file, 'drive', answering):
            call(*args)
        return asked

    def test_a_copy_reads_no_more_at_once_than_QEMU_is_to_hold(self):
        self.server.close()
        self.server = Server(2 * MIB)
        file = self._open(writable=False)
        destination = fakes.MemoryFile(bytes(2 * MIB))
        destination.block = 2 * MIB
        sizes = []

        def read(offset, length, done):
            sizes.append(length)
            done(None, b'x' * length)

        file.start_read = read
        engine.copy(file, destination, file.size)
        self.assertEqual([MIB, MIB], sizes)

    def test_answers_out_of_order(self):
        volume = self._open()
        for offset in 0, 4096, 8192:
            volume.start_read(offset, 4, self._told(offset))
        requests = [self.server.request() for _i in range(3)]
        self.assertEqual([(READ, 0, 4), (READ, 4096, 4), (READ, 8192, 4)],
                         [request.what for request in requests])
        for request in reversed(requests):
            self.server.answer(request, data=b'%4d' % request.offset)
        self._drive()
        self.assertEqual({0: [b'   0'], 4096: [b'4096'], 8192: [b'8192']},
                         self.ends)

    def test_drive_returns_as_soon_as_something_ended(self):
        volume = self._open()
        volume.start_read(0, 4, self._told('a'))
        volume.start_read(4, 4, self._told('b'))
        self.server.answer(self.server.request(), data=b'abcd')
        # Would reach the test's time limit.
        while not self.ends:
            volume.drive(10000)
        self.assertEqual({'a': [b'abcd']}, self.ends)

    def test_drive_without_operations_does_not_wait(self):
        self._open().drive(10000)

    def test_start_in_the_midst_of_a_done(self):
        volume = self._open()

        def done(error: BaseException | None, data: ty.Any) -> None:
            volume.start_read(4, 4, self._told('second'))
        volume.start_read(0, 4, done)
        self.server.answer(self.server.request(), data=b'abcd')
        self._drive()
        self.server.answer(self.server.request(), data=b'efgh')
        self._drive()
        self.assertEqual({'second': [b'efgh']}, self.ends)

    def test_what_was_read_is_freed(self):
        volume = self._open()
        volume.start_read(0, 4096, self._told('read'))
        self.server.answer(self.server.request(), data=bytes(4096))
        self._drive()
        data = self.ends.pop('read').pop()
        # By the variable and the call.
        self.assertEqual(2, sys.getrefcount(data))

    def test_write_sends_the_bytes(self):
        volume = self._open()
        whole = bytearray(b'0123456789')
        volume.start_write(512, memoryview(whole)[2:6], self._told('write'))
        request = self.server.request()
        self.assertEqual((WRITE, 512, 4), request.what)
        self.assertEqual(b'2345', request.data)
        self.assertEqual({}, self.ends)
        self.server.answer(request)
        self._drive()
        self.assertEqual({'write': [None]}, self.ends)

    @mock.patch.object(nbd_file, '_LARGEST_TRANSFER', 1000)
    def test_large_reads_are_split(self):
        volume = self._open()
        volume.start_read(100, 6500, self._told('read'))
        pattern = bytes(i % 251 for i in range(MIB))
        asked = []
        while not self.ends:
            request = self.server.request()
            asked.append((request.offset, request.length))
            self.server.answer(request, data=pattern[
                request.offset:request.offset + request.length])
            self._drive()
        self.assertEqual([(100 + i * 1000, 1000) for i in range(6)] +
                         [(6100, 500)], asked)
        self.assertEqual({'read': [pattern[100:6600]]}, self.ends)

    @mock.patch.object(nbd_file, '_LARGEST_TRANSFER', 1000)
    def test_large_writes_are_split(self):
        volume = self._open()
        data = bytes(i % 251 for i in range(5400))
        asked = self._one_at_a_time(volume.write_at, 3, data)
        self.assertEqual([(WRITE, 3 + i * 1000, 1000) for i in range(5)] +
                         [(WRITE, 5003, 400)],
                         [request.what for request in asked])
        self.assertEqual(data, b''.join(request.data for request in asked))

    @mock.patch.object(nbd_file, '_LARGEST_TRANSFER', 1000)
    def test_an_error_waits_for_the_other_parts(self):
        # They still use the buffer.
        volume = self._open()
        volume.start_read(0, 9000, self._told('read'))
        first, *others = [self.server.request() for _i in range(4)]
        self.server.answer(first, errno.EIO)
        self._drive()
        self.assertEqual({}, self.ends)
        for request in others:
            self.server.answer(request, data=bytes(1000))
        self._drive()
        [error] = self.ends['read']
        self.assertIsInstance(error, volume_file.VolumeIOError)
        self.assertEqual((errno.EIO, 0, 9000),
                         (error.errno, error.offset, error.length))
        # And there are no more of them.
        self.assertTrue(self.server.silent())

    def test_an_error_says_what_failed(self):
        volume = self._open()
        volume.start_write(4096, bytes(512), self._told('write'))
        self.server.answer(self.server.request(), errno.ENOSPC)
        self._drive()
        [error] = self.ends['write']
        self.assertEqual((errno.ENOSPC, 4096, 512),
                         (error.errno, error.offset, error.length))
        self.assertIn('write of 512 bytes at 4096 of vol', str(error))

    def test_connection_that_dies(self):
        volume = self._open()
        for offset in range(0, 8192, 512):
            volume.start_read(offset, 512, self._told(offset))
        request = self.server.request()
        self.server.answer(request, data=b'y' * 512)
        self.server.socket.close()
        self._drive()
        self.assertEqual([b'y' * 512], self.ends.pop(0))
        self.assertEqual(15, len(self.ends))
        for offset, ends in self.ends.items():
            [error] = ends
            self.assertIsInstance(error, volume_file.VolumeIOError)
            self.assertEqual(offset, error.offset)
        self.ends.clear()
        # What begins now fails as well, when it is driven.
        volume.start_write(0, bytes(512), self._told('late'))
        self.assertEqual({}, self.ends)
        self._drive()
        [error] = self.ends['late']
        self.assertIsInstance(error, volume_file.VolumeIOError)
        self.assertRaises(volume_file.VolumeIOError, volume.read_at, 0, 1)

    def test_close_tells_that_what_was_written_may_be_lost(self):
        volume = self._open()
        volume.start_write(0, bytes(512), self._told('write'))
        self.server.answer(self.server.request())
        self._drive()
        self.server.socket.close()
        self.assertRaises(volume_file.VolumeIOError, volume.close)
        self.assertEqual([True], self.released)
        volume.close()
        self.assertEqual([True], self.released)

    def test_close_with_operations_in_flight(self):
        volume = self._open()
        volume.start_write(0, bytes(512), self._told('write'))
        volume.start_read(0, 512, self._told('read'))
        volume.start_zero(0, 512, self._told('zero'))
        requests = [self.server.request() for _i in range(3)]
        volume.close()
        self.assertEqual([True], self.released)
        self.assertEqual({'write', 'read', 'zero'}, set(self.ends))
        for ends in self.ends.values():
            [error] = ends
            self.assertEqual(errno.ECANCELED, error.errno)
        # No flush was asked for, which might never be answered.
        self.assertTrue(self.server.silent())
        self.assertEqual(3, len(requests))
        self.assertRaises(ValueError, volume.start_read, 0, 1,
                          self._told('late'))

    def test_release_although_a_done_raises(self):
        volume = self._open()

        def done(error: BaseException | None, data: ty.Any) -> None:
            raise RuntimeError
        volume.start_read(0, 512, done)
        self.assertRaises(RuntimeError, volume.close)
        self.assertEqual([True], self.released)
        self.assertTrue(volume.closed)

    def test_zero_keeps_or_frees_the_space(self):
        volume = self._open()
        [request] = self._one_at_a_time(volume.write_zeroes, 512, 4096)
        self.assertEqual((ZERO, 512, 4096), request.what)
        self.assertEqual(0, request.flags)
        [request] = self._one_at_a_time(volume.write_zeroes, 0, 512, False)
        self.assertEqual(NO_HOLE, request.flags)

    def test_zero_beyond_32_bits(self):
        self.server.close()
        self.server = Server(size=9 << 30)
        volume = self._open()
        asked = self._one_at_a_time(volume.write_zeroes, 0, 9 << 30)
        self.assertEqual([2 << 30] * 4 + [1 << 30],
                         [request.length for request in asked])

    def test_discard(self):
        volume = self._open()
        [request] = self._one_at_a_time(volume.discard, 512, 4096)
        self.assertEqual((TRIM, 512, 4096), request.what)

    def test_discard_that_the_server_lacks(self):
        self.server.close()
        self.server = Server(flags=HAS_FLAGS)
        self._open().discard(512, 4096)
        self.assertTrue(self.server.silent())

    def test_flush_only_after_writes(self):
        volume = self._open()
        volume.flush()
        self.assertTrue(self.server.silent())
        self._one_at_a_time(volume.write_at, 0, b'x')
        [request] = self._one_at_a_time(volume.flush)
        self.assertEqual(FLUSH, request.kind)
        volume.close()
        self.assertTrue(self.server.silent())

    def test_written_past_by_others(self):
        """What is there is written once more, for a flush to be passed on."""
        volume = self._open()
        drive, asked = volume.drive, []

        def answering(timeout: float) -> None:
            request = self.server.request()
            asked.append(request.what)
            kept.append(request.data)
            self.server.answer(request, data=b'x' * 4096
                               if request.what[0] == READ else b'')
            drive(timeout)
        kept: list[ty.Any] = []
        with mock.patch.object(volume, 'drive', answering):
            volume.written_past()
            volume.flush()
        self.assertEqual([(READ, 0, 4096), (WRITE, 0, 4096)], asked[:2])
        self.assertEqual(b'x' * 4096, bytes(kept[1]))
        self.assertEqual(3, len(asked))

    def test_written_past_has_an_end(self):
        self.mock_object(nbd_file, '_FLUSH_SECONDS', 0)
        error = self.assertRaises(volume_file.VolumeIOError,
                                  self._open().written_past)
        self.assertEqual(errno.ETIMEDOUT, error.errno)

    def test_flush_that_fails_is_tried_again(self):
        volume = self._open()
        self._one_at_a_time(volume.write_at, 0, b'x')
        with mock.patch.object(volume, '_poll') as poll:
            poll.side_effect = lambda timeout: (
                self.server.answer(self.server.request(), errno.EIO),
                nbd_file.NBDFile._poll(volume, 1))
            self.assertRaises(volume_file.VolumeIOError, volume.flush)
        [request] = self._one_at_a_time(volume.close)
        self.assertEqual(FLUSH, request.kind)

    @mock.patch.object(nbd_file, '_FLUSH_SECONDS', 0.1)
    def test_flush_has_an_end(self):
        volume = self._open()
        self._one_at_a_time(volume.write_zeroes, 0, 512)
        error = self.assertRaises(volume_file.VolumeIOError, volume.close)
        self.assertEqual(errno.ETIMEDOUT, error.errno)
        self.assertEqual([True], self.released)

    def test_nothing_to_do(self):
        volume = self._open()
        volume.start_read(0, 0, self._told('read'))
        volume.start_zero(0, 0, self._told('zero'))
        self.assertEqual({'read': [b''], 'zero': [None]}, self.ends)

    def test_no_block_status(self):
        volume = self._open()
        self.assertEqual(
            [volume_file.Extent(5, 100, volume_file.Kind.DATA)],
            list(volume.extents(5, 100)))
        self.assertRaises(volume_file.VolumeEndError, list,
                          volume.extents(0, MIB + 1))

    def test_a_signal_is_no_error(self):
        volume = self._open()
        volume.start_read(0, 4, self._told('read'))
        caught = []
        before = signal.signal(signal.SIGALRM,
                               lambda number, frame: caught.append(number))
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        volume.drive(0.2)
        self.assertEqual([signal.SIGALRM], caught)
        self.server.answer(self.server.request(), data=b'abcd')
        self._drive()
        self.assertEqual({'read': [b'abcd']}, self.ends)

    def test_read_only_export(self):
        self.server.close()
        self.server = Server(flags=HAS_FLAGS | READ_ONLY)
        error = self.assertRaises(volume_file.VolumeIOError, self._open)
        self.assertEqual(errno.EROFS, error.errno)

    def test_opened_read_only(self):
        volume = self._open(writable=False)
        self.assertRaises(volume_file.VolumeIOError, volume.write_at, 0, b'x')
        self.assertTrue(self.server.silent())

    def test_server_that_never_answers(self):
        mine, other = socket.socketpair()
        self.addCleanup(mine.close)
        error = self.assertRaises(volume_file.VolumeIOError,
                                  nbd_file.connect, other, 'vol', False, 0.1)
        self.assertEqual(errno.ETIMEDOUT, error.errno)
        # Closed at this end.
        self.assertEqual(b'', mine.recv(1))

    def test_server_that_is_none(self):
        mine, other = socket.socketpair()
        self.addCleanup(mine.close)
        mine.sendall(b'x' * 200)
        self.assertRaises(volume_file.VolumeIOError, nbd_file.connect, other,
                          'vol', False, 5)


class NBDModuleTestCase(test.TestCase):

    def test_missing(self):
        mine, other = socket.socketpair()
        self.addCleanup(mine.close)
        with mock.patch.dict(sys.modules, nbd=None):
            error = self.assertRaises(nbd_file.NBDModuleMissing,
                                      nbd_file.connect, other, 'vol')
        self.assertIn('python3-libnbd', str(error))
        self.assertEqual(b'', mine.recv(1))
