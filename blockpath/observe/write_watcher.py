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
"""Watches and verifies, from the host, what the lab's guest writes.

The guest's clock stops while it is moved, so only the host can tell how long
its writes stood still. It looks at the file behind the volume: a ``Watcher``
sees each record land, within about 2 ms, and checks it then and there;
``verify`` checks what a ring holds afterwards. The ring's form, and what it
promises, is in ``guest/src/record.h``.

All times are seconds of ``time.monotonic()``.
"""

import array
import bisect
import collections.abc
import contextlib
import dataclasses
import enum
import itertools
import os
import pathlib
import struct
import threading
import time
import types
import typing
import zlib

from blockpath import errors

MAGIC = b'BPWRITE1'
RECORD_BYTES = 4096
#: struct record of record.h up to its filler.
HEADER = struct.Struct('<8s5Q6I24s')
CHECKSUM = struct.Struct('<I')
CHECKSUM_AT = RECORD_BYTES - CHECKSUM.size
FLAG_START = 1
FLAG_STOP = 2

POLL_S = 0.002
#: A record may be seen half-way into the page cache; older than this it is
#: not half-way, it is bad.
TORN_S = 0.5
#: With nothing new for this long, the whole ring is looked at: it may go on
#: elsewhere. Doubled each time in vain, up to the second figure.
RESYNC_S = 1.0
RESYNC_MAX_S = 16.0
#: Polls further apart than this are noted: a stall may be the watcher's own.
BLIND_S = 0.010
RESCANS = 3


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


class Kind(enum.Enum):
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


class Stall(typing.NamedTuple):
    at: float
    seconds: float


def parse(block: bytes) -> Record | None:
    """The record in a 4 KiB block, None for anything else."""
    if len(block) != RECORD_BYTES or not block.startswith(MAGIC):
        return None
    fields = HEADER.unpack_from(block)
    checksum = CHECKSUM.unpack_from(block, CHECKSUM_AT)[0]
    serial = fields[12].rstrip(b'\0').decode('ascii', 'replace')
    valid = zlib.crc32(block[:CHECKSUM_AT]) == checksum
    return Record._make((*fields[1:12], serial, checksum, valid))


class Ring:
    """The ring in the file behind a volume.

    It is read, not mapped: a mapping dies with SIGBUS when the file shrinks.
    Both see what tgtd or QEMU has written, by the page cache.

    :raises BlockpathError: there is no such file
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        #: None until a record is found, which tells it.
        self.slots: int | None = None
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.BlockpathError(
                f'cannot watch {self.path}: {error.strerror}') from error

    def close(self) -> None:
        os.close(self.fd)

    def record(self, sequence: int) -> Record | None:
        """What is at that record's place; it may be another record."""
        slot = sequence % (self.slots or 1)
        return parse(os.pread(self.fd, RECORD_BYTES, slot * RECORD_BYTES))

    def sequence(self, sequence: int) -> int | None:
        """The sequence number at that record's place, cheaply."""
        slot = sequence % (self.slots or 1)
        start = os.pread(self.fd, 16, slot * RECORD_BYTES)
        if len(start) < 16 or not start.startswith(MAGIC):
            return None
        return int.from_bytes(start[8:], 'little')

    def holds_half(self, sequence: int) -> bool:
        """Something of a new record is at its place, valid or not."""
        if self.sequence(sequence) == sequence:
            return True
        start = os.pread(self.fd, RECORD_BYTES, sequence * RECORD_BYTES)
        return sequence < (self.slots or 0) and any(start)

    def find_slots(self) -> int | None:
        """Learns the ring's size from any of its first valid records."""
        for block in range(32):
            found = parse(os.pread(self.fd, RECORD_BYTES,
                                   block * RECORD_BYTES))
            if found and found.valid and found.slots:
                self.slots = found.slots
                break
        return self.slots

    def sequences(self) -> list[int]:
        """The sequence numbers in the ring, each where it belongs, sorted."""
        slots = self.slots or 0
        found = (self.sequence(slot) for slot in range(slots))
        return sorted(number for slot, number in enumerate(found)
                      if number is not None and number % slots == slot)

    def newest(self) -> Record | None:
        """The valid record with the highest sequence number."""
        for sequence in reversed(self.sequences()):
            record = self.record(sequence)
            if record and record.valid and record.sequence == sequence:
                return record
        return None


class _Runs:
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

    :raises BlockpathError: there is no such file
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
    runs = _Runs()
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
                time.sleep(POLL_S)
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
        if record and not _follows(record, before):
            yield Problem(Kind.CHAIN, sequence, sequence)
        before = record


