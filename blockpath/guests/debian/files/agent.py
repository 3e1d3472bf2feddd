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
"""Runs in a guest: does what it is asked on a virtio-serial port.

A request is a line of JSON with ``id`` and ``do``; each is answered by a line
with that ``id``, in whatever order they end:

run     argv, stdin, env, timeout (s) -> code, stdout, stderr. Text is UTF-8;
        a code below zero is a signal's number, and None is the time-out.
call    function, args, kwargs, timeout (s) -> pid, and answer and log, see
        ``server.py``; answer is empty when the call was killed.
wake    time (s since the epoch), seed (hexadecimal): after a snapshot.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from typing import Any

CALLS = '/run/rig/python'
SERVER_S = 180
PORT = '/dev/virtio-ports/blockpath.rig'
RNDRESEEDCRNG = 0x5207


class Agent:

    def __init__(self, port: int) -> None:
        #: A descriptor: such a port can be opened only once.
        self.port = port
        self.lock = threading.Lock()
        self.env = {'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:'
                            '/usr/bin:/sbin:/bin',
                    'HOME': '/root', 'LC_ALL': 'C.UTF-8'}

    def serve(self) -> None:
        rest = b''
        while True:
            got = os.read(self.port, 1 << 16)
            if not got:  # nobody is at the other end
                time.sleep(0.1)
            *lines, rest = (rest + got).split(b'\n')
            for line in lines:
                threading.Thread(target=self.answer, daemon=True,
                                 args=(json.loads(line),)).start()

    def answer(self, request: dict[str, Any]) -> None:
        try:
            answer = getattr(self, 'do_' + request['do'])(request)
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'}
        line = json.dumps({'id': request['id'], **answer}).encode() + b'\n'
        with self.lock:
            while line:
                line = line[os.write(self.port, line):]

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        process = subprocess.Popen(
            request['argv'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
            env=self.env | request.get('env', {}))
        text = request.get('stdin', '').encode()
        timed_out = False
        try:
            out, err = process.communicate(text, request['timeout'])
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        return {'code': None if timed_out else process.returncode,
                'stdout': out.decode(errors='replace'),
                'stderr': err.decode(errors='replace')}

    def do_call(self, request: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + SERVER_S
        while not os.path.exists(CALLS) and time.monotonic() < deadline:
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(CALLS)
            stream = connection.makefile('rw')
            stream.write(json.dumps(request) + '\n')
            stream.flush()
            pid = int(stream.readline())
            connection.settimeout(request['timeout'])
            try:
                answer = stream.readline()
            except TimeoutError:
                os.killpg(pid, signal.SIGKILL)
                answer = ''
        path = f'/run/rig/log.{pid}'
        with open(path, errors='replace') as log:
            text = log.read()
        os.unlink(path)
        return {'pid': pid, 'answer': answer, 'log': text}

    def do_wake(self, request: dict[str, Any]) -> dict[str, Any]:
        time.clock_settime(time.CLOCK_REALTIME, request['time'])
        with open('/dev/urandom', 'wb', buffering=0) as pool:
            pool.write(bytes.fromhex(request['seed']))
            fcntl.ioctl(pool, RNDRESEEDCRNG)
        return {}


def main() -> None:
    os.makedirs('/run/rig', exist_ok=True)
    while not os.path.exists(PORT):  # udev makes it
        time.sleep(0.05)
    Agent(os.open(PORT, os.O_RDWR)).serve()


if __name__ == '__main__':
    main()
