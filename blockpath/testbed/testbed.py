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
"""The hosts, the networks that they share, and their end."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from typing import Any

import click

from blockpath.cloud import hosts
from blockpath.machine import errors
from blockpath.machine import kernel
from blockpath.machine import kernel_host
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath import paths
from blockpath.testbed import agent

STORAGE = topology.KernelHost('storage', '10.77.0.11')
INITIATOR = topology.KernelHost('initiator', '10.77.0.12')
HOSTS = (STORAGE, INITIATOR)
#: Each host has a card on each: ``vec0`` and so on.
NETWORKS = 3
#: Of one login.
LOGIN_S = 5
#: Programs whose calls are recorded, and can be held; see ``traced.sh``.
TRACED = ('iscsiadm', 'multipath', 'multipathd')
#: A sparse disk that the storage host has for a volume group.
DISK = '/dev/ubda'
_DISK_GIB = 16
_MODULES = {
    STORAGE: ('target_core_mod', 'target_core_iblock', 'target_core_file',
              'iscsi_target_mod', 'dm-snapshot'),
    INITIATOR: ('iscsi_tcp', 'sd_mod', 'sg', 'dm-multipath',
                'dm-round-robin', 'dm-service-time')}
#: Not needed: they take seconds of the start.
_MASKED = ('libvirtd.service', 'rbdmap.service',
           'rtslib-fb-targetctl.service', 'systemd-machined.service',
           'virtlogd.service')
_PATH = '/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin'
_FILES = pathlib.Path(__file__).parent / 'files'
_PREFIX = 'blockpath-testbed-'
#: Of hosts, in the order in which they boot.
_NUMBERS = itertools.count()
#: An address is answered for, and used, only by the card that has it.
_SYSCTL = '''\
net.ipv4.conf.all.arp_ignore = 1
net.ipv4.conf.all.arp_announce = 2
net.ipv4.conf.all.rp_filter = 0
'''

Say = Callable[[str], None]


def say_to_terminal(line: str) -> None:
    click.echo(line, err=True)


class Host:
    """A host of a testbed: commands, Python calls, cables.

    :ivar addresses: one in each network, in the order of its cards.
    :ivar iqn: the name of its initiator.
    """

    def __init__(self, bed: 'Testbed', of: topology.KernelHost,
                 kernel_process: 'subprocess.Popen[bytes]',
                 connection: 'subprocess.Popen[bytes]',
                 log: pathlib.Path) -> None:
        self.name = of.name
        self.addresses = addresses(of)
        self.iqn = of.initiator
        self._bed = bed
        self._kernel = kernel_process
        self._log = log
        self._agent = agent.Agent(connection, lambda: str(self._died()))

    def start_call(self, function: str, *args: Any,
                   timeout: float = agent.TIMEOUT_S,
                   **kwargs: Any) -> agent.Call:
        """Begin a call, to wait for or to kill; see ``call``."""
        return self._agent.start(function, args, kwargs, timeout)

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``module:function`` of the checkout on the host.

        Arguments and what it returns go through JSON.

        :raises CallFailed: it raised; with the traceback.
        """
        return self.start_call(function, *args, **kwargs).wait()

    def result(self, *argv: str, stdin: str = '',
               env: Mapping[str, str] | None = None) -> agent.Result:
        """Run a command to its end, whatever that is."""
        return agent.Result(**self.call('blockpath.testbed.server:run',
                                        argv, stdin, env))

    def run(self, *argv: str, stdin: str = '') -> str:
        """Return what the command prints.

        :raises CommandFailed: its exit code is not 0.
        """
        result = self.result(*argv, stdin=stdin)
        if result.code != 0:
            raise agent.CommandFailed(argv, result)
        return result.stdout

    def shell(self, script: str, stdin: str = '') -> str:
        """Run a script of bash, which ends at its first error; see ``run``."""
        return self.run('bash', '--norc', '-euc', script, stdin=stdin)

    def link(self, network: int, up: bool) -> None:
        """Plug its cable to a network in, or pull it.

        :raises ValueError: the network is the first, which carries the calls
        """
        if network == 0:
            raise ValueError('the first network carries the calls')
        end = f'master {_bridge(network)}' if up else 'nomaster'
        self._bed.ip(f'link set {_tap(self.name, network)} {end}')

    def _died(self) -> errors.ServiceDied:
        # The connection ends a little before the kernel does.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._kernel.wait(2)
        if self._kernel.poll() is None:
            return errors.ServiceDied(f'the Python server of host {self.name}',
                                      self._log, processes.tail(self._log))
        return kernel_host.explain_end(f'host {self.name}', self._log)

    def wait_until_up(self) -> None:
        """Wait for the host's initiator and multipathd.

        :raises LabError: the host does not start; with its last words
        """
        call = self.start_call('blockpath.testbed.server:run', [
            'systemctl', 'start', 'iscsid', 'multipathd'])
        deadline = time.monotonic() + kernel_host.BOOT
        while call.running and self._kernel.poll() is None:
            if time.monotonic() > deadline:
                words = '\n'.join(processes.tail(self._log))
                raise errors.TimedOut(f'host {self.name} did not start in '
                                      f'{kernel_host.BOOT:g} s\n{words}')
            time.sleep(0.05)
        if self._kernel.poll() is not None:
            raise self._died()
        started = agent.Result(**call.wait())
        if started.code:
            raise errors.LabError(f'host {self.name}: {started.stderr}')


