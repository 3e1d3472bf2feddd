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
"""The ring of records that the lab's guest writes, read from the host.

``guests/tiny/src/record.h`` describes the ring. :func:`verify` checks all of
it at once; ``write_follower`` follows one while the guest writes. Both run in
the lab's hosts too, where only the standard library is sure to be installed.
"""

import collections.abc
import contextlib
import dataclasses
import enum
import itertools
import mmap
import os
import pathlib
import struct
import time
import typing
import zlib

MAGIC = b'BPWRITE1'
RECORD_BYTES = 4096
#: struct record of record.h up to its filler.
HEADER = struct.Struct('<8s5Q6I24s')
CHECKSUM = struct.Struct('<I')
CHECKSUM_AT = RECORD_BYTES - CHECKSUM.size
#: The longest read: of this many records.
CHUNK_RECORDS = (1 << 20) // RECORD_BYTES
FLAG_START = 1
FLAG_STOP = 2
#: How often a record that looks wrong is read, and the seconds in between.
RESCANS = 3
RESCAN_S = 0.002


class Record(typing.NamedTuple):
    """One block of the ring; see record.h for each field."""

    sequence: int
    run: int
    guest_ns: int
    latency_ns: int
    disk_bytes: int
    slots: int
    flags: int
    interval_us: int
    io_errors: int
    bad_reads: int
    previous: int
    serial: str
    checksum: int
    #: Its checksum is right.
    valid: bool


class Kind(enum.StrEnum):
    #: A record's checksum is wrong.
    BAD = 'bad checksum'
    #: A record is not there, though a later one is.
    MISSING = 'missing'
    #: A record does not carry the checksum of the one before.
    CHAIN = 'chain broken'
    #: The ring went back to an older state.
    REGRESSED = 'went back'
    #: Overwritten before the watcher saw them: nothing is known of these.
    OVERRUN = 'overrun'


@dataclasses.dataclass(frozen=True)
class Problem:
    kind: Kind
    #: The sequence numbers concerned, both ends included.
    first: int
    last: int
    #: When it was found; None after the fact.
    at: float | None = None

    def __str__(self) -> str:
        span = (f'record {self.first}' if self.first == self.last
                else f'records {self.first}-{self.last}')
        return f'{span}: {self.kind.value}'


@dataclasses.dataclass(frozen=True)
class Run:
    """The records between two starts of a writer."""

    id: int
    first: int
    last: int
    io_errors: int
    bad_reads: int
    serial: str
    #: It ended with the record that a writer leaves when told to stop.
    stopped: bool


@dataclasses.dataclass(frozen=True)
class Result:
    """What was verified.

    ``ok`` is about data: no problem, none read back wrong, and something
    written at all. I/O errors that the guest met and got over count apart.
    """

    records: int
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...]

    @property
    def first(self) -> int | None:
        return self.runs[0].first if self.runs else None

    @property
    def last(self) -> int | None:
        return self.runs[-1].last if self.runs else None

    @property
    def io_errors(self) -> int:
        return sum(run.io_errors for run in self.runs)

    @property
    def bad_reads(self) -> int:
        return sum(run.bad_reads for run in self.runs)

    @property
    def restarts(self) -> int:
        """How often the writer began anew, as it does when a guest boots."""
        return max(0, len(self.runs) - 1)

    @property
    def ok(self) -> bool:
        return bool(self.records) and not self.problems and not self.bad_reads

    def of_kind(self, kind: Kind) -> tuple[Problem, ...]:
        return tuple(one for one in self.problems if one.kind == kind)

    def __str__(self) -> str:
        if not self.records:
            return 'no record'
        found = [str(problem) for problem in self.problems[:3]]
        if len(self.problems) > 3:
            found.append(f'and {len(self.problems) - 3} more problems')
        for count, name in ((self.bad_reads, 'bad reads'),
                            (self.io_errors, 'I/O errors in the guest')):
            if count:
                found.append(f'{count} {name}')
        return (f'{self.records} records, {self.first}-{self.last}, '
                f'{len(self.runs)} run{"s" * (len(self.runs) != 1)}: '
                f'{", ".join(found) or "no gap, every checksum right"}')


def parse(block: bytes) -> Record | None:
    """The record in a 4 KiB block, None for anything else."""
    if len(block) != RECORD_BYTES or not block.startswith(MAGIC):
        return None
    fields = HEADER.unpack_from(block)
    checksum = CHECKSUM.unpack_from(block, CHECKSUM_AT)[0]
    serial = fields[12].rstrip(b'\0').decode('ascii', 'replace')
    valid = zlib.crc32(block[:CHECKSUM_AT]) == checksum
    return Record._make((*fields[1:12], serial, checksum, valid))


def sequence_of(block: bytes) -> int | None:
    """Return the sequence number in a block, None for anything else."""
    if len(block) < 16 or not block.startswith(MAGIC):
        return None
    return int.from_bytes(block[8:16], 'little')


