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
"""Watch the records that the lab's guest writes to a volume of another host.

Only the storage host's kernel can read its volumes. :class:`RemoteWatcher`
starts ``write_agent`` there, :func:`verify` runs it once. Both take a command
line that does so, such as ``kernel_host.Shell.command()`` returns.
"""

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import json
import math
import subprocess
import tempfile
import time
from typing import Any
from typing import Self

from blockpath import errors
from blockpath.observe import write_follower
from blockpath.observe import write_ring
from blockpath.observe import write_watcher

#: Seconds until an agent must follow the ring, on a busy machine.
START_S = 60.0
#: Seconds until an agent that was stopped must have ended.
END_S = 10.0
#: Seconds until a whole ring must have been verified.
VERIFY_S = 120.0
#: How often an agent's clock is read, at least and at most.
CLOCK_READINGS = 10
CLOCK_READINGS_MAX = 50
#: Seconds by which the offset of its clock may be wrong.
CLOCK_S = 0.020

_Message = dict[str, Any]


class RemoteWatcher(write_watcher.BaseWatcher):
    """Follows a ring through an agent on another host, until stopped.

    The agent reports a record within some 50 ms, with the time of its
    arrival.

    :param command: starts the agent
    :param name: of the volume, for messages
    """

    def __init__(self, command: Sequence[str], name: str) -> None:
        super().__init__(name, write_follower.Seen(time.monotonic()))
        self._command = command
        self._agent: _Agent | None = None
        self._follows = False

    def start(self) -> Self:
        """Start the agent; return when it follows the ring.

        :raises BlockpathError: it does not, or its clock cannot be read
        """
        self._agent = _Agent(self._command)
        try:
            super().start()
            deadline = time.monotonic() + START_S
            while self._thread.is_alive() and not self._follows:
                if time.monotonic() > deadline:
                    raise errors.BlockpathError(
                        f'{self.name}: the agent did not start to watch it '
                        f'within {START_S:g} s')
                time.sleep(write_follower.POLL_S)
            self._check()
        except BaseException:
            self.stop()
            raise
        return self

    def _follow(self) -> None:
        assert self._agent
        with contextlib.closing(self._agent.messages()) as messages:
            early = [next(messages)]
            offset = _measure_offset(self._agent, messages, early)
            for message in early:
                self._take(message, offset)
            self._follows = True
            for message in messages:
                self._take(message, offset)
        if not self._stop.is_set():
            raise errors.BlockpathError(
                'the agent ended before it was stopped')

    def _take(self, report: _Message, offset: float) -> None:
        """Take in a report of :class:`write_agent.Reporter`."""
        seen = self._seen
        seen.started = report['started'] - offset
        seen.times.extend(at - offset for at in report['times'])
        seen.blind += [write_follower.Stall(at - offset, seconds)
                       for at, seconds in report['blind']]
        seen.problems += [_problem(one | {'at': one['at'] - offset})
                          for one in report['problems']]
        seen.runs.runs = [write_ring.Run(**one) for one in report['runs']]
        # Last: other threads rely on the rest up to this time.
        seen.looked = report['looked'] - offset

    def _end(self) -> None:
        if self._agent:
            self._agent.end()
            self._thread.join(END_S)
            self._agent.close()


def verify(command: Sequence[str]) -> write_ring.Result:
    """Verify all that a ring on another host holds.

    :param command: starts the agent there, with ``--verify``
    :raises BlockpathError: the ring cannot be read
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=VERIFY_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.BlockpathError(
            f'the agent cannot verify: {error}') from error
    if not done.stdout.endswith(b'\n'):
        raise errors.BlockpathError(_last_words(done.returncode, done.stderr))
    found = _parse(done.stdout)
    return write_ring.Result(
        found['records'],
        tuple(write_ring.Run(**one) for one in found['runs']),
        tuple(_problem(one) for one in found['problems']))


class _Agent:
    """A process that runs write_agent, or that is connected to it."""

    def __init__(self, command: Sequence[str]) -> None:
        # A file: a process that ssh leaves behind would keep a pipe open.
        self._stderr = tempfile.TemporaryFile()
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._stderr)
        except OSError as error:
            self._stderr.close()
            raise errors.BlockpathError(
                f'the agent cannot be started: {error}') from error

    def messages(self) -> Generator[_Message, None, None]:
        """Yield all that the agent prints, up to its last report.

        :raises BlockpathError: it ends before that; with its last words
        """
        assert self._child.stdout
        with self._child.stdout as lines:
            for line in lines:
                if not line.endswith(b'\n'):
                    break
                message = _parse(line)
                yield message
                if message.get('ended'):
                    return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_S)
        self._stderr.seek(0)
        raise errors.BlockpathError(
            _last_words(self._child.returncode, self._stderr.read()))

    def ask(self) -> None:
        """Ask for the time of the agent's clock."""
        assert self._child.stdin
        # An agent that has died is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(b'\n')
            self._child.stdin.flush()

    def end(self) -> None:
        """Ask the agent to end, and kill it if it does not."""
        assert self._child.stdin
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def close(self) -> None:
        self._stderr.close()


def _measure_offset(agent: _Agent, messages: Iterator[_Message],
                    early: list[_Message]) -> float:
    """Return by how much the agent's clock is ahead of this machine's.

    :param messages: of the agent
    :param early: takes those that are not about the clock
    :raises BlockpathError: it cannot be known well enough
    """
    best, offset = math.inf, 0.0
    for count in range(1, CLOCK_READINGS_MAX + 1):
        asked = time.monotonic()
        agent.ask()
        message = next(messages)
        while 'clock' not in message:
            early.append(message)
            message = next(messages)
        answered = time.monotonic()
        if answered - asked < best:
            best = answered - asked
            offset = message['clock'] - (asked + answered) / 2
        if count >= CLOCK_READINGS and best / 2 <= CLOCK_S:
            return offset
    raise errors.BlockpathError(
        f'the clock of the agent is known to {best / 2 * 1000:.0f} ms only: '
        f'none of {CLOCK_READINGS_MAX} answers came sooner')


def _parse(line: bytes) -> _Message:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise errors.BlockpathError(
            f'the agent printed {line[:200]!r}') from error
    if 'failed' in message:
        raise errors.BlockpathError(message['failed'])
    return message


def _last_words(status: int | None, stderr: bytes) -> str:
    said = ' '.join(stderr.decode(errors='replace').split())
    return f'the agent ended with exit status {status}' + (
        f': {said[-400:]}' if said else '')


def _problem(values: _Message) -> write_ring.Problem:
    return write_ring.Problem(
        **values | {'kind': write_ring.Kind(values['kind'])})