def _follows(record: Record, before: Record | None) -> bool:
    """False if it cannot be what was written after ``before``.

    Without a valid predecessor there is nothing to hold against it.
    """
    if record.sequence == 0:
        return record.previous == 0 and bool(record.flags & FLAG_START)
    if before is None:
        return True
    return (record.previous == before.checksum and
            (record.run == before.run) != bool(record.flags & FLAG_START))


class Follower:
    """Follows a ring, a poll at a time: the watcher without its thread."""

    def __init__(self, ring: Ring, now: float) -> None:
        self.ring = ring
        self.problems: list[Problem] = []
        self.runs = _Runs()
        #: When each record was seen. Two in one poll have the same time.
        self.times = array.array('d')
        self.started = now
        #: The last sequence number dealt with, None on a blank disk.
        self.at: int | None = None
        #: Its record, to hold the next one against; None: not known.
        self.before: Record | None = None
        self._torn_since: float | None = None
        self._moved = now
        self._patience = RESYNC_S
        self._begin()

    def poll(self, now: float) -> None:
        """Takes in all that is new; ``now`` is its time of arrival."""
        while self._step(now):
            self._moved = now
            self._patience = RESYNC_S
        if now - self._moved > self._patience:
            self._patience = min(self._patience * 2, RESYNC_MAX_S)
            self._moved = now
            self._resync(now)

    def _begin(self) -> None:
        """Starts after the newest record that is there already."""
        newest = self.ring.newest() if self.ring.find_slots() else None
        if newest:
            self.at, self.before = newest.sequence, newest

    def _step(self, now: float) -> bool:
        """Deals with the next record; False when it is not there yet."""
        expected = 0 if self.at is None else self.at + 1
        there = self.ring.sequence(expected)
        if there == expected:
            return self._take(expected, now)
        if there is not None and self._is_later_lap(there, expected):
            return self._resync(now)
        if self._was_skipped(expected):
            self._note(Kind.MISSING, expected, expected, now)
            self.at, self.before = expected, None
            return True
        return False

    def _is_later_lap(self, there: int, expected: int) -> bool:
        """The ring has come round to this place again, meanwhile."""
        if there < expected or not self.ring.slots or (
                there - expected) % self.ring.slots:
            return False
        record = self.ring.record(expected)
        return record is not None and record.valid

    def _was_skipped(self, expected: int) -> bool:
        """The record after it is there, and it is not.

        Read in this order: the writer may be writing both.
        """
        ring = self.ring
        return (ring.slots is not None and ring.slots > 1 and
                ring.sequence(expected + 1) == expected + 1 and
                ring.sequence(expected) != expected)

    def _take(self, expected: int, now: float) -> bool:
        record = self.ring.record(expected)
        if record is None or record.sequence != expected:
            return False
        if not record.valid:
            if self._torn_since is None:
                self._torn_since = now
            if now - self._torn_since < TORN_S:
                return False
            self._note(Kind.BAD, expected, expected, now)
        elif not _follows(record, self.before) and not self._rewritten(record):
            self._note(Kind.CHAIN, expected, expected, now)
        self._torn_since = None
        self.at = expected
        self.before = record if record.valid else None
        self.times.append(now)
        if record.valid:
            self.ring.slots = record.slots
            self.runs.add(record)
        return True

    def _rewritten(self, record: Record) -> bool:
        """Its predecessor was written again after it was seen.

        So it is when a writer was killed while its last write was under way:
        the next one did not find it and took the number for its own.
        """
        before = self.ring.record(record.sequence - 1)
        return (before is not None and before.valid and
                before.sequence == record.sequence - 1 and
                _follows(record, before))

    def _resync(self, now: float) -> bool:
        """Looks at the whole ring for where it goes on; False: not known."""
        newest = self.ring.newest() if self.ring.find_slots() else None
        at = -1 if self.at is None else self.at
        if newest is None or newest.sequence <= at:
            return self._went_back(newest, now)
        oldest = newest.sequence - newest.slots + 1
        if oldest > at + 1:
            self._note(Kind.OVERRUN, at + 1, oldest - 1, now)
            self.at, self.before = oldest - 1, None
            return True
        # Some are missing, unless they have come while we looked.
        later = [one for one in self.ring.sequences() if one > at]
        if not later or self.ring.sequence(at + 1) == at + 1:
            return False
        self._note(Kind.MISSING, at + 1, later[0] - 1, now)
        self.at, self.before = later[0] - 1, None
        return True

    def _went_back(self, newest: Record | None, now: float) -> bool:
        """Notes it if the ring's newest record is older than one seen."""
        if self.at is None or (newest and newest.sequence == self.at):
            return False
        first = newest.sequence + 1 if newest else 0
        self._note(Kind.REGRESSED, first, self.at, now)
        self.at = newest.sequence if newest else None
        self.before = newest
        return False

    def _note(self, kind: Kind, first: int, last: int, now: float) -> None:
        self.problems.append(Problem(kind, first, last, now))