class Ring:
    """The ring in the file or on the block device behind a volume.

    It is read, not mapped: a mapping dies with SIGBUS when the file shrinks.
    The page cache has all that tgtd or QEMU writes to a file. LIO writes to a
    block device underneath the page cache, so that a block device is read
    with O_DIRECT. Not thread-safe.

    :param direct: read with O_DIRECT; None: if it is a block device
    :raises OSError: it cannot be opened
    """

    def __init__(self, path: str | os.PathLike[str],
                 direct: bool | None = None) -> None:
        self.path = pathlib.Path(path)
        #: None until a record is found, which tells it.
        self.slots: int | None = None
        if direct is None:
            direct = self.path.is_block_device()
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC |
                          (os.O_DIRECT if direct else 0))
        # O_DIRECT requires a buffer that is aligned.
        self._buffer = mmap.mmap(-1, CHUNK_RECORDS * RECORD_BYTES)

    def close(self) -> None:
        os.close(self.fd)
        self._buffer.close()

    def record(self, sequence: int) -> Record | None:
        """What is at that record's place; it may be another record."""
        return parse(self._read(sequence % (self.slots or 1)))

    def sequence(self, sequence: int) -> int | None:
        """The sequence number at that record's place, cheaply."""
        return sequence_of(self._read(sequence % (self.slots or 1)))

    def holds_half(self, sequence: int) -> bool:
        """Something of a new record is at its place, valid or not."""
        if self.sequence(sequence) == sequence:
            return True
        return (sequence < (self.slots or 0) and
                any(self._read(sequence)))

    def find_slots(self) -> int | None:
        """Learns the ring's size from any of its first valid records."""
        for block in self._blocks(32):
            found = parse(block)
            if found and found.valid and found.slots:
                self.slots = found.slots
                break
        return self.slots

    def sequences(self) -> list[int]:
        """The sequence numbers in the ring, each where it belongs, sorted."""
        slots = self.slots or 0
        found = (sequence_of(block) for block in self._blocks(slots))
        return sorted(number for slot, number in enumerate(found)
                      if number is not None and number % slots == slot)

    def _read(self, slot: int, count: int = 1) -> bytes:
        """Return the blocks of some slots, less where the file ends."""
        with memoryview(self._buffer)[:count * RECORD_BYTES] as view:
            length = os.preadv(self.fd, [view], slot * RECORD_BYTES)
        return self._buffer[:length]

    def _blocks(self, count: int) -> collections.abc.Iterator[bytes]:
        """Yield the ring's first blocks, up to the end of the file."""
        for slot in range(0, count, CHUNK_RECORDS):
            chunk = self._read(slot, min(count - slot, CHUNK_RECORDS))
            for at in range(0, len(chunk), RECORD_BYTES):
                yield chunk[at:at + RECORD_BYTES]

    def newest(self) -> Record | None:
        """The valid record with the highest sequence number."""
        for sequence in reversed(self.sequences()):
            record = self.record(sequence)
            if record and record.valid and record.sequence == sequence:
                return record
        return None


class Runs:
    """Gathers runs out of records that come in order."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def add(self, record: Record) -> None:
        stopped = bool(record.flags & FLAG_STOP)
        if self.runs and self.runs[-1].id == record.run:
            first = self.runs.pop().first
        else:
            first = record.sequence
        self.runs.append(Run(record.run, first, record.sequence,
                             record.io_errors, record.bad_reads,
                             record.serial, stopped))


def verify(path: str | os.PathLike[str]) -> Result:
    """Verifies all that a ring holds; the guest may be writing meanwhile.

    A ring whose newest record is L must hold the last ``slots`` records up to
    L (or all, before it first wraps), each in its place, valid, and with the
    checksum of its predecessor.

    :raises OSError: it cannot be read
    """
    with contextlib.closing(Ring(path)) as ring:
        if not ring.find_slots() or not ring.slots:
            return Result(0, (), ())
        newest = ring.newest()
        if newest is None:
            return Result(0, (), ())
        last = newest.sequence + ring.holds_half(newest.sequence + 1)
        found = _collect(ring, max(0, last - ring.slots + 1), last)
    problems = list(_check_all(found))
    runs = Runs()
    for record in found.values():
        if record and record.valid:
            runs.add(record)
    return Result(sum(one is not None for one in found.values()),
                  tuple(runs.runs), tuple(problems))


def _collect(ring: Ring, first: int, last: int) -> dict[int, Record | None]:
    """The records of these numbers; None for one that is not there.

    Those overwritten meanwhile by a writer at work are left out, and what
    looks wrong is read again, for it may have been half-way.
    """
    found: dict[int, Record | None] = {}
    for sequence in range(first, last + 1):
        for attempt in range(RESCANS):
            record = ring.record(sequence)
            if record and record.valid and record.sequence >= sequence:
                break
            if attempt + 1 < RESCANS and sequence > last - 8:
                time.sleep(RESCAN_S)
        newer = (record is not None and record.valid and ring.slots and
                 record.sequence > sequence and
                 (record.sequence - sequence) % ring.slots == 0)
        if newer:
            continue
        if record and record.sequence != sequence:
            record = None
        found[sequence] = record
    return found


def _check_all(found: dict[int, Record | None]
               ) -> collections.abc.Iterator[Problem]:
    before: Record | None = None
    missing = [sequence for sequence, one in found.items() if one is None]
    for _, group in itertools.groupby(
            enumerate(missing), lambda pair: pair[1] - pair[0]):
        span = [sequence for _, sequence in group]
        yield Problem(Kind.MISSING, span[0], span[-1])
    for sequence, record in found.items():
        if record and not record.valid:
            yield Problem(Kind.BAD, sequence, sequence)
            record = None
        if before and before.sequence != sequence - 1:
            before = None
        if record and not follows(record, before):
            yield Problem(Kind.CHAIN, sequence, sequence)
        before = record


def follows(record: Record, before: Record | None) -> bool:
    """False if it cannot be what was written after ``before``.

    Without a valid predecessor there is nothing to hold against it.
    """
    if record.sequence == 0:
        return record.previous == 0 and bool(record.flags & FLAG_START)
    if before is None:
        return True
    return (record.previous == before.checksum and
            (record.run == before.run) != bool(record.flags & FLAG_START))
