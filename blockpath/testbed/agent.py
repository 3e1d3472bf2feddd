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
"""This machine's side of a host's server: calls, several at once."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import itertools
import json
import shlex
import subprocess
import threading
from typing import Any

from blockpath.machine import errors

TIMEOUT_S = 120.0


class CallFailed(errors.LabError):
    """A Python function on a host raised, or was killed.

    :ivar kind: the name of the exception's class; empty when killed.
    :ivar log: its output and log records.
    """

    def __init__(self, kind: str, reason: str, log: str) -> None:
        super().__init__(f'on a host: {reason}\n{log}')
        self.kind = kind
        self.log = log


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended; a code below zero is a signal's number."""

    code: int
    stdout: str
    stderr: str


class CommandFailed(errors.LabError):
    """A command on a host did not end with exit code 0."""

    def __init__(self, argv: Sequence[str], result: Result) -> None:
        super().__init__(f'{shlex.join(argv)}: ended with exit code '
                         f'{result.code}\n{result.stdout}{result.stderr}')
        self.result = result


class Call:
    """A Python function that runs on a host.

    :ivar log: its output and log records; known when it has ended.
    """

    def __init__(self, agent: 'Agent', number: int, timeout: float,
                 answer: concurrent.futures.Future[dict[str, Any]]) -> None:
        self._agent = agent
        self._number = number
        self._timeout = timeout
        self._answer = answer
        self.log = ''

    @property
    def running(self) -> bool:
        return not self._answer.done()

    def kill(self) -> None:
        """Kill the call and its programs, if it still runs."""
        self._agent.send(do='kill', id=self._number)

    def wait(self) -> Any:
        """Return the function's result.

        :raises CallFailed: it raised, or was killed.
        :raises TimedOut: it has taken too long, and was killed for that.
        """
        try:
            answer = self._answer.result(self._timeout)
        except concurrent.futures.TimeoutError:
            self.kill()
            raise errors.TimedOut('a call on a host did not end in '
                                  f'{self._timeout:g} s') from None
        self.log = answer['log']
        if 'raised' in answer:
            raise CallFailed(answer['raised'], answer['traceback'], self.log)
        if 'value' not in answer:
            raise CallFailed('', answer.get('ended', 'killed'), self.log)
        return answer['value']


class Agent:
    """Calls functions by way of a process that passes on lines of JSON.

    :param process: ends in ``server.py``; its pipes are binary
    :param why: returns the reason for the process's end
    """

    def __init__(self, process: 'subprocess.Popen[bytes]',
                 why: Callable[[], str]) -> None:
        self._process = process
        self._why = why
        self._numbers = itertools.count()
        self._answers: dict[int, concurrent.futures.Future[Any]] = {}
        self._ended = False
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def start(self, function: str, args: Sequence[Any],
              kwargs: Mapping[str, Any], timeout: float = TIMEOUT_S) -> Call:
        """Begin a call of ``module:function``."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            number = next(self._numbers)
            if self._ended:
                answer.set_result(self._gone())
            else:
                self._answers[number] = answer
        self.send(do='call', id=number, function=function, args=args,
                  kwargs=kwargs)
        return Call(self, number, timeout, answer)

    def send(self, **request: Any) -> None:
        """Pass on a request, unless the host has gone."""
        assert self._process.stdin
        try:
            with self._lock:
                self._process.stdin.write(json.dumps(request).encode() +
                                          b'\n')
                self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The reader reports the end.

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if not line.endswith(b'\n'):
                break  # The host ended in the middle of its answer.
            answer = json.loads(line)
            self._answers.pop(answer['id']).set_result(answer)
        with self._lock:
            self._ended = True
        for waiting in self._answers.values():
            waiting.set_result(self._gone())

    def _gone(self) -> dict[str, str]:
        return {'log': '', 'ended': self._why()}
