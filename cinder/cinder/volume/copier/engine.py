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

"""The one copier of volumes.

It asks the source what it holds, keeps several blocks in flight, leaves out
what need not be written, and returns only when every byte of the length is in
the destination and was flushed there. Anything else is an exception.

It runs in one thread, of whatever kind: see :mod:`.volume_file`.
"""

import _queue
import array
import collections
import collections.abc
import ctypes
import dataclasses
import enum
import hashlib
import random
import time
import typing as ty

from cinder.i18n import _
from cinder.volume.copier import limits
from cinder.volume.copier import volume_file

#: Blocks at once.
IN_FLIGHT = 16
#: Zeros are looked for in runs of this size, the granularity of discards on
#: most storage.
_GRAIN = 64 << 10
_ZERO_GRAIN = bytes(_GRAIN)
#: Largest range zeroed by one operation.
_ZERO_STEP = 64 << 20
#: One block in so many is verified by a sampled verification.
_SAMPLE = 64
_DIGEST_BYTES = 16
#: Stands for the digest of what reads as zeros. No other has been found.
_ZEROS_DIGEST = bytes(_DIGEST_BYTES)
#: How often a copy that waits looks whether it is to stop. Seconds.
_TICK = 0.5


_libc = ctypes.CDLL(None)
if hasattr(_libc, 'malloc_trim'):
    _libc.malloc_trim.argtypes = [ctypes.c_size_t]


class CopyError(Exception):
    """The destination does not hold what the source does."""


class Cancelled(CopyError):
    """Somebody asked the copy to stop."""


class Verify(enum.Enum):
    """What is read back from the destination and compared."""

    NONE = 'none'
    #: the first block, the last, and one in 64 between them
    SAMPLED = 'sampled'
    FULL = 'full'


@dataclasses.dataclass
class Progress:
    """How far a copy is; may be read from any thread. All in bytes."""

    length: int = 0
    #: everything below was dealt with, and more may have been
    done: int = 0
    #: of these: bytes that were written; None if that is not known
    written: int | None = 0
    #: zeroed
    zeroed: int = 0
    #: left out, because both ends had zeros
    skipped: int = 0
    #: read back and compared
    verified: int = 0
    #: what it is doing
    phase: str = 'copying'


@dataclasses.dataclass(frozen=True)
class Options:
    """How to copy.

    :ivar start: where to begin, all below being in the destination already
    :ivar block: bytes in one read or write; None: what suits both ends
    :ivar destination_is_zero: whether it reads as zeros from `start` on;
        None: see what it says itself
    :ivar limiter: shares the bandwidth among copies
    :ivar checkpoint: called with an offset when all below it was flushed
    :ivar checkpoint_step: bytes between two of these
    :ivar cancelled: asked between blocks whether to stop
    :ivar stall: seconds without anything done after which the copy fails; 0
        waits for ever
    """

    start: int = 0
    destination_is_zero: bool | None = None
    block: int | None = None
    in_flight: int = IN_FLIGHT
    verify: Verify = Verify.NONE
    limiter: 'limits.Limiter | None' = None
    checkpoint: collections.abc.Callable[[int], None] | None = None
    checkpoint_step: int = 1 << 30
    cancelled: collections.abc.Callable[[], bool] = lambda: False
    stall: float = 0


def copy(source: volume_file.VolumeFile, destination: volume_file.VolumeFile,
         length: int, options: Options = Options(),
         progress: Progress | None = None) -> Progress:
    """Copy the first `length` bytes.

    Neither end is closed. If it fails the destination's content is undefined,
    except below the last checkpoint.

    :param length: bytes; both ends have at least as many
    :raises: CopyError or an OSError (:class:`volume_file.VolumeIOError`)
    """
    check_sizes(source, destination, length)
    progress = progress or Progress()
    progress.length, progress.written = length, 0
    transfer = _Transfer(source, destination, length, options, progress)
    transfer.run()
    source.check()
    destination.flush()
    transfer.verify()
    return progress


def check_sizes(source: volume_file.VolumeFile,
                destination: volume_file.VolumeFile, length: int) -> None:
    """See that both ends are large enough.

    :raises: CopyError
    """
    for end, role in ((source, _('source')), (destination, _('destination'))):
        if end.size < length:
            raise CopyError(_(
                'the %(role)s %(name)s has %(size)d bytes, %(length)d are to '
                'be copied') % {'role': role, 'name': end.name,
                                'size': end.size, 'length': length})


