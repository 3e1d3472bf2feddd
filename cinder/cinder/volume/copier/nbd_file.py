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


"""A volume that an NBD server exports, by libnbd.

libnbd does nothing by itself: it reads and writes its socket while it is asked
to poll, and calls back in the midst of that, when the connection is locked and
no other request can be made. So a callback here only notes what it is told,
and the rest is done once libnbd has returned.
"""

import collections
import collections.abc
import contextlib
import errno
import functools
import math
import os
import socket
import time
import types
import typing as ty

from cinder import exception
from cinder.i18n import _
from cinder.volume.copier import volume_file

#: Bytes of the largest read or write that any server takes, if it does not
#: say so itself.
_LARGEST_TRANSFER = 32 << 20
#: The protocol counts the bytes of a request in 32 bits, also when none are
#: transferred. A power of two below that is aligned for any storage.
_LARGEST_RANGE = 1 << 31
#: Requests in flight for one operation, when the server's limit splits it.
_PARTS_IN_FLIGHT = 4
#: Seconds after which a flush is given up: an array may well need minutes to
#: empty its cache, but a file must not stay open for ever.
_FLUSH_SECONDS = 600.0
#: Bytes that are written again only to have a flush.
_REWRITTEN = 4096
#: Of a poll, as libnbd counts milliseconds in an int.
_LONGEST_POLL = 60.0

#: Makes a request for an offset and a length; the last argument is called by
#: libnbd with an error number in an object, and returns 1 to be rid of the
#: request.
_Begin: ty.TypeAlias = collections.abc.Callable[
    [int, int, collections.abc.Callable[[ty.Any], int]], object]


class NBDModuleMissing(exception.CinderException):
    message = _('libnbd\'s Python module nbd cannot be imported: %(reason)s. '
                'Install it (package python3-libnbd on Debian, Ubuntu and '
                'Fedora).')


def load_nbd() -> types.ModuleType:
    """libnbd's module, which only those need who use this kind of volume.

    :raises: NBDModuleMissing naming the package
    """
    try:
        import nbd
    except ImportError as error:
        raise NBDModuleMissing(reason=error)
    return nbd


def connect(connection: socket.socket, name: str, writable: bool = False,
            timeout: float = 30.0,
            release: collections.abc.Callable[[], None] = lambda: None
            ) -> 'NBDFile':
    """Open the default export of the server at the other end of a socket.

    :param connection: is closed, also in case of an error
    :param name: for messages
    :param timeout: seconds for the server to describe the export
    :param release: called once, when the file has been closed; not in case
        of an error here
    :raises: VolumeIOError; NBDModuleMissing
    """
    with connection:
        nbd = load_nbd()
        handle = nbd.NBD()
        try:
            handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            # Buffers are passed on only when they have been read into.
            handle.set_pread_initialize(False)
            # QEMU also does what is not aligned to the storage's blocks.
            handle.set_strict_mode(handle.get_strict_mode() &
                                   ~nbd.STRICT_ALIGN)
            handle.aio_connect_socket(os.dup(connection.fileno()))
            _negotiate(handle, time.monotonic() + timeout)
            size = handle.get_size()
            read_only = handle.is_read_only()
        except (nbd.Error, TimeoutError) as error:
            # The error's traceback keeps the handle, which has no close().
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            number = getattr(error, 'errnum', errno.ETIMEDOUT) or errno.EIO
            raise volume_file.VolumeIOError(number, 'open', name, 0, 0,
                                            str(error))
    if writable and read_only:
        raise volume_file.VolumeIOError(errno.EROFS, 'open', name, 0, 0)
    return NBDFile(nbd, handle, name, size, writable, release)


def _negotiate(handle: ty.Any, deadline: float) -> None:
    while handle.aio_is_connecting():
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(_('the NBD server does not answer'))
        handle.poll(math.ceil(min(left, _LONGEST_POLL) * 1000))


class _Operation:
    """One operation on the file: a request, or several if it is large."""

    def __init__(self, action: str, offset: int, length: int,
                 parts: collections.abc.Iterator[tuple[int, int]],
                 begin: _Begin, done: volume_file.Done,
                 result: volume_file.Buffer | None = None) -> None:
        self.action = action
        self.offset = offset
        self.length = length
        #: those not yet begun
        self.parts = parts
        self.begin = begin
        self.done = done
        self.result = result
        self.in_flight = 0
        #: the first error: its number and what is known of it
        self.error: tuple[int, str] | None = None


def _parts(offset: int, length: int, largest: int
           ) -> collections.abc.Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        count = min(largest, end - offset)
        yield offset, count
        offset += count