class Watcher:
    """Follows the ring in a file, in a thread, until stopped.

    ::

        with writes.Watcher(path) as watcher:
            watcher.wait(records=100, timeout=60)
            start = watcher.mark('migration')
            ...
            stall = watcher.longest_stall(start)
        assert watcher.result().ok

    :raises BlockpathError: there is no such file
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.marks: list[tuple[float, str]] = []
        #: Polls that came late: (end, seconds), see ``longest_blind``.
        self._blind: list[Stall] = []
        self._ring = Ring(path)
        self._follower = Follower(self._ring, time.monotonic())
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._ended: float | None = None
        self._thread = threading.Thread(
            target=self._run, name=f'watch {self.path.name}', daemon=True)

    def start(self) -> 'Watcher':
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread; what was seen remains. More than once is fine."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._ring.close()

    def __enter__(self) -> 'Watcher':
        return self.start()

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        self.stop()

    def mark(self, label: str) -> float:
        """Notes that something happens now; returns the time."""
        now = time.monotonic()
        self.marks.append((now, label))
        return now

    @property
    def records(self) -> int:
        """How many were seen to arrive."""
        return len(self._follower.times)

    def wait(self, records: int, timeout: float) -> None:
        """Returns when that many more records have arrived.

        :raises BlockpathError: they have not in ``timeout`` seconds
        """
        wanted = self.records + records
        deadline = time.monotonic() + timeout
        while self.records < wanted:
            self._check()
            if time.monotonic() > deadline:
                missing = wanted - self.records
                raise errors.BlockpathError(
                    f'{self.path.name}: {records - missing} of {records} '
                    f'records arrived within {timeout:g} s; is the guest '
                    f'writing to it?')
            time.sleep(POLL_S)

    def series(self, start: float | None = None, end: float | None = None
               ) -> list[tuple[float, float]]:
        """(time of arrival, seconds since the one before), for a plot."""
        times = self._follower.times[:]
        first = bisect.bisect_left(times, start) if start is not None else 0
        last = (bisect.bisect_right(times, end) if end is not None
                else len(times))
        return [(times[i], times[i] - times[i - 1])
                for i in range(max(first, 1), last)]

    def longest_stall(self, start: float | None = None,
                      end: float | None = None) -> Stall:
        """The longest time in the window during which no record arrived.

        Only what lies in the window counts of a stall at its edge. ``end`` is
        now by default: a stall under way counts.

        :returns: when it began, and how many seconds it took
        """
        follower = self._follower
        start = follower.started if start is None else start
        if end is None:
            end = self._ended or time.monotonic()
        times = follower.times[:]
        inside = times[bisect.bisect_left(times, start):
                       bisect.bisect_right(times, end)]
        edges = [start, *inside, max(start, end)]
        return max((Stall(a, b - a) for a, b in itertools.pairwise(edges)),
                   key=lambda stall: stall.seconds)

    def longest_blind(self, start: float | None = None,
                      end: float | None = None) -> float:
        """Seconds for which the watcher itself did not look, at most.

        A stall is measured no better than this: on a busy machine the watcher
        too may wait for a CPU.
        """
        late = [one.seconds for one in self._blind[:]
                if (start is None or one.at + one.seconds >= start) and
                (end is None or one.at <= end)]
        return max(late, default=BLIND_S)

    def result(self) -> Result:
        """What was verified so far.

        :raises BlockpathError: the watcher could not go on
        """
        self._check()
        follower = self._follower
        return Result(len(follower.times), tuple(follower.runs.runs),
                      tuple(follower.problems))

    def _check(self) -> None:
        if self._failure:
            raise errors.BlockpathError(
                f'watching {self.path} failed: {self._failure}')

    def _run(self) -> None:
        # Before others on a busy machine, if we may: it sleeps nearly always.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        looked = time.monotonic()
        try:
            while not self._stop.is_set():
                now = time.monotonic()
                if now - looked > BLIND_S:
                    self._blind.append(Stall(looked, now - looked))
                looked = now
                self._follower.poll(now)
                time.sleep(POLL_S)
        except Exception as error:
            self._failure = error
        finally:
            self._ended = time.monotonic()
