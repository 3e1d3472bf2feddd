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
"""A guest under QEMU: its process, its cables and its agent."""

from collections.abc import Sequence
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
from typing import Any

from blockpath.guests.debian import agent
from blockpath.guests.debian import image
from blockpath.machine import errors
from blockpath.machine import wait
from blockpath import paths

QEMU = 'qemu-system-x86_64'
#: Network cards of every guest; those without a cable have no link.
CARDS = 3
MEMORY_MIB = 1024
CPUS = 2
PORT = 'blockpath.rig'
TAG = 'checkout'
QMP_S = 60.0
#: Terse, and without what costs an emulated CPU time at boot.
CMDLINE = ('root=/dev/vda rw console=ttyS0,115200 quiet loglevel=3 panic=10 '
           'mitigations=off random.trust_cpu=on 8250.nr_uarts=1 '
           'cryptomgr.notests net.ifnames=0 apparmor=0 audit=0 nokaslr '
           'systemd.unit=rig.target')


class Machine:
    """Starts at once; ends with ``close``, or with the thread that made it.

    :param folder: for its console's text and its socket
    :param disk: a qcow2 image that it may write to
    :param cables: a datagram socket for each network card, from the first
    :param state: a file to go on from, instead of booting
    """

    def __init__(self, source: image.Image, folder: pathlib.Path,
                 disk: pathlib.Path, cables: Sequence[socket.socket] = (),
                 state: pathlib.Path | None = None) -> None:
        self.folder = folder
        self.console = folder / 'console.log'
        self._lock = threading.Lock()
        monitor, monitor_end = socket.socketpair()
        port, port_end = socket.socketpair()
        ends = [monitor_end, port_end, *cables]
        command = self._command(source, disk, monitor_end, port_end, cables)
        if state:
            command += ['-incoming', f'exec:cat {state}']
        with monitor_end, port_end, (folder / 'qemu.log').open('wb') as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[end.fileno() for end in ends])
        monitor.settimeout(QMP_S)
        self._monitor = monitor
        self._lines = monitor.makefile('rb')
        self._port = port
        self.agent = agent.Agent(port)
        try:
            self._read_line()  # the greeting
            self.qmp('qmp_capabilities')
        except BaseException:
            self.close()
            raise

    def _command(self, source: image.Image, disk: pathlib.Path,
                 monitor: socket.socket, port: socket.socket,
                 cables: Sequence[socket.socket]) -> list[str]:
        command = [
            'setpriv', '--pdeathsig', 'KILL', QEMU, '-machine', 'q35',
            '-accel', 'tcg', '-cpu', 'max',
            '-m', str(MEMORY_MIB), '-smp', str(CPUS), '-nodefaults',
            '-display', 'none', '-no-reboot',
            '-kernel', str(source.vmlinuz), '-initrd', str(source.initrd),
            '-append', CMDLINE,
            '-chardev', f'socket,id=console,path={self.folder}/console,'
                        f'server=on,wait=off,logfile={self.console}',
            '-serial', 'chardev:console',
            '-chardev', f'socket,id=qmp,fd={monitor.fileno()}',
            '-mon', 'chardev=qmp,mode=control',
            '-drive', f'if=none,id=root,format=qcow2,cache=unsafe,'
                      f'file={disk}',
            '-device', 'virtio-blk-pci,drive=root',
            '-device', 'virtio-serial-pci',
            '-chardev', f'socket,id=agent,fd={port.fileno()}',
            '-device', f'virtserialport,chardev=agent,name={PORT}',
            '-fsdev', f'local,id=tree,path={paths.ROOT},readonly=on,'
                      'security_model=none,multidevs=remap',
            '-device', f'virtio-9p-pci,fsdev=tree,mount_tag={TAG}']
        for number in range(CARDS):
            device = f'virtio-net-pci,id=card{number}'
            if number < len(cables):
                fd = cables[number].fileno()
                command += ['-netdev', f'dgram,id=net{number},'
                                       f'local.type=fd,local.str={fd}']
            else:
                command += ['-netdev', f'hubport,id=net{number},'
                                       f'hubid={number}']
            command += ['-device', f'{device},netdev=net{number}']
        return command

    def qmp(self, command: str, **arguments: Any) -> Any:
        """What the command returns.

        :raises LabError: QEMU refused it, or has ended.
        """
        message = {'execute': command, 'arguments': arguments}
        with self._lock:
            self._monitor.sendall(json.dumps(message).encode())
            while True:
                answer = self._read_line()
                if 'error' in answer:
                    raise errors.LabError(
                        f'{command}: {answer["error"]["desc"]}')
                if 'return' in answer:
                    return answer['return']

    def _read_line(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            log = (self.folder / 'qemu.log').read_text(errors='replace')
            raise errors.LabError(f'a guest\'s QEMU ended: {log.strip()}')
        return json.loads(line)

    def wait_for_agent(self, seconds: float) -> float:
        """Returns how many seconds it took to answer.

        :raises TimedOut: it did not; with the console's last lines.
        """
        start = time.monotonic()
        try:
            self.agent.ask('wake', seconds, time=time.time(),
                           seed=os.urandom(64).hex())
        except errors.TimedOut:
            text = self.console.read_text(errors='replace').splitlines()
            raise errors.TimedOut(
                f'a guest did not boot in {seconds:g} s; its console says: ' +
                '\n'.join(text[-20:])) from None
        return time.monotonic() - start

    def save(self, state: pathlib.Path) -> None:
        """Write what the guest is to a file, and end it."""
        self.qmp('migrate-set-parameters', **{'max-bandwidth': 4 << 30})
        self.qmp('migrate', uri=f'exec:cat > {state}')
        wait.until(self._migrated, 'a guest to be saved', 120)
        self.qmp('quit')
        self.process.wait(30)

    def _migrated(self) -> bool:
        status = self.qmp('query-migrate')
        if status['status'] == 'failed':
            raise errors.LabError('a guest could not be saved: '
                                  f'{status.get("error-desc", "no reason")}')
        return status['status'] == 'completed'

    def close(self) -> None:
        """End it, as if its power was cut."""
        self.process.kill()
        self.process.wait()
        self._lines.close()
        for end in (self._monitor, self._port):
            try:
                end.shutdown(socket.SHUT_RDWR)  # for the agent's reader
            except OSError:
                pass
            end.close()
