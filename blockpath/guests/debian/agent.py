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
"""The host's side of a guest's agent: commands, several at once."""

from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import itertools
import json
import os
import shlex
import signal
import socket
import threading
import time
from typing import Any

from blockpath.machine import errors

TIMEOUT_S = 120.0
#: How much longer than a command's own time its answer may take.
GRACE_S = 30.0
#: The first call waits for the imports.
SERVER_S = 210.0


class CommandFailed(errors.LabError):
    """A command in a guest did not end with exit code 0."""

    def __init__(self, argv: list[str], result: 'Result') -> None:
        how = ('ran out of time' if result.code is None else
               f'ended with exit code {result.code}')
        super().__init__(f'{shlex.join(argv)}: {how}\n{result.stdout}'
                         f'{result.stderr}')
        self.result = result


@dataclasses.dataclass(frozen=True)
class Result:
    #: Negative: the signal that ended it; None: it ran out of time.
    code: int | None
    stdout: str
    stderr: str


class Request:
    """One that is being answered."""

    def __init__(self, agent: 'Agent', number: int, timeout: float,
                 answer: concurrent.futures.Future[dict[str, Any]]) -> None:
        self._agent = agent
        self._number = number
        self._timeout = timeout
        self._answer = answer

    @property
    def running(self) -> bool:
        return not self._answer.done()

    def take(self) -> dict[str, Any]:
        """Wait for the answer.

        :raises LabError: none came, or it is an error.
        """
        try:
            fields = self._answer.result(self._timeout)
        except concurrent.futures.TimeoutError:
            raise errors.TimedOut('a guest did not answer in '
                                  f'{self._timeout:g} s') from None
        if 'error' in fields:
            raise errors.LabError(fields['error'])
        return fields

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Signal its process group; False when it had ended."""
        return self._agent.ask('signal', of=self._number,
                               number=number)['sent']


class Command:
    """One that was started; ``wait`` for it, or ``kill`` it before."""

    def __init__(self, argv: list[str], request: Request) -> None:
        self._argv = argv
        self._request = request
        self.kill = request.kill

    @property
    def running(self) -> bool:
        return self._request.running

    def result(self) -> Result:
        """Wait for its end, whatever that is."""
        return Result(**self._request.take())

    def wait(self) -> str:
        """What it wrote to standard output.

        :raises CommandFailed: its exit code is not 0.
        """
        result = self.result()
        if result.code != 0:
            raise CommandFailed(self._argv, result)
        return result.stdout


class CallFailed(errors.LabError):
    """A Python function in a guest raised, or was killed.

    :ivar kind: the name of the exception's class; empty when killed.
    :ivar log: what it logged and printed.
    """

    def __init__(self, kind: str, what: str, log: str) -> None:
        super().__init__(f'in a guest: {what}\n{log}')
        self.kind = kind
        self.log = log


class Call:
    """A Python function that runs in a guest.

    :ivar log: what it logged and printed; known when it has ended.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.log = ''
        self.kill = request.kill

    @property
    def running(self) -> bool:
        return self._request.running

    def wait(self) -> Any:
        """What it returned.

        :raises CallFailed: it raised, was killed or ran out of time.
        """
        fields = self._request.take()
        self.log = fields['log']
        if not fields['answer']:
            raise CallFailed('', 'killed', self.log)
        answer = json.loads(fields['answer'])
        if 'raised' in answer:
            raise CallFailed(answer['raised'], answer['traceback'], self.log)
        return answer['value']


class Agent:
    """Requests and answers, each a line of JSON; see ``files/agent.py``.

    :param port: the host's end of the guest's virtio-serial port.
    """

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._ids = itertools.count()
        self._answers: dict[int, concurrent.futures.Future[Any]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def wake(self) -> None:
        """Give the guest the time, and randomness of its own."""
        self.ask('wake', time=time.time(), seed=os.urandom(64).hex())

    def environ(self, **env: str) -> None:
        """For all commands that follow."""
        self.ask('env', env=env)

    def start(self, *argv: str, stdin: str = '', timeout: float = TIMEOUT_S,
              env: dict[str, str] | None = None) -> Command:
        return Command(list(argv), self.send(
            'run', timeout + GRACE_S, argv=argv, stdin=stdin,
            timeout=timeout, env=env or {}))

    def call(self, function: str, args: Sequence[Any],
             kwargs: Mapping[str, Any], timeout: float) -> 'Call':
        return Call(self.send(
            'call', timeout + SERVER_S, function=function, args=args,
            kwargs=kwargs, timeout=timeout))

    def ask(self, do: str, wait_s: float = GRACE_S,
            **fields: Any) -> dict[str, Any]:
        """:raises LabError: no answer in that many seconds, or an error."""
        return self.send(do, wait_s, **fields).take()

    def send(self, do: str, wait_s: float, **fields: Any) -> Request:
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            number = next(self._ids)
            self._answers[number] = answer
            line = json.dumps({'id': number, 'do': do, **fields})
            self._port.sendall(line.encode() + b'\n')
        return Request(self, number, wait_s, answer)

    def _read(self) -> None:
        try:
            with self._port.makefile('rb') as lines:
                for line in lines:
                    fields = json.loads(line)
                    self._answers.pop(fields.pop('id')).set_result(fields)
        except OSError:
            pass  # reset by QEMU, when it is killed
        gone = {'error': 'the guest has ended'}
        for answer in list(self._answers.values()):
            answer.set_result(gone)
