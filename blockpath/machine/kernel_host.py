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
"""Hosts with a kernel of their own: user-mode Linux, systemd, ssh.

A host is one process of this machine, with children, in the network namespace
of the lab's switch; each of its network interfaces is a tap on a bridge
there. Commands reach it by ssh, its services are systemd's units. Its kernel
and its journal write to one log of this machine, which is kept when the host
has gone, whatever became of it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
from typing import Any

from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import userland

#: Seconds until a host must answer, on a busy machine.
BOOT = 180.0
#: A kernel that cannot go on prints this.
_PANIC = re.compile(r'Kernel panic - not syncing: .*')
#: Of the services: nothing comes from whoever starts the lab.
_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'


@dataclasses.dataclass(frozen=True)
class Network:
    """An interface of a host.

    :ivar tap: its other end, on this machine
    :ivar address: of IPv4, with its prefix; empty for none
    :ivar bridge: of the host, made for the interface; empty for none
    """

    tap: str
    address: str = ''
    bridge: str = ''


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that makes a host.

    :ivar memory: MiB
    :ivar folder: its own files, which hide the userland's of the same name
    :ivar shares: folders of this machine -> where the host has them
    :ivar disks: images, which it has as /dev/ubda, /dev/ubdb, ...
    :ivar modules: kernel modules that it loads when it starts
    :ivar number: hosts with successive numbers share no processor, as long as
        this machine has enough
    """

    name: str
    root: pathlib.Path
    memory: int
    folder: pathlib.Path
    networks: Sequence[Network]
    shares: Mapping[str, str]
    disks: Sequence[pathlib.Path] = ()
    modules: Sequence[str] = ()
    number: int = 0

    def write(self, uuid: str, public_key: str) -> None:
        """Write the host's own files, of which there may be others already.

        :param uuid: of the machine
        :param public_key: for ssh
        """
        lab = self.folder / 'etc' / 'lab'
        lab.mkdir(parents=True, exist_ok=True)
        (lab / 'shares').write_text(''.join(
            f'{source} {target}\n' for source, target in self.shares.items()))
        lines = ['link set lo up']
        for number, network in enumerate(self.networks):
            lines.append(f'link set vec{number} up')
            if network.address:
                lines.append(f'addr add {network.address} dev vec{number}')
            if network.bridge:
                lines += [f'link add {network.bridge} type bridge',
                          f'link set vec{number} master {network.bridge}',
                          f'link set {network.bridge} up']
        (lab / 'network').write_text('\n'.join(lines) + '\n')
        etc = self.folder / 'etc'
        (etc / 'hostname').write_text(f'{self.name}\n')
        (etc / 'machine-id').write_text(uuid.replace('-', '') + '\n')
        (etc / 'modules-load.d').mkdir(exist_ok=True)
        (etc / 'modules-load.d' / 'lab.conf').write_text(
            ''.join(f'{module}\n' for module in self.modules))
        home = self.folder / 'root' / '.ssh'
        home.mkdir(parents=True, exist_ok=True)
        (self.folder / 'root').chmod(0o700)
        home.chmod(0o700)
        (home / 'authorized_keys').write_text(public_key)

    def command(self, binary: pathlib.Path,
                sockets: pathlib.Path) -> list[str]:
        """Return the command line of its kernel.

        :param binary: the kernel
        :param sockets: folder with a short path, for its management socket
        """
        disks = [f'ubd{chr(ord("a") + number)}={disk}'
                 for number, disk in enumerate(self.disks)]
        networks = [
            f'vec{number}:transport=tap,ifname={network.tap},depth=128,gro=1'
            for number, network in enumerate(self.networks)]
        return ['taskset', '--cpu-list', str(self._processor()),
                str(binary), f'mem={self.memory}M', f'umid={self.name}',
                f'uml_dir={sockets}/', 'rootfstype=hostfs',
                f'rootflags={self.root}', 'ro',
                'seccomp=auto', 'con=null', 'con0=null,fd:1', 'quiet',
                f'init={userland.INIT}', f'lab.overlay={self.folder}',
                'panic=-1', 'noreboot', 'systemd.show_status=0',
                'systemd.journald.forward_to_console=1', *disks, *networks]

    def _processor(self) -> int:
        """Return the number of the processor of this machine that it has.

        User-mode Linux runs one thread at a time, its kernel's or a
        process's. A system call, or the start of a process, takes several
        times as long while the two are on different processors.
        """
        allowed = sorted(os.sched_getaffinity(0))
        return allowed[self.number % len(allowed)]