def reads_as_zeros(destination: volume_file.VolumeFile, length: int,
                   options: Options) -> bool:
    """Whether that is known of all that is to be copied."""
    if options.destination_is_zero is not None:
        return options.destination_is_zero
    extents = destination.extents(options.start, length - options.start)
    return all(extent.kind is not volume_file.Kind.DATA
               for extent in covered(extents, options.start, length))


def covered(extents: collections.abc.Iterable[volume_file.Extent], start: int,
            end: int) -> collections.abc.Iterator[volume_file.Extent]:
    """The same, provided that they tell of every byte between the two.

    :raises: CopyError
    """
    at = start
    for extent in extents:
        if extent.offset != at or extent.length <= 0 or extent.end > end:
            raise CopyError(_(
                'extents are wrong: %(length)d bytes at %(offset)d where '
                '%(at)d was expected') % {'length': extent.length, 'at': at,
                                          'offset': extent.offset})
        at = extent.end
        yield extent
    if at != end:
        raise CopyError(_('extents end at %(at)d, not at %(end)d') % {
            'at': at, 'end': end})


@dataclasses.dataclass(eq=False)
class _Block:
    """A part that is being dealt with."""

    offset: int
    length: int
    #: operations that have not ended
    pending: int = 0


class _Pipeline:
    """Keeps operations in flight and hears of their ends."""

    def __init__(self, files: collections.abc.Sequence[volume_file.VolumeFile],
                 options: Options) -> None:
        self._options = options
        self._driven = [file for file in files if file.driven]
        # One that is driven may take its time, unless another could have
        # ended something meanwhile.
        alone = len(self._driven) == 1 and all(
            file.driven or file.in_flight == 1 for file in files)
        self._turn = _TICK if alone else 0.001
        self._ended: _queue.SimpleQueue = _queue.SimpleQueue()
        self._running = 0
        self._error: BaseException | None = None
        self._last = time.monotonic()

    def _begin(self, then: collections.abc.Callable[..., None],
               block: _Block, start: collections.abc.Callable[..., None],
               *args: ty.Any) -> None:
        """Start one operation; `then` gets the block and what was read."""
        def done(error: BaseException | None,
                 data: volume_file.Buffer | None) -> None:
            self._ended.put((then, block, error, data))

        self._running += 1
        block.pending += 1
        try:
            start(*args, done)
        except Exception as error:
            done(error, None)

    def _wait(self, seconds: float) -> None:
        """Deal with what ended, waiting for the first of it.

        :raises: CopyError if nothing has ended for too long
        """
        if self._hear(seconds):
            while self._hear(0):
                pass
            self._last = time.monotonic()
        elif (self._options.stall and self._running and
                time.monotonic() - self._last > self._options.stall):
            raise self._error or CopyError(
                _('nothing was read or written for %d s') %
                self._options.stall)

    def _hear(self, seconds: float) -> bool:
        for file in self._driven:
            if self._ended.empty():
                file.drive(min(seconds, self._turn))
        # What is driven has had its time; for others it has to be waited.
        idle = all(file.idle() for file in self._driven)
        try:
            then, block, error, data = self._ended.get(
                bool(seconds) and idle, seconds)
        except _queue.Empty:
            return False
        self._running -= 1
        block.pending -= 1
        if error:
            self._error = self._error or error
        elif not self._error:
            then(block, data)
        return True

    def _settle(self) -> None:
        """Start nothing more, and wait for what runs."""
        while self._running:
            self._wait(_TICK)
        if self._error:
            raise self._error

    def _room(self, depth: int) -> None:
        """Wait until another block may start.

        :raises: the first error, after everything in flight has ended
        """
        while self._running >= depth and not self._error:
            self._wait(_TICK)
        while self._hear(0):
            pass
        if not self._error and self._options.cancelled():
            self._error = Cancelled(_('the copy was told to stop'))
        if self._error:
            self._settle()

    def _keep_to_limit(self, length: int) -> None:
        if self._options.limiter:
            self._pause(self._options.limiter.reserve(length))

    def _pause(self, seconds: float) -> None:
        """Go on with what is in flight for a while."""
        until = time.monotonic() + seconds
        while not self._error and (left := until - time.monotonic()) > 0:
            self._last = max(self._last, time.monotonic() - _TICK)
            self._wait(min(left, _TICK))
            if self._options.cancelled():
                break


