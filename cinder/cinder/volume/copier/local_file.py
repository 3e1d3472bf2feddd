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

"""A volume that is a device or a file of this host."""

import collections.abc
import ctypes
import errno
import os
import stat

from cinder.volume.copier import volume_file

#: How far the kernel reads ahead of us. Reads are made one at a time; this is
#: what keeps a device with latency busy.
_AHEAD = 32 << 20
#: How long pages stay after they were sent on their way to the storage.
_BEHIND = 32 << 20

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
#: The kernel zeroes a range in one call that can not be interrupted.
_ZERO_STEP = 256 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64,
                            ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class LocalFile(volume_file.VolumeFile):
    """Through the page cache, which is not left full of the volume."""

    def __init__(self, fd: int, name: str, writable: bool) -> None:
        """Take over `fd`.

        :param name: for messages, the path
        """
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._advised = 0
        super().__init__(name, os.lseek(fd, 0, os.SEEK_END), writable)

    @classmethod
    def open(cls, path: str, writable: bool = False) -> 'LocalFile':
        """Open what exists; it is never truncated or made.

        :raises: OSError
        """
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) |
                     os.O_CLOEXEC)
        try:
            return cls(fd, path, writable)
        except BaseException:
            os.close(fd)
            raise

    def extents(self, offset: int = 0, length: int | None = None
                ) -> collections.abc.Iterator[volume_file.Extent]:
        if not self._regular:
            yield from super().extents(offset, length)
            return
        end = self._size if length is None else offset + length
        while offset < end:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                yield volume_file.Extent(offset, data - offset,
                                         volume_file.Kind.HOLE)
            offset = self._seek(data, os.SEEK_HOLE, end)
            if offset > data:
                yield volume_file.Extent(data, offset - data,
                                         volume_file.Kind.DATA)

    def _seek(self, offset: int, whence: int, end: int) -> int:
        """Where data or a hole begins, at `end` at the latest."""
        if offset >= end:
            return end
        try:
            return min(os.lseek(self._fd, offset, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            if error.errno == errno.EINVAL:
                # The file system does not tell: it is all data.
                return offset if whence == os.SEEK_DATA else end
            raise self._error(error, 'seek', offset, end - offset)

    def _read_at(self, offset: int, length: int) -> bytes:
        ahead = min(offset + length + _AHEAD, self._size)
        if not offset <= self._advised < ahead:
            self._advised = offset + length
        if ahead > self._advised:
            os.posix_fadvise(self._fd, self._advised, ahead - self._advised,
                             os.POSIX_FADV_WILLNEED)
            self._advised = ahead
        data = os.pread(self._fd, length, offset)
        os.posix_fadvise(self._fd, offset, len(data), os.POSIX_FADV_DONTNEED)
        return data

    def _write_at(self, offset: int, data: memoryview) -> int:
        count = os.pwrite(self._fd, data, offset)
        # The first starts to write the pages out, the second, later, drops
        # those that are written.
        for start in (offset, offset - _BEHIND):
            if start >= 0:
                os.posix_fadvise(self._fd, start, count,
                                 os.POSIX_FADV_DONTNEED)
        return count

    def _zero_at(self, offset: int, length: int, unmap: bool) -> None:
        while length:
            step = min(length, _ZERO_STEP)
            self._zero_step(offset, step, unmap)
            offset += step
            length -= step

    def _zero_step(self, offset: int, length: int, unmap: bool) -> None:
        # A block device does the same as a file for both of these.
        modes = [_ZERO_RANGE | _KEEP_SIZE]
        if unmap:
            modes.insert(0, _PUNCH_HOLE | _KEEP_SIZE)
        for mode in modes:
            try:
                _fallocate(self._fd, mode, offset, length)
                return
            except OSError as error:
                # EINVAL: not in whole sectors.
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL,
                                       errno.ENOSYS, errno.ENODEV):
                    raise
        super()._zero_at(offset, length, unmap)

    def _discard_at(self, offset: int, length: int) -> None:
        try:
            _fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL,
                                   errno.ENOSYS, errno.ENODEV):
                raise self._error(error, 'discard', offset, length)

    def _flush(self) -> None:
        os.fdatasync(self._fd)

    def _current_size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def forget(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _close(self) -> None:
        os.close(self._fd)
