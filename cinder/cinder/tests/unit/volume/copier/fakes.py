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

"""A volume in memory whose operations end late, out of order, or badly."""

import collections.abc
import errno
import random
import typing as ty

from cinder.volume.copier import volume_file


class Killed(BaseException):
    """The process is gone."""


class MemoryFile(volume_file.VolumeFile):
    """Keeps what was written and flushed apart from what was not.

    :ivar content: what is read
    :ivar durable: what is left after a crash, in the worst case
    :ivar log: what was asked of it, in order
    """

    def __init__(self, content: bytes, writable: bool = True,
                 extents: list[volume_file.Extent] | None = None,
                 in_flight: int = 1) -> None:
        super().__init__(name='memory', size=len(content),
                         writable=writable)
        self.content = bytearray(content)
        self.durable = bytes(content)
        self.in_flight = in_flight
        self.known = extents
        self.log: list[tuple[ty.Any, ...]] = []
        self.closes = 0

    def extents(self, offset: int = 0, length: int | None = None
                ) -> collections.abc.Iterator[volume_file.Extent]:
        end = self.size if length is None else offset + length
        if self.known is None:
            yield from super().extents(offset, length)
            return
        for extent in self.known:
            begin, stop = max(extent.offset, offset), min(extent.end, end)
            if begin < stop:
                yield volume_file.Extent(begin, stop - begin, extent.kind)

    def _read_at(self, offset: int, length: int) -> volume_file.Buffer:
        self.log.append(('read', offset, length))
        return bytes(self.content[offset:offset + length])

    def _write_at(self, offset: int, data: memoryview) -> int:
        self.log.append(('write', offset, len(data)))
        self.content[offset:offset + len(data)] = data
        return len(data)

    def _zero_at(self, offset: int, length: int, unmap: bool) -> None:
        self.log.append(('zero', offset, length))
        self.content[offset:offset + length] = bytes(length)

    def _flush(self) -> None:
        self.log.append(('flush',))
        self.durable = bytes(self.content)

    def _close(self) -> None:
        self.closes += 1


class FaultyFile(MemoryFile):
    """Does as a schedule says.

    :ivar choose: called with what is to be chosen from, for each operation
    """

    driven = True

    def __init__(self, content: bytes, choose: collections.abc.Callable[
            [collections.abc.Sequence[str]], str], delayed: bool = True,
            **kwargs: ty.Any) -> None:
        super().__init__(content, **kwargs)
        self.choose = choose
        self.driven = delayed
        self._waiting: list[collections.abc.Callable[[], None]] = []
        self._order = random.Random(len(content))

    def _fault(self, *others: str) -> str:
        fault = self.choose(('none', 'EIO', 'kill') + others)
        if fault == 'EIO':
            raise OSError(errno.EIO, 'injected')
        if fault == 'kill':
            raise Killed()
        return fault

    def _read_at(self, offset: int, length: int) -> volume_file.Buffer:
        fault = self._fault('short', 'end', 'long')
        data = bytes(super()._read_at(offset, length))
        damaged = {'short': data[:length // 2 + 1], 'end': b'',
                   'long': data + b'!'}
        return damaged.get(fault, data)

    def _write_at(self, offset: int, data: memoryview) -> int:
        fault = self._fault('short', 'nothing', 'ENOSPC')
        if fault == 'ENOSPC':
            raise OSError(errno.ENOSPC, 'injected')
        if fault == 'nothing':
            return 0
        part = data[:len(data) // 2 + 1] if fault == 'short' else data
        return super()._write_at(offset, part)

    def _zero_at(self, offset: int, length: int, unmap: bool) -> None:
        self._fault()
        super()._zero_at(offset, length, unmap)

    def _flush(self) -> None:
        self._fault()
        super()._flush()

    def _now(self, done: volume_file.Done, *args: ty.Any) -> None:
        if not self.driven:
            super()._now(done, *args)
            return
        self._waiting.append(
            lambda: super(FaultyFile, self)._now(done, *args))

    def idle(self) -> bool:
        return not self._waiting

    def drive(self, timeout: float) -> None:
        # Some end while nobody waits.
        if self._waiting and (timeout or not self._order.randrange(3)):
            at = self._order.randrange(len(self._waiting))
            self._waiting.pop(at)()
