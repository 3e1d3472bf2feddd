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
"""A guest under QEMU alone, driven by QMP."""

import collections.abc
import itertools
import json
import pathlib
import socket
import subprocess
import time
import typing

from blockpath.guests import tiny

BOOT_S = 60.0
BUSES = {'virtio': ('virtio-blk-pci', None), 'scsi': ('scsi-hd', 'scsi.0')}


class Machine:
    """Boots the image; ends with ``close``, whatever state it is in.

    :param bus: of all disks, ``virtio`` or ``scsi``
    :param more: of QEMU's command line
    """

    def __init__(self, image: tiny.GuestImage, folder: pathlib.Path,
                 kind: str = 'q35', bus: str = 'virtio',
                 more: collections.abc.Sequence[str] = ()) -> None:
        self.console = folder / 'console'
        self.bus = bus
        self.ids = itertools.count()
        self.events: list[dict[str, typing.Any]] = []
        device = BUSES[bus][0]
        ours, theirs = socket.socketpair()
        with theirs:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                ['qemu-system-x86_64', '-machine', kind, '-accel', 'tcg',
                 '-m', '128', '-nodefaults', '-display', 'none',
                 '-serial', f'file:{self.console}',
                 '-chardev', f'socket,id=qmp,fd={theirs.fileno()}',
                 '-mon', 'chardev=qmp,mode=control',
                 *self._ports(kind),
                 # A user's guest mounts it.
                 '-drive', f'if=none,id=root,format=raw,snapshot=on,'
                           f'file={image.path}',
                 '-device', f'{device},drive=root,bootindex=1', *more],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self.socket = ours
        self.socket.settimeout(20)
        self.lines = ours.makefile('rb')
        self.lines.readline()  # the greeting
        self.qmp('qmp_capabilities')

    def _ports(self, kind: str) -> list[str]:
        """A controller, or on q35 a port to plug each disk into."""
        if self.bus == 'scsi':
            return ['-device', 'virtio-scsi-pci,id=scsi']
        if kind == 'pc':
            return []
        return [word for port in range(1, 4) for word in
                ('-device', f'pcie-root-port,id=port{port},chassis={port}')]

    def qmp(self, command: str, **arguments: typing.Any) -> typing.Any:
        """What the command returns; events on the way are kept."""
        message = {'execute': command, 'arguments': arguments}
        self.socket.sendall(json.dumps(message).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if 'error' in answer:
                raise AssertionError(f'{command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']
            self.events.append(answer)

    def wait_event(self, name: str) -> None:
        """The next such event; it may have come already."""
        while True:
            for event in self.events:
                if event['event'] == name:
                    self.events.remove(event)
                    return
            self.events.append(json.loads(self.lines.readline()))

    def plug(self, path: pathlib.Path, serial: str, port: int = 1,
             faults: collections.abc.Sequence[typing.Any] = (),
             group: str | None = None) -> str:
        """Plugs the file in as a disk; returns its name in QEMU.

        :param faults: errors that QEMU's blkdebug injects
        :param group: throttled as this group is, see ``hang``
        """
        name = f'disk{next(self.ids)}'
        node: dict[str, typing.Any] = {
            'driver': 'file', 'filename': str(path),
            'cache': {'direct': False, 'no-flush': True}}
        if faults:
            node = {'driver': 'blkdebug', 'image': node,
                    'inject-error': list(faults)}
        if group:
            self.qmp('object-add', **{'qom-type': 'throttle-group'}, id=group)
            node = {'driver': 'throttle', 'throttle-group': group,
                    'file': node}
        self.qmp('blockdev-add', **{'node-name': name}, **node)
        driver, bus = BUSES[self.bus]
        if self.bus == 'virtio':
            bus = f'port{port}'
        self.qmp('device_add', driver=driver, id=name, bus=bus, drive=name,
                 serial=serial, werror='report')
        return name

    def hang(self, group: str) -> None:
        """From now on no request to the group's disks ends."""
        self.qmp('qom-set', path=f'/objects/{group}', property='limits',
                 value={'bps-total': 1})

    def unplug(self, name: str) -> None:
        """Returns when the guest has let go of the disk."""
        self.qmp('device_del', id=name)
        self.wait_event('DEVICE_DELETED')

    def text(self) -> str:
        return self.console.read_text(errors='replace')

    def wait(self, done: collections.abc.Callable[[], typing.Any],
             what: str, seconds: float = BOOT_S) -> float:
        """Returns how long it took until ``done()``."""
        start = time.monotonic()
        while not done():
            if time.monotonic() - start > seconds:
                raise AssertionError(
                    f'no {what} in {seconds:g} s; the console says:\n'
                    f'{self.text()}')
            time.sleep(0.01)
        return time.monotonic() - start

    def wait_text(self, text: str, seconds: float = BOOT_S) -> float:
        return self.wait(lambda: text in self.text(), f'"{text}"', seconds)

    def power_button(self, seconds: float) -> float:
        """Presses it; returns how long the guest took to go."""
        self.qmp('system_powerdown')
        return self.wait(lambda: self.process.poll() is not None,
                         'power-off', seconds)

    def resident_mib(self) -> int:
        status = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        line = next(line for line in status.splitlines()
                    if line.startswith('VmRSS'))
        return int(line.split()[1]) // 1024

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.lines.close()
        self.socket.close()