class NBDFile(volume_file.VolumeFile):
    """A volume behind an NBD connection; see :func:`connect`.

    When it is closed while operations are in flight, those end in an error,
    and nothing is flushed.
    """

    # With 16 of them QEMU took up to 20 MiB more, and was no faster.
    in_flight = 12
    # QEMU holds what it reads more than once. Of twice that it took 50 MiB
    # more, in a copy from a LUN that was no faster.
    largest_read = volume_file.BLOCK
    driven = True

    def __init__(self, nbd: types.ModuleType, handle: ty.Any, name: str,
                 size: int, writable: bool,
                 release: collections.abc.Callable[[], None]) -> None:
        """:param handle: a connected ``nbd.NBD``"""
        super().__init__(name, size, writable)
        self._nbd = nbd
        self._handle = handle
        self._release = release
        self._largest = (handle.get_block_size(nbd.SIZE_MAXIMUM) or
                         _LARGEST_TRANSFER)
        self._unflushed = False
        #: why there is no connection any more
        self._broken: tuple[int, str] | None = None
        #: those whose end has not been told
        self._operations: set[_Operation] = set()
        #: what libnbd has told: an operation, one of whose requests has
        #: ended, and the number of the error or 0
        self._answers: collections.deque[tuple[_Operation, int]] = (
            collections.deque())

    # Several operations at once

    def start_read(self, offset: int, length: int,
                   done: volume_file.Done) -> None:
        # Not nbd.Buffer, which would spare filling it with zeros first:
        # libnbd 1.14 never frees what was read into one.
        buffer = bytearray(length)
        view = memoryview(buffer)
        self._start('read', offset, length, self._largest,
                    lambda at, count, ended: self._handle.aio_pread(
                        view[at - offset:at - offset + count], at, ended),
                    done, buffer)

    def start_write(self, offset: int, data: volume_file.Buffer,
                    done: volume_file.Done) -> None:
        view = memoryview(data)
        self._unflushed = True
        self._start('write', offset, len(view), self._largest,
                    lambda at, count, ended: self._handle.aio_pwrite(
                        view[at - offset:at - offset + count], at, ended),
                    done)

    def start_zero(self, offset: int, length: int, done: volume_file.Done,
                   unmap: bool = True) -> None:
        flags = 0 if unmap else self._nbd.CMD_FLAG_NO_HOLE
        self._unflushed = True
        self._start('zeroing', offset, length, _LARGEST_RANGE,
                    lambda at, count, ended: self._handle.aio_zero(
                        count, at, ended, flags),
                    done)

    def written_past(self) -> None:
        # QEMU passes a flush on only if it has written something itself.
        length = min(_REWRITTEN, self._size)
        data = self._in_time(
            lambda done: self.start_read(0, length, done))
        self._in_time(lambda done: self.start_write(0, data, done))

    def idle(self) -> bool:
        return not self._operations

    def drive(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._operations and not self._answers:
            left = max(0.0, deadline - time.monotonic())
            self._poll(left)
            if not left:
                break
        self._settle()

    # One at a time

    def _discard_at(self, offset: int, length: int) -> None:
        if not self._handle.can_trim():
            return
        self._unflushed = True

        def start(offset: int, length: int, done: volume_file.Done) -> None:
            self._start('discard', offset, length, _LARGEST_RANGE,
                        lambda at, count, ended: self._handle.aio_trim(
                            count, at, ended),
                        done)
        self._await(start, offset, length)

    def _flush(self) -> None:
        if not self._unflushed or not self._handle.can_flush():
            return
        self._in_time(lambda done: self._begin(_Operation(
            'flush', 0, self._size, iter([(0, 0)]),
            lambda at, count, told: self._handle.aio_flush(told), done)))
        self._unflushed = False

    def _in_time(self, start: collections.abc.Callable[[volume_file.Done],
                                                       None]) -> ty.Any:
        """What comes of an operation that nothing else limits."""
        ended: list[tuple[BaseException | None, ty.Any]] = []
        start(lambda error, data: ended.append((error, data)))
        deadline = time.monotonic() + _FLUSH_SECONDS
        while not ended:
            if time.monotonic() > deadline:
                self._break(errno.ETIMEDOUT, _('given up after %d seconds') %
                            _FLUSH_SECONDS)
            self.drive(1)
        error, data = ended[0]
        if error:
            raise error
        return data

    def extents(self, offset: int = 0, length: int | None = None
                ) -> collections.abc.Iterator[volume_file.Extent]:
        if length is None:
            length = self._size - offset
        self._check(offset, length, 'read')
        if not self._handle.can_meta_context(
                self._nbd.CONTEXT_BASE_ALLOCATION):
            yield from super().extents(offset, length)
            return
        last: volume_file.Extent | None = None
        for extent in self._server_extents(offset, offset + length):
            # The server begins a new one with each answer, if not oftener.
            if last and last.kind is extent.kind:
                extent = volume_file.Extent(
                    last.offset, extent.end - last.offset, last.kind)
            elif last:
                yield last
            last = extent
        if last:
            yield last

    def _server_extents(self, offset: int, end: int
                        ) -> collections.abc.Iterator[volume_file.Extent]:
        while offset < end:
            length = min(end - offset, _LARGEST_RANGE)
            answer = self._block_status(offset, length)
            for count, flags in zip(answer[::2], answer[1::2]):
                # The last may go on beyond what was asked for.
                count = min(count, end - offset)
                if count:
                    yield volume_file.Extent(offset, count, self._kind(flags))
                offset += count
            if not any(answer[::2]):
                raise volume_file.VolumeIOError(
                    errno.EPROTO, 'block status', self.name, offset, length,
                    _('the server said nothing'))

    def _kind(self, flags: int) -> volume_file.Kind:
        # A hole alone may read as anything.
        if not flags & self._nbd.STATE_ZERO:
            return volume_file.Kind.DATA
        if flags & self._nbd.STATE_HOLE:
            return volume_file.Kind.HOLE
        return volume_file.Kind.ZERO

    def _block_status(self, offset: int, length: int) -> list[int]:
        """Pairs of a length and flags, from `offset` on."""
        entries: list[int] = []

        def told(context: str, at: int, answer: list[int],
                 error: ty.Any) -> int:
            if context == self._nbd.CONTEXT_BASE_ALLOCATION:
                entries.extend(answer)
            return 0

        def start(offset: int, length: int, done: volume_file.Done) -> None:
            self._start('block status', offset, length, _LARGEST_RANGE,
                        lambda at, count, ended:
                            self._handle.aio_block_status(
                                count, at, told, ended),
                        done)
        self._await(start, offset, length)
        return entries

    # The end

    def close(self) -> None:
        try:
            if not self.closed and self._operations:
                self._unflushed = False
                self._break(errno.ECANCELED, _('the file was closed'))
        finally:
            super().close()

    def _close(self) -> None:
        # What is in flight after an error was told already; libnbd drops it.
        self._handle = None
        self._release()

    # Requests

    def _start(self, action: str, offset: int, length: int, largest: int,
               begin: _Begin, done: volume_file.Done,
               result: volume_file.Buffer | None = None) -> None:
        self._check_open()
        if not length:
            done(None, result)
            return
        self._begin(_Operation(action, offset, length,
                               _parts(offset, length, largest), begin, done,
                               result))

    def _begin(self, operation: _Operation) -> None:
        self._operations.add(operation)
        self._go_on(operation)

    def _go_on(self, operation: _Operation) -> None:
        """Make the next requests of an operation."""
        while (operation.in_flight < _PARTS_IN_FLIGHT and
                not operation.error):
            part = next(operation.parts, None)
            if part is None:
                return
            operation.in_flight += 1
            if self._broken:
                self._answers.append((operation, self._broken[0]))
                continue
            try:
                operation.begin(*part, functools.partial(self._told,
                                                         operation))
            except self._nbd.Error as error:
                operation.error = error.errnum or errno.EIO, error.string
                # Told with what libnbd tells, not in the midst of a start.
                self._answers.append((operation, operation.error[0]))

    def _told(self, operation: _Operation, error: ty.Any) -> int:
        self._answers.append((operation, error.value))
        return 1

    def _poll(self, timeout: float) -> None:
        try:
            self._handle.poll(math.ceil(min(timeout, _LONGEST_POLL) * 1000))
        except self._nbd.Error as error:
            self._break(error.errnum or errno.ECONNRESET, error.string)

    def _settle(self) -> None:
        """Tell those whose operations have ended."""
        while self._answers:
            operation, number = self._answers.popleft()
            if operation not in self._operations:
                continue
            operation.in_flight -= 1
            if number and not operation.error:
                operation.error = self._broken or (number, '')
            self._go_on(operation)
            # After an error, requests for its other parts may still be
            # reading into the buffer or writing from it.
            if not operation.in_flight:
                self._tell(operation)

    def _break(self, number: int, reason: str) -> None:
        """Do without the connection; what is in flight has failed."""
        if not self._broken:
            self._broken = number, reason
        self._settle()
        while self._operations:
            operation = next(iter(self._operations))
            operation.error = operation.error or self._broken
            self._tell(operation)

    def _tell(self, operation: _Operation) -> None:
        self._operations.remove(operation)
        if operation.error is None:
            operation.done(None, operation.result)
            return
        number, reason = operation.error
        operation.done(volume_file.VolumeIOError(
            number, operation.action, self.name, operation.offset,
            operation.length, reason), None)
