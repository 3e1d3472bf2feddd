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
"""Watch, from the host, the records that the lab's guest writes.

The guest's clock stops while it is moved, so only the host can measure how
long its writes stood still. A :class:`Watcher` reads the file behind the
volume, sees each record within about 2 ms of its arrival, and checks it.
``remote_watcher`` does the same where only another host can read the volume.

All times are seconds of ``time.monotonic()``.
"""

import abc
import bisect
import itertools
import os
import pathlib
import threading
import time
import types
import typing

from blockpath import errors
from blockpath.observe import write_follower
from blockpath.observe import write_ring

#: Seconds until all that has arrived by now must be known.
CATCH_UP_S = 30.0

Stall = write_follower.Stall


class BaseWatcher(abc.ABC):
    """Follows a ring, in a thread, until stopped.

    :param name: of the volume, for messages
    :param seen: what the thread fills
    """

    def __init__(self, name: str, seen: write_follower.Seen) -> None:
        self.name = name
        self.marks: list[tuple[float, str]] = []
        self._seen = seen
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name=f'watch {name}', daemon=True)

    @abc.abstractmethod
    def _follow(self) -> None:
        """Fill ``_seen`` until ``_stop`` is set; runs in the thread."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Have the thread end, and release all that it used."""

    def start(self) -> typing.Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread; what was seen remains. More than once is fine."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._end()

    def __enter__(self) -> typing.Self:
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
        return len(self._seen.times)

    def wait(self, records: int, timeout: float) -> None:
        """Returns when that many more records have arrived.

        :raises BlockpathError: they have not in ``timeout`` seconds, or the
            watcher could not go on
        """
        wanted = self.records + records
        deadline = time.monotonic() + timeout
        while self.records < wanted:
            self._check()
            if time.monotonic() > deadline:
                missing = wanted - self.records
                raise errors.BlockpathError(
                    f'{self.name}: {records - missing} of {records} '
                    f'records arrived within {timeout:g} s; is the guest '
                    f'writing to it?')
            time.sleep(write_follower.POLL_S)

    def series(self, start: float | None = None, end: float | None = None
               ) -> list[tuple[float, float]]:
        """(time of arrival, seconds since the one before), for a plot.

        :raises BlockpathError: the watcher could not go on until ``end``
        """
        self._catch_up(end)
        times = self._seen.times[:]
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
        :raises BlockpathError: the watcher could not go on until ``end``
        """
        self._catch_up(end)
        start = self._seen.started if start is None else start
        if end is None:
            end = self._seen.looked
        times = self._seen.times[:]
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

        :raises BlockpathError: the watcher could not go on until ``end``
        """
        self._catch_up(end)
        late = [one.seconds for one in self._seen.blind[:]
                if (start is None or one.at + one.seconds >= start) and
                (end is None or one.at <= end)]
        return max(late, default=write_follower.BLIND_S)

    def result(self) -> write_ring.Result:
        """What was verified so far.

        :raises BlockpathError: the watcher could not go on
        """
        self._check()
        return write_ring.Result(
            self.records, tuple(self._seen.runs.runs),
            tuple(self._seen.problems))

    def _catch_up(self, end: float | None) -> None:
        """Return when all that arrived before ``end``, or by now, is known.

        :raises BlockpathError: it will never be, or takes too long
        """
        now = time.monotonic()
        wanted = now if end is None else min(end, now)
        while self._thread.is_alive() and self._seen.looked < wanted:
            if time.monotonic() > now + CATCH_UP_S:
                raise errors.BlockpathError(
                    f'{self.name}: nobody looked for records for '
                    f'{time.monotonic() - self._seen.looked:.0f} s')
            time.sleep(write_follower.POLL_S)
        if self._seen.looked < wanted:
            self._check()

    def _check(self) -> None:
        if self._failure:
            raise errors.BlockpathError(
                f'watching {self.name} failed: {self._failure}')

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:
            self._failure = error


class Watcher(BaseWatcher):
    """Follows the ring in a file, in a thread, until stopped.

    ::

        with write_watcher.Watcher(path) as watcher:
            watcher.wait(records=100, timeout=60)
            start = watcher.mark('migration')
            ...
            stall = watcher.longest_stall(start)
        assert watcher.result().ok

    :raises BlockpathError: there is no such file
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        try:
            self._ring = write_ring.Ring(path)
        except OSError as error:
            raise errors.BlockpathError(
                f'cannot watch {self.path}: {error.strerror}') from error
        self._follower = write_follower.Follower(self._ring,
                                                 time.monotonic())
        super().__init__(self.path.name, self._follower)

    def _follow(self) -> None:
        write_follower.hurry()
        while not self._stop.is_set():
            self._follower.poll(time.monotonic())
            time.sleep(write_follower.POLL_S)

    def _end(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        self._ring.close()
