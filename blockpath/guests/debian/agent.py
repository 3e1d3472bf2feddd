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
import itertools
import json
import socket
import threading
from typing import Any

from blockpath.machine import errors
from blockpath.testbed import agent

TIMEOUT_S = 120.0
#: How much longer than a command's own time its answer may take.
GRACE_S = 30.0
#: The first call waits for the imports.
SERVER_S = 210.0


class Request:
    """A request that the guest has not answered, or has."""

    def __init__(self, timeout: float,
                 answer: concurrent.futures.Future[dict[str, Any]]) -> None:
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


class Command:
    """A command that was started in a guest."""

    def __init__(self, argv: list[str], request: Request) -> None:
        self._argv = argv
        self._request = request

    @property
    def running(self) -> bool:
        return self._request.running

    def result(self) -> agent.Result:
        """Wait for its end, whatever that is.

        :raises TimedOut: it took too long, and was killed
        """
        result = agent.Result(**self._request.take())
        if result.code is None:
            raise errors.TimedOut(f'in a guest: {self._argv} did not end')
        return result

    def wait(self) -> str:
        """Return its standard output.

        :raises CommandFailed: its exit code is not 0.
        """
        result = self.result()
        if result.code != 0:
            raise agent.CommandFailed(self._argv, result)
        return result.stdout


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

    def start(self, *argv: str, stdin: str = '', timeout: float = TIMEOUT_S,
              env: dict[str, str] | None = None) -> Command:
        return Command(list(argv), self._send(
            'run', timeout + GRACE_S, argv=argv, stdin=stdin,
            timeout=timeout, env=env or {}))

    def call(self, function: str, args: Sequence[Any],
             kwargs: Mapping[str, Any], timeout: float) -> Any:
        """Call a Python function in the guest; return its result.

        :raises CallFailed: it raised, or ran out of time
        """
        fields = self._send(
            'call', timeout + SERVER_S, function=function, args=args,
            kwargs=kwargs, timeout=timeout).take()
        answer = json.loads(fields['answer'] or '{}')
        if 'value' not in answer:
            raise agent.CallFailed(answer.get('raised', ''),
                                   answer.get('traceback', 'killed'),
                                   fields['log'])
        return answer['value']

    def ask(self, do: str, wait_s: float, **fields: Any) -> dict[str, Any]:
        """:raises LabError: no answer in that many seconds, or an error."""
        return self._send(do, wait_s, **fields).take()

    def _send(self, do: str, wait_s: float, **fields: Any) -> Request:
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            number = next(self._ids)
            self._answers[number] = answer
            line = json.dumps({'id': number, 'do': do, **fields})
            self._port.sendall(line.encode() + b'\n')
        return Request(wait_s, answer)

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
