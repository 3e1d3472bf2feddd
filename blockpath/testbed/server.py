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
"""Serve calls of Python functions on a host, each in a process of its own.

``python -m blockpath.testbed.server MODULE...`` imports the modules once, for
all calls. A request is a line of JSON on standard input:

call  id, function (``module:name``), args, kwargs
kill  id: of a call that may be running

The server answers each call with a line of JSON on standard output: id, log
(the output and log records of the call), and value, or raised (the class's
name) and traceback, or neither when the call was killed.
"""

import contextlib
import importlib
import json
import logging
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import traceback
from typing import Any

#: Files that calls share.
FOLDER = pathlib.Path('/run/testbed')


class Server:

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        #: Calls, by the pipe that brings the answer.
        self._calls: dict[int, dict[str, Any]] = {}

    def serve(self) -> None:
        """Serve until standard input ends."""
        rest = b''
        while True:
            for key, _ in self._selector.select():
                data = os.read(key.fd, 1 << 16)
                if key.fd != self._requests:
                    self._hear(key.fd, data)
                elif data:
                    *lines, rest = (rest + data).split(b'\n')
                    for line in lines:
                        self._take(json.loads(line))
                else:
                    return

    def _take(self, request: dict[str, Any]) -> None:
        if request['do'] == 'kill':
            for call in self._calls.values():
                if call['id'] == request['id']:
                    # Its process is not collected yet: no other has its id.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(call['pid'], signal.SIGKILL)
            return
        path = FOLDER / f'log.{request["id"]}'
        log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
                      0o600)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                # Else they stay open when the server ends.
                os.close(self._requests)
                os.close(self._answers)
                run_call(request, writer, log)
            finally:
                os._exit(0)
        os.close(writer)
        os.close(log)
        _set_group(pid)
        self._calls[reader] = {'id': request['id'], 'pid': pid, 'log': path,
                               'answer': b''}
        self._selector.register(reader, selectors.EVENT_READ)

    def _hear(self, reader: int, data: bytes) -> None:
        call = self._calls[reader]
        call['answer'] += data
        whole = call['answer'].endswith(b'\n')
        if data and not whole:
            return
        self._selector.unregister(reader)
        os.close(reader)
        del self._calls[reader]
        os.waitpid(call['pid'], 0)
        answer = json.loads(call['answer']) if whole else {}
        answer |= {'id': call['id'],
                   'log': call['log'].read_text(errors='replace')}
        line = json.dumps(answer).encode() + b'\n'
        while line:
            line = line[os.write(self._answers, line):]


def _set_group(pid: int) -> None:
    """Give a process its own group, whether it or its parent is first."""
    # The process may have ended, or run another program.
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)


def run_call(request: dict[str, Any], writer: int, log: int) -> None:
    """Run a call in a process of its own and write its answer.

    :param writer: takes the answer, a line of JSON
    :param log: takes the output and log records
    """
    _set_group(os.getpid())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    answer = call(request)
    sys.stdout.flush()
    with open(writer, 'w') as stream:
        stream.write(json.dumps(answer) + '\n')


def call(request: dict[str, Any]) -> dict[str, Any]:
    """Call a function; return its value, or the exception it raised."""
    logging.basicConfig(level=logging.DEBUG, force=True)
    try:
        module, name = request['function'].split(':')
        function = getattr(importlib.import_module(module), name)
        answer = {'value': function(*request['args'], **request['kwargs'])}
        json.dumps(answer)
        return answer
    except BaseException as error:
        return {'raised': type(error).__name__,
                'traceback': traceback.format_exc()}


def run(argv: list[str], stdin: str = '',
        env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command to its end; return its code, stdout and stderr."""
    done = subprocess.run(argv, input=stdin, text=True, errors='replace',
                          capture_output=True, env=os.environ | (env or {}))
    return {'code': done.returncode, 'stdout': done.stdout,
            'stderr': done.stderr}


def main(modules: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    for name in modules:
        importlib.import_module(name)
    Server(requests, answers).serve()


if __name__ == '__main__':
    main(sys.argv[1:])