class _Transfer(_Pipeline):

    def __init__(self, source: volume_file.VolumeFile,
                 destination: volume_file.VolumeFile, length: int,
                 options: Options, progress: Progress) -> None:
        super().__init__((source, destination), options)
        self._source = source
        self._destination = destination
        self._length = length
        self._block = options.block or min(destination.block,
                                           source.largest_read)
        self._progress = progress
        self._blocks: collections.deque[_Block] = collections.deque()
        self._flushed = options.start
        self._digests = _Digests()
        self._is_zero = False

    def run(self) -> None:
        start = self._options.start
        self._progress.done = start
        self._is_zero = reads_as_zeros(self._destination, self._length,
                                       self._options)
        extents = covered(self._source.extents(start, self._length - start),
                          start, self._length)
        try:
            for extent in extents:
                self._extent(extent)
        except Exception as error:
            # Unlike one that ends this thread: then nobody waits.
            self._error = self._error or error
        self._settle()
        self._advance()
        if self._progress.done != self._length:
            raise CopyError(_('only %(done)d of %(length)d bytes were dealt '
                              'with') % {'done': self._progress.done,
                                         'length': self._length})

    def _extent(self, extent: volume_file.Extent) -> None:
        data = extent.kind is volume_file.Kind.DATA
        step = self._block if data else _ZERO_STEP
        depth = self._depth()
        offset = extent.offset
        while offset < extent.end:
            # Blocks begin at multiples of their size, as objects do.
            length = min(step - offset % step, extent.end - offset)
            self._room(depth)
            block = _Block(offset, length)
            self._blocks.append(block)
            if data:
                self._read(block)
            else:
                self._expect(block, None)
                self._zeros(block, block.offset, block.length)
            offset += length
            self._advance()

    def _depth(self) -> int:
        # An end that does them one at a time leaves it to the other.
        several = [end.in_flight for end in (self._source, self._destination)
                   if end.in_flight > 1]
        return min(self._options.in_flight, *several or [1])

    def _read(self, block: _Block) -> None:
        self._keep_to_limit(block.length)
        self._begin(self._write, block, self._source.start_read, block.offset,
                    block.length)

    def _write(self, block: _Block, data: volume_file.Buffer) -> None:
        """Write what was read, but for runs of zeros."""
        _same_length(block, data, self._source)
        self._expect(block, data)
        for begin, end, zero in runs(data):
            if zero:
                self._zeros(block, block.offset + begin, end - begin)
                continue
            whole = end - begin == len(data)
            part = data if whole else memoryview(data)[begin:end]
            self._progress.written = (self._progress.written or 0) + (
                end - begin)
            self._begin(self._end, block, self._destination.start_write,
                        block.offset + begin, part)

    def _zeros(self, block: _Block, offset: int, length: int) -> None:
        if self._is_zero:
            self._progress.skipped += length
            return
        self._progress.zeroed += length
        self._begin(self._end, block, self._destination.start_zero, offset,
                    length)

    def _end(self, block: _Block, nothing: None) -> None:
        """A write ended; there is no more to do about it."""

    def _advance(self) -> None:
        """See how far everything is done, and checkpoint now and then."""
        while self._blocks and not self._blocks[0].pending:
            block = self._blocks.popleft()
            self._progress.done = block.offset + block.length
        if self._error or not self._options.checkpoint:
            return
        done = self._progress.done
        if done - self._flushed >= self._options.checkpoint_step:
            self._destination.flush()
            self._options.checkpoint(done)
            self._flushed = done

    def verify(self) -> None:
        """Read back what was to be remembered, once that was flushed."""
        if self._digests:
            self._progress.phase = 'verifying'
            _Verification(self._destination, self._digests, self._block,
                          self._options, self._progress).run()

    def _expect(self, block: _Block, data: volume_file.Buffer | None) -> None:
        """Remember what is to be found in the destination."""
        verify = self._options.verify
        if verify is Verify.NONE or (
                verify is Verify.SAMPLED and block.offset and
                block.offset + block.length != self._length and
                random.randrange(_SAMPLE)):
            return
        self._digests.add(block.offset, block.length,
                          _ZEROS_DIGEST if data is None else _digest(data))


