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

"""A volume as a file.

What a driver's ``open_volume`` returns: an ``io.RawIOBase`` that in addition
tells which parts of the volume hold data, can make parts of it read as zeros,
and can have several reads and writes in flight.

A subclass overrides either the simple methods (``_read_at`` and the like,
which may transfer less than they are asked to) or the ones that start an
operation (``start_read`` and the like).

The volume service may run under eventlet, which replaces Python's locks,
threads and polling by ones that must not be used from a native thread. What is
here is called in native threads, and librbd and libnbd call back in threads of
their own: use ``_queue.SimpleQueue``, which eventlet does not replace, and
nothing from ``threading``, ``select`` or ``queue``.
"""

import _queue
import collections.abc
import contextlib
import dataclasses
import enum
import errno
import functools
import io
import os
import typing as ty

from cinder.i18n import _

Buffer: ty.TypeAlias = bytes | bytearray | memoryview
#: Told the end of an operation, exactly once, from any thread and perhaps
#: before the call that started it returns: an error, or None and what a read
#: gave.
Done: ty.TypeAlias = collections.abc.Callable[
    [BaseException | None, Buffer | None], None]
#: Bytes of most reads and writes. With 4 MiB a copy from an RBD image took
#: more than twice the memory and was no faster; a LUN was read slower.
BLOCK = 1 << 20


class Kind(enum.Enum):
    """What a part of a volume is known to hold."""

    DATA = 'data'
    #: reads as zeros; space may be allocated for it
    ZERO = 'zero'
    #: reads as zeros; nothing is allocated
    HOLE = 'hole'


@dataclasses.dataclass(frozen=True)
class Extent:
    """Part of a volume, in bytes."""

    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.offset + self.length


class VolumeOpenError(OSError):
    """A volume can not be opened; says which, and what is wrong."""

    def __init__(self, number: int, name: str, reason: str) -> None:
        super().__init__(number, _('can not open %(name)s: %(reason)s') % {
            'name': name, 'reason': reason})


class VolumeIOError(OSError):
    """An operation on a volume failed; says on which bytes.

    :ivar offset: first byte that was asked for
    :ivar length: how many were asked for
    """

    def __init__(self, number: int, action: str, name: str, offset: int,
                 length: int, reason: str = '') -> None:
        self.offset = offset
        self.length = length
        super().__init__(number, _(
            '%(action)s of %(length)d bytes at %(offset)d of %(name)s failed: '
            '%(reason)s') % {
                'action': action, 'length': length, 'offset': offset,
                'name': name, 'reason': reason or os.strerror(number)})


class VolumeEndError(VolumeIOError):
    """The volume ended, or took no more, before all bytes were through."""


