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
"""A tgtd on loopback, beside those that the host may have."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time
from typing import Self

from blockpath.daemons import tgt
from blockpath import errors

_PATIENCE_S = 10


def free_port(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Tgtd:
    """The daemon, without targets.

    :ivar socket: what tgtadm finds it by, TGT_IPC_SOCKET
    :ivar portals: as connection_info has them
    :param control: which of the daemons that have this socket
    """

    def __init__(self, portals: int = 1, ipv6: bool = False,
                 control: int = 0) -> None:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        address = '::1' if ipv6 else '127.0.0.1'
        host = f'[{address}]' if ipv6 else address
        self.portals = [f'{host}:{free_port(family, address)}'
                        for _ in range(portals)]
        self._control = control
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        self.socket = str(self.folder / 'socket')
        self.client = tgt.Client(f'{self.socket}.{control}')

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """:raises BlockpathError: it does not answer"""
        log = self.folder / 'log'
        with log.open('ab') as output:
            self.process = subprocess.Popen(
                ['tgtd', '--foreground', '--control-port', str(self._control),
                 '--iscsi', ','.join(f'portal={p}' for p in self.portals)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | {'TGT_IPC_SOCKET': self.socket})
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.client.portals()
                return
            except OSError:
                if (self.process.poll() is not None or
                        time.monotonic() > deadline):
                    self.stop()
                    raise errors.BlockpathError(
                        f'tgtd: {log.read_text()}') from None
            time.sleep(0.05)

    def stop(self) -> None:
        # It stays for as long as it has targets, if it is asked politely.
        self.process.kill()
        self.process.wait()

    def sessions(self) -> list[str]:
        """The initiators that are logged in."""
        return [session.initiator for target in self.client.show()
                for session in target.sessions]
