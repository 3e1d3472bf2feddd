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
"""What a program takes: its time, its processors' time, its memory.

A program may have children, as ``nbdcopy`` has ``qemu-nbd``; all of them
count.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
from typing import IO

from blockpath.machine import errors

#: Names the descriptor to which a program may write what it measured itself.
RESULT_FD = 'BLOCKPATH_RESULT_FD'
#: Seconds after which a program is taken to hang.
LIMIT = 300.0
#: Seconds between two looks at the memory of the children.
_INTERVAL = 0.05
_TICKS = os.sysconf('SC_CLK_TCK')


class Failed(errors.LabError):
    """A program that was to be measured failed."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a program took.

    :ivar seconds: from its start to its end, or those of its own marks.
    :ivar cpu: seconds, user and system.
    :ivar memory: bytes at the peak; over what it took at its own mark.
    """

    seconds: float
    cpu: float
    memory: int


def cpu_seconds(pid: int) -> float:
    """The processors' time that a process has taken, its threads included."""
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    # The name, in parentheses, may hold anything.
    fields = stat.rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def status_bytes(pid: int | str, key: str) -> int:
    """A size in /proc/PID/status; 0 of a process that has ended."""
    try:
        lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in lines:
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) << 10
    return 0


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found = []
    try:
        threads = os.listdir(f'/proc/{pid}/task')
    except (FileNotFoundError, ProcessLookupError):
        return []
    for thread in threads:
        path = pathlib.Path(f'/proc/{pid}/task/{thread}/children')
        try:
            children = [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


class _Peaks(threading.Thread):
    """Watches the memory of a process and its descendants until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stop_asked = threading.Event()
        self._peaks: dict[int, int] = {}

    def run(self) -> None:
        while not self._stop_asked.wait(_INTERVAL):
            for pid in (self._pid, *descendants(self._pid)):
                # The last look counts: before it executed its program, a
                # child was a copy of its parent.
                peak = status_bytes(pid, 'VmHWM')
                if peak:
                    self._peaks[pid] = peak

    def stop(self, alone: bool) -> int:
        """:param alone: only the children count
        :returns: bytes, each process at its peak
        """
        self._stop_asked.set()
        self.join()
        if alone:
            self._peaks.pop(self._pid, None)
        return sum(self._peaks.values())


def run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Usage:
    """Run a program to its end.

    It may write what it measured of itself, as JSON of a Usage, to the
    descriptor that the environment's RESULT_FD names. Its children are added
    to that: their memory here, their time by the program itself.

    :raises Failed: with the end of what it said
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as own:
        began = time.monotonic()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=said, start_new_session=True, pass_fds=[own.fileno()],
            env={**os.environ, **(env or {}), RESULT_FD: str(own.fileno())})
        peaks = _Peaks(child.pid)
        peaks.start()
        late = threading.Timer(LIMIT, _kill, [child])
        late.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            _kill(child)
            child.wait()
            raise
        finally:
            late.cancel()
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        own.seek(0)
        text = own.read()
        memory = peaks.stop(alone=bool(text))
        if child.returncode:
            raise Failed(f'{" ".join(argv)} failed '
                         f'({child.returncode}): {_end(said)}')
    if not text:
        return Usage(seconds, usage.ru_utime + usage.ru_stime, memory)
    measured = Usage(**json.loads(text))
    return dataclasses.replace(measured, memory=measured.memory + memory)


def _kill(child: 'subprocess.Popen[bytes]') -> None:
    # It has a session, and so a group, of its own.
    os.killpg(child.pid, signal.SIGKILL)


def _end(stream: IO[bytes]) -> str:
    stream.seek(0)
    lines = stream.read().decode(errors='replace').splitlines()
    return '; '.join(line.strip() for line in lines[-5:] if line.strip())


class Meter:
    """Measures this process from its making to :meth:`report`."""

    def __init__(self) -> None:
        # The peak of what was imported is not the copy's.
        pathlib.Path('/proc/self/clear_refs').write_text('5')
        self._idle = status_bytes('self', 'VmRSS')
        self._cpu = self._taken()
        self._began = time.monotonic()

    @staticmethod
    def _taken() -> float:
        times = os.times()
        return (times.user + times.system + times.children_user +
                times.children_system)

    def usage(self) -> Usage:
        return Usage(time.monotonic() - self._began,
                     self._taken() - self._cpu,
                     max(0, status_bytes('self', 'VmHWM') - self._idle))

    def report(self, usage: Usage) -> None:
        """Tell it to whoever runs this program by :func:`run`."""
        with os.fdopen(int(os.environ[RESULT_FD]), 'w') as out:
            json.dump(dataclasses.asdict(usage), out)


def servers(pids: Mapping[str, int]) -> Callable[[], dict[str, float]]:
    """:returns: tells the seconds that each took of processors since now"""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    return lambda: {name: cpu_seconds(pid) - before[name]
                    for name, pid in pids.items()}