class VolumeFile(io.RawIOBase):
    """A volume that is open.

    Reads and writes by position are complete or raise
    :class:`VolumeIOError`. Those of ``io.RawIOBase``, by the file's own
    position, end at the volume's end as a file's do, but a write beyond it
    raises ENOSPC: a volume does not grow.

    An object is used by one thread at a time.
    """

    #: How many operations at once are of use.
    in_flight: int = 1
    #: Bytes that each is to have, if this is a destination, and the source
    #: may be read in as large ones.
    block: int = BLOCK
    #: Bytes that each may have, if this is a source.
    largest_read: int = 1 << 30
    #: Whether the storage itself says how large it is. A device of an
    #: initiator may be known with a size that it had once.
    size_is_current: bool = False
    #: Whether operations go on only while :meth:`drive` is called.
    driven: bool = False
    #: How QEMU opens the same, if it can: a block node, and secrets by their
    #: ids in it.
    qemu: tuple[dict[str, ty.Any], dict[str, str | bytes]] | None = None

    def __init__(self, name: str, size: int, writable: bool) -> None:
        """Describe it.

        :param name: for messages
        :param size: in bytes
        """
        super().__init__()
        self.name = name
        self._size = size
        self._writable = writable
        self._position = 0
        self._released = False
        self._exits: list[collections.abc.Callable[[], ty.Any]] = []

    # What a subclass gives

    def _read_at(self, offset: int, length: int) -> Buffer:
        """Read up to `length` bytes; nothing means the end."""
        raise NotImplementedError

    def _write_at(self, offset: int, data: memoryview) -> int:
        """Write some of `data`, and return how many bytes of it."""
        raise NotImplementedError

    def _zero_at(self, offset: int, length: int, unmap: bool) -> None:
        """Make all of it read as zeros, freeing the space if `unmap`."""
        zeros = memoryview(bytes(min(length, 1 << 20)))
        end = offset + length
        while offset < end:
            self._write_all(offset, zeros[:end - offset])
            offset += min(len(zeros), end - offset)

    def _flush(self) -> None:
        """Make what was written durable."""

    def _current_size(self) -> int:
        """The size now, if somebody else may have changed it."""
        return self._size

    def check(self) -> None:
        """See that it did not become smaller since it was opened.

        What is cut off may read as zeros for a while.

        :raises: VolumeEndError
        """
        size = self._current_size()
        if size < self._size:
            raise VolumeEndError(errno.EIO, 'read', self.name, 0, self._size,
                                 _('only %d bytes are left of it') % size)

    def written_past(self) -> None:
        """Hear that others have written to it, which a flush is to keep.

        :raises: VolumeIOError
        """

    def killed_beside(self) -> None:
        """Wait until no one thinks that a killed process has it open."""

    def forget(self) -> None:
        """Let go of what is cached, so that a read asks the storage."""

    def _discard_at(self, offset: int, length: int) -> None:
        """Free the space if possible; what is read then is anyone's guess."""

    def _close(self) -> None:
        """Release everything; called once, also after failures."""

    def extents(self, offset: int = 0, length: int | None = None
                ) -> collections.abc.Iterator[Extent]:
        """What the parts of a range hold, in order, without a gap.

        :raises: VolumeIOError
        """
        end = self._size if length is None else offset + length
        if end > offset:
            yield Extent(offset, end - offset, Kind.DATA)

    # Several operations at once

    def start_read(self, offset: int, length: int, done: Done) -> None:
        """Read exactly `length` bytes."""
        self._now(done, 'read', offset, length, self._read_all, length)

    def start_write(self, offset: int, data: Buffer, done: Done) -> None:
        """Write all of `data`, which must not change before the end."""
        self._now(done, 'write', offset, len(data), self._write_all,
                  memoryview(data))

    def start_zero(self, offset: int, length: int, done: Done,
                   unmap: bool = True) -> None:
        """Make a range read as zeros."""
        self._now(done, 'zeroing', offset, length, self._zero_at, length,
                  unmap)

    def drive(self, timeout: float) -> None:
        """Let what is in flight go on for up to `timeout` seconds.

        Only of use if :attr:`driven`; returns as soon as something ended.
        """

    def idle(self) -> bool:
        """Whether nothing is in flight that :meth:`drive` would let go on."""
        return True

    def _now(self, done: Done, action: str, offset: int, length: int,
             function: collections.abc.Callable[..., ty.Any],
             *args: ty.Any) -> None:
        """Do it at once, for storage that knows no other way."""
        try:
            result = function(offset, *args)
        except Exception as error:
            done(self._error(error, action, offset, length), None)
        else:
            done(None, result)

    def _error(self, error: Exception, action: str, offset: int,
               length: int) -> VolumeIOError:
        """`error`, saying which bytes it is about."""
        if isinstance(error, VolumeIOError):
            return error
        number = getattr(error, 'errno', None)
        failure = VolumeIOError(
            abs(number) if isinstance(number, int) and number else errno.EIO,
            action, self.name, offset, length, str(error))
        failure.__cause__ = error
        return failure

    # One at a time

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read_at(self, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes.

        :raises: VolumeIOError; VolumeEndError if there are fewer
        """
        self._check(offset, length, 'read')
        return ty.cast(Buffer, self._await(self.start_read, offset, length))

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data`.

        :raises: VolumeIOError
        """
        self._check(offset, len(data), 'write')
        self._await(self.start_write, offset, data)

    def write_zeroes(self, offset: int, length: int,
                     unmap: bool = True) -> None:
        """Make a range read as zeros.

        :param unmap: free the space if the storage can
        :raises: VolumeIOError
        """
        self._check(offset, length, 'zeroing')

        def start(offset: int, length: int, done: Done) -> None:
            self.start_zero(offset, length, done, unmap)
        self._await(start, offset, length)

    def discard(self, offset: int, length: int) -> None:
        """Tell the storage that a range is not needed; it may ignore that."""
        self._check(offset, length, 'discard')
        self._discard_at(offset, length)

    def _await(self, start: collections.abc.Callable[..., None],
               offset: int, argument: ty.Any) -> Buffer | None:
        ended: _queue.SimpleQueue = _queue.SimpleQueue()
        start(offset, argument, lambda error, data: ended.put((error, data)))
        while True:
            try:
                error, data = ended.get(block=not self.driven)
                break
            except _queue.Empty:
                self.drive(1)
        if error:
            raise error
        return data

    def _check(self, offset: int, length: int, action: str) -> None:
        self._check_open()
        if action != 'read' and not self._writable:
            raise VolumeIOError(errno.EBADF, action, self.name, offset,
                                length, _('opened read-only'))
        if offset < 0 or length < 0 or offset + length > self._size:
            raise VolumeEndError(
                errno.EINVAL if action == 'read' else errno.ENOSPC, action,
                self.name, offset, length,
                _('the volume has %d bytes') % self._size)

    def _check_open(self) -> None:
        if self.closed or self._released:
            raise ValueError(_('%s is closed') % self.name)

    def _read_all(self, offset: int, length: int) -> Buffer:
        data = self._read_at(offset, length)
        if len(data) == length:
            return data
        whole = bytearray(data)
        while len(whole) < length:
            if not data:
                raise VolumeEndError(
                    errno.EIO, 'read', self.name, offset, length,
                    _('the source ended after %d bytes') % len(whole))
            data = self._read_at(offset + len(whole), length - len(whole))
            whole += data
        if len(whole) > length:
            raise VolumeIOError(errno.EIO, 'read', self.name, offset, length,
                                _('more bytes came than were asked for'))
        return whole

    def _write_all(self, offset: int, data: memoryview) -> None:
        written = 0
        while written < len(data):
            count = self._write_at(offset + written, data[written:])
            if not 0 < count <= len(data) - written:
                raise VolumeEndError(
                    errno.ENOSPC, 'write', self.name, offset, len(data),
                    _('only %d bytes were taken') % written)
            written += count

    # io.RawIOBase

    def readable(self) -> bool:
        self._check_open()
        return True

    def writable(self) -> bool:
        self._check_open()
        return self._writable

    def seekable(self) -> bool:
        self._check_open()
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position,
                   os.SEEK_END: self._size}
        if whence not in origins or origins[whence] + offset < 0:
            raise VolumeIOError(errno.EINVAL, 'seek', self.name, offset, 0)
        self._position = origins[whence] + offset
        return self._position

    def readinto(self, buffer: ty.Any) -> int:
        self._check_open()
        view = memoryview(buffer).cast('B')
        length = max(0, min(len(view), self._size - self._position))
        if length:
            view[:length] = self.read_at(self._position, length)
            self._position += length
        return length

    def write(self, data: ty.Any) -> int:
        view = memoryview(data).cast('B')
        self.write_at(self._position, view)
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        raise io.UnsupportedOperation(_('a volume has a fixed size'))

    def flush(self) -> None:
        """Make everything written durable.

        :raises: VolumeIOError
        """
        super().flush()
        if self._writable and not self._released:
            try:
                self._flush()
            except Exception as error:
                raise self._error(error, 'flush', 0, self._size)

    def release(self) -> None:
        """Flush, and let go of the storage even if that fails.

        This is the part of :meth:`close` that may take its time; what
        :meth:`on_close` was given is not called yet.

        :raises: VolumeIOError
        """
        if self._released:
            return
        try:
            self.flush()
        finally:
            self._released = True
            self._close()

    def close(self) -> None:
        """Flush, and release everything even if that fails."""
        if self.closed:
            return
        with contextlib.ExitStack() as stack:
            for function in reversed(self._exits):
                stack.callback(function)
            try:
                self.release()
            finally:
                super().close()

    def on_close(self, function: collections.abc.Callable[..., ty.Any],
                 *args: ty.Any) -> None:
        """Call `function` when this is closed, whatever fails before it.

        The first one given is called first: what was opened last, and
        nearest to the file, is given first.
        """
        self._exits.append(functools.partial(function, *args))
