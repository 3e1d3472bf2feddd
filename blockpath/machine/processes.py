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
"""Processes that outlive the command that started them.

Each is recorded by its id, the time it started and the machine's boot, so
that a record never names a stranger that got the same id later.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

from blockpath.machine import errors

_BOOT_ID = pathlib.Path('/proc/sys/kernel/random/boot_id')
#: Lines of a dead service's log that an error shows.
TAIL = 12


#: Fields of /proc/PID/stat after the name, from 0.
_STATE, _SESSION, _THREADS, _START = 0, 3, 17, 19


def _stat(pid: int) -> list[str] | None:
    """What follows the name in /proc/PID/stat; None when it is gone."""
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything.
    return stat.rpartition(')')[2].split()


def _ended(fields: Sequence[str]) -> bool:
    # A first thread that has ended may leave others, with their ports.
    return fields[_STATE] in 'ZX' and int(fields[_THREADS]) < 2


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot.

    :returns: None when it does not exist or has ended (a zombie has).
    """
    fields = _stat(pid)
    return None if not fields or _ended(fields) else int(fields[_START])


def tail(log: str | pathlib.Path, lines: int = TAIL) -> list[str]:
    """Return the last lines of a log that are not blank."""
    try:
        with open(log, 'rb') as file:
            file.seek(max(0, os.path.getsize(log) - 16384))
            text = file.read().decode(errors='replace')
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that the lab started."""

    name: str
    pid: int
    start: int
    boot: str
    log: str

    @property
    def alive(self) -> bool:
        return (self.boot == _BOOT_ID.read_text().strip() and
                start_ticks(self.pid) == self.start)

    def tail(self, lines: int = TAIL) -> list[str]:
        """The last lines of its log."""
        return tail(self.log, lines)

    def check(self) -> None:
        """:raises ServiceDied: it has ended."""
        if not self.alive:
            raise errors.ServiceDied(self.name, self.log, self.tail())


class Records:
    """The processes of a lab, one file each.

    :param run: folder of the records.
    :param log: folder of the logs.
    """

    def __init__(self, run: pathlib.Path, log: pathlib.Path) -> None:
        self.run = run
        self.log = log

    def spawn(self, name: str, argv: Sequence[str],
              env: Mapping[str, str]) -> Process:
        """Start a process that stays, its output appended to its log."""
        log = self.log / f'{name}.log'
        with open(log, 'ab') as output:
            child = subprocess.Popen(
                argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True)
        return self.record(name, child.pid)

    def record(self, name: str, pid: int) -> Process:
        """Remember a process that is running.

        :raises ServiceDied: it is not.
        """
        log = self.log / f'{name}.log'
        process = Process(name, pid, start_ticks(pid) or 0,
                          _BOOT_ID.read_text().strip(), str(log))
        path = self.run / f'{name}.json'
        path.write_text(json.dumps(dataclasses.asdict(process)))
        process.check()
        return process

    def get(self, name: str) -> Process | None:
        try:
            return Process(**json.loads(
                (self.run / f'{name}.json').read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            # A record that was being written when the machine stopped is
            # none: such a process is found by its namespace.
            return None

    def all(self) -> list[Process]:
        names = sorted(path.stem for path in self.run.glob('*.json'))
        return [process for process in map(self.get, names) if process]

    def forget(self, name: str) -> None:
        (self.run / f'{name}.json').unlink(missing_ok=True)


@contextlib.contextmanager
def bound(argv: Sequence[str], **options: Any
          ) -> 'Iterator[subprocess.Popen[bytes]]':
    """Run a program that is killed when the block ends.

    It is killed with the thread that started it, too, however that ends.
    Ctrl-C does not reach it.

    :param options: for :class:`subprocess.Popen`
    """
    process = subprocess.Popen(['setpriv', '--pdeathsig', 'KILL', *argv],
                               start_new_session=True, **options)
    try:
        yield process
    finally:
        _signal(os.killpg, process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _reap(pids: Iterable[int]) -> None:
    """Collect those that are our own children."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        pass


def end(process: Process, grace: float) -> None:
    """End one process: ask first, insist after ``grace`` seconds.

    Those of its children in its session have the same time.
    """
    deadline = time.monotonic() + grace
    if process.alive:
        _signal(os.kill, process.pid, signal.SIGTERM)
    while _session(process) and time.monotonic() < deadline:
        _reap([process.pid])
        time.sleep(0.05)
    kill(process)


def kill(process: Process) -> None:
    """Kill one process, and those of its children in its session.

    They may have outlived it: oslo.service's launcher does not wait for all
    the processes that do the work.
    """
    while pids := _session(process):
        # One that forked meanwhile is found the next time.
        kill_all(pids)
    _reap([process.pid])


def _session(process: Process) -> list[int]:
    """The processes that live in the session that a process began."""
    if process.boot != _BOOT_ID.read_text().strip():
        return []
    leader = _stat(process.pid)
    if leader and int(leader[_START]) != process.start:
        # A number is free for another only when nothing is left of its
        # session.
        return []
    pids = (int(name) for name in os.listdir('/proc') if name.isdigit())
    found = ((pid, _stat(pid)) for pid in pids)
    return [pid for pid, fields in found
            if fields and not _ended(fields) and
            process.pid in (pid, int(fields[_SESSION]))]


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes whose ids were just read from /proc."""
    pids = list(pids)
    for pid in pids:
        _signal(os.kill, pid, signal.SIGKILL)
    time.sleep(0.02)
    _reap(pids)