def runs(data: volume_file.Buffer
         ) -> collections.abc.Iterator[tuple[int, int, bool]]:
    """Split into runs that are all zeros, in units of 64 KiB, and others.

    :returns: begin, end, and whether it is zeros
    """
    if isinstance(data, memoryview):
        data = bytes(data)
    begin, at, length = 0, 0, len(data)
    if not length:
        return
    before = False
    while at < length:
        end = min(at + _GRAIN, length)
        # Unlike a comparison of slices this copies nothing.
        zero = data.startswith(_ZERO_GRAIN if end - at == _GRAIN else
                               _ZERO_GRAIN[:end - at], at)
        if at and zero != before:
            yield begin, at, before
            begin = at
        before = zero
        at = end
    yield begin, length, before


class _Digests:
    """What is to be read back: 32 bytes for each block, in an order."""

    def __init__(self) -> None:
        #: offset and length of each
        self._places = array.array('Q')
        self._digests = bytearray()

    def add(self, offset: int, length: int, digest: bytes) -> None:
        self._places.extend((offset, length))
        self._digests += digest

    def __len__(self) -> int:
        return len(self._places) // 2

    def __iter__(self) -> collections.abc.Iterator[tuple[int, int, bytes]]:
        for number in range(len(self)):
            offset, length = self._places[2 * number:2 * number + 2]
            at = _DIGEST_BYTES * number
            yield offset, length, bytes(self._digests[at:at + _DIGEST_BYTES])


def _digest(data: volume_file.Buffer) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _give_back_memory() -> None:
    """Return what was freed to the kernel, if the C library knows how.

    It keeps what the buffers of the copy were in, and has no use for it in the
    verification, which took 50 MiB more.
    """
    if hasattr(_libc, 'malloc_trim'):
        _libc.malloc_trim(0)


def _same_length(block: _Block, data: volume_file.Buffer,
                 file: volume_file.VolumeFile) -> None:
    """Do not trust a driver's file with that."""
    if len(data) != block.length:
        raise CopyError(_(
            '%(name)s gave %(got)d bytes at %(offset)d where %(length)d were '
            'asked for') % {'name': file.name, 'got': len(data),
                            'offset': block.offset, 'length': block.length})


class _Verification(_Pipeline):
    """Reads back from the destination what was noted on the way."""

    def __init__(self, destination: volume_file.VolumeFile,
                 digests: _Digests, block: int, options: Options,
                 progress: Progress) -> None:
        super().__init__((destination,), options)
        self._destination = destination
        self._digests = digests
        self._block = block
        self._progress = progress

    def run(self) -> None:
        _give_back_memory()
        self._destination.forget()
        self._last = time.monotonic()
        # To read large ones takes more memory than to write them.
        depth = min(self._options.in_flight, self._destination.in_flight)
        depth = max(1, min(depth, depth * volume_file.BLOCK // self._block))
        for offset, length, digest in self._digests:
            # As they were written: of each there is one digest. Only zeros
            # are in longer runs.
            for at in range(offset, offset + length, self._block):
                size = min(self._block, offset + length - at)
                self._room(depth)
                self._keep_to_limit(size)
                self._begin(self._compare(digest), _Block(at, size),
                            self._destination.start_read, at, size)
        self._settle()

    def _compare(self, digest: bytes) -> collections.abc.Callable[..., None]:
        def compare(block: _Block, data: volume_file.Buffer) -> None:
            _same_length(block, data, self._destination)
            same = (_digest(data) == digest if digest != _ZEROS_DIGEST else
                    all(zero for begin, end, zero in runs(data)))
            if not same and not self._error:
                self._error = CopyError(_(
                    'the %(length)d bytes at %(offset)d of %(name)s are not '
                    'those that were read from the source') % {
                        'length': block.length, 'offset': block.offset,
                        'name': self._destination.name})
            self._progress.verified += block.length
        return compare