def addresses(host: topology.KernelHost) -> tuple[str, ...]:
    number = host.address.rpartition('.')[2]
    return tuple(f'10.77.{network}.{number}' for network in range(NETWORKS))


def _bridge(network: int) -> str:
    return f'net{network}'


def _tap(host: str, network: int) -> str:
    return f'{host}{network}'


class Testbed(contextlib.ExitStack):
    """Two hosts that are up while the block lasts: ``bed['storage']``.

    The kernel kills the hosts when the thread that booted them ends.

    :param modules: imported at once on the host of that name, for the calls
        to come, which are faster then
    :param say: called with a line before each step that takes long
    :param logins: how often a login is tried; open-iscsi's default is 8
    :raises BlockpathError: the hosts cannot be made, or do not boot
    """

    def __init__(self, modules: Mapping[str, Sequence[str]] | None = None,
                 say: Say = say_to_terminal, logins: int = 8) -> None:
        super().__init__()
        self._modules = modules or {}
        self._logins = logins
        self._say = say
        self._hosts: dict[str, Host] = {}
        self._enter: list[str] = []

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __enter__(self) -> 'Testbed':
        with contextlib.ExitStack() as stack:
            self._boot(stack)
            self.callback(stack.pop_all().close)
        return self

    def _boot(self, stack: contextlib.ExitStack) -> None:
        hosts.check_room(HOSTS)
        of = kernel.prepare(hosts.KERNELS, self._say)
        systems = {host: hosts.userland_of(host, of, self._say)
                   for host in HOSTS}
        folder = _own_folder()
        stack.callback(shutil.rmtree, folder)
        (folder / 'uml').mkdir()
        key = folder / 'key'
        _run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', str(key)])
        self._enter = self._make_networks(stack)
        for host in HOSTS:
            home = folder / host.name
            setup = _setup(host, systems[host].root, home)
            _write(setup, host, key.with_suffix('.pub').read_text())
            (home / 'root' / 'etc' / 'iscsi' / 'iscsid.conf').write_text(
                f'{(_FILES / "iscsid.conf").read_text()}'
                f'node.conn[0].timeo.login_timeout = {LOGIN_S}\n'
                'node.session.initial_login_retry_max = '
                f'{self._logins}\n')
            log = open(home / 'log', 'wb')
            stack.callback(log.close)
            booted = stack.enter_context(processes.bound(
                [*self._enter, *setup.command(of.binary, folder / 'uml')],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={'PATH': os.defpath, 'HOME': str(folder)}))
            connection = stack.enter_context(processes.bound(
                self._connection(host, key, systems[host].venv), stderr=log,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            self._hosts[host.name] = Host(self, host, booted, connection,
                                          home / 'log')
        for host in HOSTS:
            self._hosts[host.name].wait_until_up()

    def _make_networks(self, stack: contextlib.ExitStack) -> list[str]:
        """Return the start of a command line that runs where they are."""
        lines = []
        for network in range(NETWORKS):
            lines.append(f'link add {_bridge(network)} type bridge')
            for host in HOSTS:
                tap = _tap(host.name, network)
                lines += [f'tuntap add dev {tap} mode tap',
                          f'link set {tap} master {_bridge(network)} up']
            lines.append(f'link set {_bridge(network)} up')
        lines.append(f'addr add 10.77.0.1/24 dev {_bridge(0)}')
        # Nothing of them is left when their last process has ended.
        keeper = stack.enter_context(processes.bound(
            ['unshare', '--net', 'sh', '-c', 'echo && exec sleep infinity'],
            stdout=subprocess.PIPE))
        assert keeper.stdout
        if not keeper.stdout.readline():
            raise errors.LabError('the testbed needs root and network '
                                  'namespaces')
        self._enter = ['nsenter', f'--net=/proc/{keeper.pid}/ns/net', '--']
        self.ip(*lines)
        return self._enter

    def ip(self, *commands: str) -> None:
        """Run commands of ip(8) where the networks are.

        :raises LabError: one fails; with its message
        """
        _run([*self._enter, 'ip', '-batch', '-'],
             '\n'.join(commands) + '\n')

    def _connection(self, host: topology.KernelHost, key: pathlib.Path,
                    venv: pathlib.Path) -> list[str]:
        """Return a command line that ends in the host's server."""
        shell = kernel_host.Shell(host.name, host.address, self._enter, key,
                                  socket=None, attempts=int(kernel_host.BOOT))
        return shell.command(
            [f'{venv}/bin/python', '-m', 'blockpath.testbed.server',
             *self._modules.get(host.name, ())],
            {'PATH': f'{venv}/bin:{_PATH}'})


def _run(argv: Sequence[str], text: str = '') -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    if done.returncode:
        raise errors.LabError(f'{argv[0]}: {done.stderr.strip()}')


def _setup(host: topology.KernelHost, root: pathlib.Path,
           home: pathlib.Path) -> kernel_host.Setup:
    networks = [kernel_host.Network(_tap(host.name, number), f'{address}/24')
                for number, address in enumerate(addresses(host))]
    home.mkdir()
    disks = []
    if host is STORAGE:
        disks = [home / 'disk']
        with open(disks[0], 'xb') as file:
            file.truncate(_DISK_GIB << 30)
    return kernel_host.Setup(
        host.name, root, host.memory, home / 'root', networks,
        {str(paths.ROOT): str(paths.ROOT)}, disks, _MODULES[host],
        next(_NUMBERS))


def _write(setup: kernel_host.Setup, host: topology.KernelHost,
           public_key: str) -> None:
    """Write the files that a host has of its own."""
    setup.write(host.uuid, public_key)
    programs = setup.folder / 'usr' / 'local' / 'sbin'
    programs.mkdir(parents=True)
    for name in TRACED:
        shutil.copy(_FILES / 'traced.sh', programs / name)
        (programs / name).chmod(0o755)
    etc = setup.folder / 'etc'
    (etc / 'hosts').write_text(f'127.0.0.1 localhost {host.name}\n')
    # LIO's kernel module looks for it when it is loaded.
    (etc / 'target').mkdir()
    units = etc / 'systemd' / 'system'
    units.mkdir(parents=True)
    for unit in _MASKED:
        (units / unit).symlink_to('/dev/null')
    (etc / 'sysctl.d').mkdir()
    (etc / 'sysctl.d' / 'testbed.conf').write_text(_SYSCTL)
    shutil.copy(_FILES / 'multipath.conf', etc)
    (etc / 'iscsi').mkdir()
    (etc / 'iscsi' / 'initiatorname.iscsi').write_text(
        f'InitiatorName={host.initiator}\n')


def _own_folder() -> pathlib.Path:
    """Return a new folder; those of testbeds that were killed are removed.

    Its path is short, as it has sockets, and on a disk, as it has one.
    """
    parent = pathlib.Path('/var/tmp')
    for left in parent.glob(f'{_PREFIX}*'):
        pid = left.name.removeprefix(_PREFIX).partition('-')[0]
        if not pathlib.Path('/proc', pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    return pathlib.Path(tempfile.mkdtemp(prefix=f'{_PREFIX}{os.getpid()}-',
                                         dir=parent))
