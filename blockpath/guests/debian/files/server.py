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
"""Runs in a guest: calls Python functions of the checkout, each in a fork.

Importing what a function needs takes an emulated CPU half a minute; so it is
done once, by
``tree-python -m blockpath.guests.debian.files.server MODULE...``.

A connection brings one request, a line of JSON: function (``module:name``),
args, kwargs. It is answered by the process id, and at the end by a line of
JSON: value, or raised (the class's name) and traceback. What the call logs
and prints goes to ``/run/rig/log.<process id>``.
"""

import importlib
import json
import os
import signal
import socket
import sys

from blockpath.testbed import server as testbed_server

CALLS = '/run/rig/python'


def main(modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are not waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f'{CALLS}.new')
        listener.listen(16)
        os.rename(f'{CALLS}.new', CALLS)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                try:
                    serve(connection)
                finally:
                    os._exit(0)
            connection.close()


def serve(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(f'/run/rig/log.{os.getpid()}',
                  os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    stream = connection.makefile('rw')
    request = json.loads(stream.readline())
    print(os.getpid(), file=stream, flush=True)
    answer = testbed_server.call(request)
    sys.stdout.flush()
    print(json.dumps(answer), file=stream, flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
