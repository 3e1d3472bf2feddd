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
"""Whether KVM truly boots the guest here; emulation does it otherwise.

/dev/kvm says little: on a nested hypervisor it may be there and hang any
ordinary kernel. So the guest is booted with it, once for each host kernel,
processor and image.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

import click

from blockpath import errors
from blockpath.guests import tiny
from blockpath import paths

DEVICE = pathlib.Path('/dev/kvm')
QEMU = 'qemu-system-x86_64'
VERDICTS = paths.CACHE / 'kvm.json'
#: Emulation needs 3 s; what KVM has not booted by now, it never will.
DEADLINE_S = 12.0
POLL_S = 0.05
#: The writer's first report: it boots, finds a disk, and writes to it.
WRITTEN = b': record 0,'


def domain_type(image: tiny.GuestImage,
                say: tiny.Say | None = None) -> str:
    """libvirt's domain type for guests here: ``kvm`` or ``qemu``.

    :param say: told of the attempt, a line each; stderr by default
    :raises BlockpathError: QEMU is not installed
    """
    say = say or _say
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return 'qemu'
    key = ' / '.join((os.uname().release, _processor(), image.digest))
    verdicts = _load()
    if key not in verdicts:
        say(f'guest: trying KVM, for {DEADLINE_S:g} s at most')
        verdicts[key] = boots(image, 'kvm', DEADLINE_S)
        _save(verdicts)
        say('guest: KVM boots it' if verdicts[key] else
            'guest: KVM does not boot it, emulation will')
    return 'kvm' if verdicts[key] else 'qemu'


def boots(image: tiny.GuestImage, accel: str, deadline: float) -> bool:
    """Whether the guest writes its first record within ``deadline`` seconds.

    :param accel: QEMU's accelerator, ``kvm`` or ``tcg``
    :raises BlockpathError: QEMU is not installed
    """
    with tempfile.TemporaryDirectory(prefix='blockpath-kvm-') as name:
        console = pathlib.Path(name) / 'console'
        disk = pathlib.Path(name) / 'disk'
        console.touch()
        with open(disk, 'wb') as file:
            file.truncate(1 << 20)
        try:
            machine = subprocess.Popen(
                _command(image, accel, console, disk),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise errors.BlockpathError(
                f'{QEMU} is missing: apt-get install qemu-system-x86'
            ) from error
        try:
            return _wait(machine, console, time.monotonic() + deadline)
        finally:
            machine.kill()
            machine.wait()


def _command(image: tiny.GuestImage, accel: str, console: pathlib.Path,
             disk: pathlib.Path) -> list[str]:
    cpu = 'host' if accel == 'kvm' else 'qemu64'
    return [QEMU, '-machine', 'q35', '-accel', accel, '-cpu', cpu,
            '-m', '128', '-nodefaults', '-display', 'none',
            '-no-reboot', '-serial', f'file:{console}',
            '-drive', f'if=none,id=root,format=raw,readonly=on,'
                      f'file={image.path}',
            '-device', 'virtio-blk-pci,drive=root,bootindex=1',
            '-drive', f'if=none,id=disk,format=raw,file={disk}',
            '-device', 'virtio-blk-pci,drive=disk']


def _wait(machine: subprocess.Popen[bytes], console: pathlib.Path,
          deadline: float) -> bool:
    while time.monotonic() < deadline and machine.poll() is None:
        if WRITTEN in console.read_bytes():
            return True
        time.sleep(POLL_S)
    return False


def _processor() -> str:
    """The processor's model, as /proc/cpuinfo has it."""
    with open('/proc/cpuinfo') as file:
        for line in file:
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return 'unknown'


def _load() -> dict[str, bool]:
    try:
        verdicts = json.loads(VERDICTS.read_text())
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def _save(verdicts: dict[str, bool]) -> None:
    VERDICTS.parent.mkdir(parents=True, exist_ok=True)
    aside = VERDICTS.with_suffix(f'.{os.getpid()}')
    aside.write_text(json.dumps(verdicts, indent=1) + '\n')
    aside.replace(VERDICTS)


def _say(line: str) -> None:
    click.echo(line, err=True)
