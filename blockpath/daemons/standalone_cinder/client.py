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
"""Tells a cinder-volume what to do, and kills it."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any
from typing import Self

from blockpath.daemons.standalone_cinder import daemon
from blockpath import errors

PATIENCE_S = 120

#: connection_info, and the ``seconds`` that the attachment took.
Told = dict[str, Any]


class Gone(Exception):
    """There is no such attachment any more."""


class Service:
    """A cinder-volume that may be killed and started again.

    :param scope: its ``target_scope``
    """

    def __init__(self, daemon: daemon.Tgtd, scope: str = 'host') -> None:
        self._daemon = daemon
        self.scope = scope

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(tempfile.TemporaryDirectory())
            self.volumes = pathlib.Path(stack.enter_context(
                tempfile.TemporaryDirectory(dir='/dev/shm')))
            self.start()
            stack.callback(self.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start it, also after a kill, and wait until it is ready.

        :raises: BlockpathError with its log if it ends instead
        """
        self._waiting: dict[int, concurrent.futures.Future[Any]] = {
            0: concurrent.futures.Future()}
        self._numbers = itertools.count(1)
        ready = self._waiting[0]
        with open(f'{self.folder}/log', 'ab') as log:
            self._child = subprocess.Popen(
                [sys.executable, '-W', 'ignore', '-m',
                 'blockpath.daemons.standalone_cinder.service', self.folder,
                 str(self.volumes.relative_to('/dev')),
                 self._daemon.portals[0], self.scope],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, env=os.environ | {
                    'TGT_IPC_SOCKET': self._daemon.socket,
                    'OS_CINDER_DISABLE_EVENTLET_PATCHING': '1'})
        self._listener = threading.Thread(
            target=self._listen, args=(self._child,), daemon=True)
        self._listener.start()
        try:
            ready.result(PATIENCE_S)
        except ConnectionError:
            self.kill()
            raise errors.BlockpathError(self.log()) from None
        except BaseException:
            self.kill()
            raise

    def _listen(self, child: 'subprocess.Popen[str]') -> None:
        assert child.stdout
        waiting = self._waiting
        for line in child.stdout:
            answer = json.loads(line)
            future = waiting.pop(answer['number'])
            if 'error' in answer:
                gone = 'VolumeAttachmentNotFound' in answer['error']
                future.set_exception((Gone if gone else errors.BlockpathError)(
                    answer['error']))
            else:
                future.set_result(answer['value'])
        for future in waiting.values():
            future.set_exception(ConnectionError('killed'))

    def ask(self, what: str, *args: str) -> 'concurrent.futures.Future[Any]':
        number = next(self._numbers)
        future = self._waiting[number] = concurrent.futures.Future()
        assert self._child.stdin
        self._child.stdin.write(json.dumps([number, what, *args]) + '\n')
        self._child.stdin.flush()
        return future

    def call(self, what: str, *args: str) -> Any:
        return self.ask(what, *args).result(PATIENCE_S)

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()
        self._listener.join()
        for stream in (self._child.stdin, self._child.stdout):
            assert stream
            stream.close()

    def log(self) -> str:
        return pathlib.Path(f'{self.folder}/log').read_text()

    def path(self, volume: str) -> str:
        return str(self.volumes / f'volume-{volume}')

    def attach(self, volume: str, initiator: str) -> tuple[str, Told]:
        attachment = self.call('reserve', volume)
        return attachment, self.call('attach', volume, attachment, initiator)
