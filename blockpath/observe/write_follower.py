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
"""Follow the records that the lab's guest writes, poll by poll.

``write_watcher`` does so in a thread, ``write_agent`` in a process of its own
on another host.
"""

import array
import contextlib
import os
import threading
import typing

from blockpath.observe import write_ring

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


class Stall(typing.NamedTuple):
    at: float
    seconds: float


class Seen:
    """All that was seen of a ring while it was followed.

    All times are seconds of one clock.
    """

    def __init__(self, now: float) -> None:
        self.started = now
        #: The time of the last poll: all that arrived before is here.
        self.looked = now
        #: When each record was seen. Two in one poll have the same time.
        self.times = array.array('d')
        self.runs = write_ring.Runs()
        self.problems: list[write_ring.Problem] = []
        #: Between two polls that were more than :data:`BLIND_S` apart.
        self.blind: list[Stall] = []


class Follower(Seen):
    """Follows a ring, a poll at a time: a watcher without its thread."""

    def __init__(self, ring: write_ring.Ring, now: float) -> None:
        super().__init__(now)
        self.ring = ring
        #: The last sequence number dealt with, None on a blank disk.
        self.at: int | None = None
        #: Its record, to hold the next one against; None: not known.
        self.before: write_ring.Record | None = None
        self._torn_since: float | None = None
        self._moved = now
        self._patience = RESYNC_S
        self._begin()

    def poll(self, now: float) -> None:
        """Takes in all that is new; ``now`` is its time of arrival."""
        if now - self.looked > BLIND_S:
            self.blind.append(Stall(self.looked, now - self.looked))
        while self._step(now):
            self._moved = now
            self._patience = RESYNC_S
        if now - self._moved > self._patience:
            self._patience = min(self._patience * 2, RESYNC_MAX_S)
            self._moved = now
            self._resync(now)
        self.looked = now

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
            self._note(write_ring.Kind.MISSING, expected, expected, now)
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
            self._note(write_ring.Kind.BAD, expected, expected, now)
        elif (not write_ring.follows(record, self.before) and
              not self._rewritten(record)):
            self._note(write_ring.Kind.CHAIN, expected, expected, now)
        self._torn_since = None
        self.at = expected
        self.before = record if record.valid else None
        self.times.append(now)
        if record.valid:
            self.ring.slots = record.slots
            self.runs.add(record)
        return True

    def _rewritten(self, record: write_ring.Record) -> bool:
        """Its predecessor was written again after it was seen.

        So it is when a writer was killed while its last write was under way:
        the next one did not find it and took the number for its own.
        """
        before = self.ring.record(record.sequence - 1)
        return (before is not None and before.valid and
                before.sequence == record.sequence - 1 and
                write_ring.follows(record, before))

    def _resync(self, now: float) -> bool:
        """Looks at the whole ring for where it goes on; False: not known."""
        newest = self.ring.newest() if self.ring.find_slots() else None
        at = -1 if self.at is None else self.at
        if newest is None or newest.sequence <= at:
            return self._went_back(newest, now)
        oldest = newest.sequence - newest.slots + 1
        if oldest > at + 1:
            self._note(write_ring.Kind.OVERRUN, at + 1, oldest - 1, now)
            self.at, self.before = oldest - 1, None
            return True
        # Some are missing, unless they have come while we looked.
        later = [one for one in self.ring.sequences() if one > at]
        if not later or self.ring.sequence(at + 1) == at + 1:
            return False
        self._note(write_ring.Kind.MISSING, at + 1, later[0] - 1, now)
        self.at, self.before = later[0] - 1, None
        return True

    def _went_back(self, newest: write_ring.Record | None, now: float) -> bool:
        """Notes it if the ring's newest record is older than one seen."""
        if self.at is None or (newest and newest.sequence == self.at):
            return False
        first = newest.sequence + 1 if newest else 0
        self._note(write_ring.Kind.REGRESSED, first, self.at, now)
        self.at = newest.sequence if newest else None
        self.before = newest
        return False

    def _note(self, kind: write_ring.Kind, first: int, last: int,
              now: float) -> None:
        self.problems.append(write_ring.Problem(kind, first, last, now))


def hurry() -> None:
    """Run this thread before others on a busy machine, if that is allowed.

    A follower sleeps nearly always.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