def panic(log: pathlib.Path) -> str:
    """Return the line in which a kernel says why it stopped, or ''."""
    try:
        found = _PANIC.findall(log.read_text(errors='replace'))
    except FileNotFoundError:
        return ''
    return found[-1] if found else ''


def explain_end(name: str, log: pathlib.Path) -> errors.ServiceDied:
    """Return the error for a host that ended, with its kernel's reason."""
    said = panic(log)
    return errors.ServiceDied(name, log,
                              [said] if said else processes.tail(log))


@dataclasses.dataclass(frozen=True)
class Shell:
    """Runs commands on a host, by ssh.

    :ivar address: of the host
    :ivar enter: the start of a command line that runs where the host can be
        reached
    :ivar key: the private key that it takes
    :ivar socket: of the connection that the commands share; None gives each
        its own
    :ivar path: of programs, searched before the system's
    :ivar attempts: to connect, one a second
    """

    name: str
    address: str
    enter: Sequence[str]
    key: pathlib.Path
    socket: pathlib.Path | None
    path: str = ''
    attempts: int = 1

    def command(self, argv: Sequence[str],
                env: Mapping[str, str] | None = None) -> list[str]:
        """Return a command line that runs another one on the host."""
        path = f'{self.path}:{_PATH}' if self.path else _PATH
        env = {'PATH': path, 'LANG': 'C.UTF-8'} | dict(env or {})
        words = ['env', *(f'{name}={value}' for name, value in env.items()),
                 *argv]
        shared = [] if self.socket is None else [
            '-o', 'ControlMaster=auto', '-o', 'ControlPersist=yes',
            '-o', f'ControlPath={self.socket}']
        return [*self.enter, 'ssh', '-F', '/dev/null', '-i', str(self.key),
                '-o', 'StrictHostKeyChecking=no',
                '-o', 'UserKnownHostsFile=/dev/null',
                '-o', 'LogLevel=ERROR', '-o', 'BatchMode=yes',
                '-o', 'ConnectTimeout=5', '-o', 'ServerAliveInterval=10',
                '-o', f'ConnectionAttempts={self.attempts}', *shared,
                f'root@{self.address}', '--', shlex.join(words)]

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None,
            **kwargs: Any) -> 'subprocess.CompletedProcess[str]':
        """Run a program on the host to its end.

        :param kwargs: for :func:`subprocess.run`; output is captured as text
        """
        kwargs = {'capture_output': True, 'text': True} | kwargs
        if 'input' not in kwargs:
            kwargs.setdefault('stdin', subprocess.DEVNULL)
        return subprocess.run(self.command(argv, env), **kwargs)

    def read(self, *argv: str) -> str:
        """Return what a program prints.

        :raises LabError: it failed; with what it said
        """
        done = self.run(argv)
        if done.returncode:
            said = ' '.join((done.stderr or done.stdout).split())
            raise errors.LabError(f'{self.name}: {shlex.join(argv)}: '
                                  f'{said[-400:] or done.returncode}')
        return done.stdout


@dataclasses.dataclass(frozen=True)
class Unit:
    """A service of a host, as systemd has it.

    :ivar log: a file of this machine
    """

    shell: Shell
    name: str
    log: pathlib.Path

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a program as a service of this name.

        :raises LabError: systemd refuses
        """
        self.shell.read('systemctl', 'reset-failed', '--quiet', '*')
        path = f'{self.shell.path}:{_PATH}' if self.shell.path else _PATH
        env = {'PATH': path, 'LANG': 'C.UTF-8'} | dict(env)
        self.shell.read(
            'systemd-run', '--quiet', f'--unit={self.name}',
            f'--property=StandardOutput=append:{self.log}',
            f'--property=StandardError=append:{self.log}',
            '--property=LimitNOFILE=65536', '--property=TimeoutStopSec=15',
            *(f'--setenv={name}={value}' for name, value in env.items()),
            *argv)

    @property
    def alive(self) -> bool:
        return self.shell.run(['systemctl', '--quiet', 'is-active',
                               self.name]).returncode == 0

    def check(self) -> None:
        """:raises ServiceDied: it has ended."""
        if not self.alive:
            raise errors.ServiceDied(self.name, self.log,
                                     processes.tail(self.log))

    def stop(self) -> None:
        self.shell.run(['systemctl', 'stop', self.name])

    def kill(self) -> None:
        """Have it end with no last word."""
        self.shell.run(['systemctl', 'kill', '--signal=SIGKILL', self.name])
        self.shell.run(['systemctl', 'stop', self.name])
