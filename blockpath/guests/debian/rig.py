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
"""Guests that share networks."""

from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import tempfile
from typing import Any

from blockpath import errors
from blockpath.guests.debian import agent
from blockpath.guests.debian import image
from blockpath.guests.debian import machine
from blockpath.guests.debian import recipe
from blockpath.guests.debian import snapshot
from blockpath import paths
from blockpath.testbed import agent as testbed_agent

INITIATOR = 'initiator'
#: In this order: the last number of their addresses, from 11 on.
ROLES = ('storage', INITIATOR)
NETWORKS = 3
WAKE_S = 60.0
FOLDER = 'blockpath-rig-'
IQN = 'iqn.2026-01.com.example'


class Guest:
    """One guest of a rig: commands, Python calls, cables.

    :ivar agent: runs commands in it.
    :ivar addresses: one in each network, in the order of its cards.
    """

    def __init__(self, name: str, number: int,
                 booted: machine.Machine) -> None:
        self.name = name
        self.machine = booted
        self.agent = booted.agent
        self.addresses = tuple(f'10.77.{network}.{number}'
                               for network in range(NETWORKS))
        self._number = number

    @property
    def iqn(self) -> str:
        """The name of its initiator."""
        return f'{IQN}:{self.name}'

    def run(self, *argv: str, **options: Any) -> str:
        """What the command prints; options are those of ``Agent.start``.

        :raises CommandFailed: its exit code is not 0.
        """
        return self.agent.start(*argv, **options).wait()

    def result(self, *argv: str, **options: Any) -> testbed_agent.Result:
        """Run a command to its end, whatever that is."""
        return self.agent.start(*argv, **options).result()

    def shell(self, script: str, **options: Any) -> str:
        """The same of a few lines for bash, the first error ending it."""
        return self.run('bash', '-euc', script, **options)

    def call(self, function: str, *args: Any,
             timeout: float = agent.TIMEOUT_S, **kwargs: Any) -> Any:
        """Call ``module:function`` of the checkout in the guest.

        Arguments and what it returns go through JSON.

        :raises CallFailed: it raised; with the traceback.
        """
        return self.agent.call(function, args, kwargs, timeout)

    def set_up(self, modules: Sequence[str]) -> None:
        """Give it a name, addresses, the checkout and a Python server."""
        packages = paths.VENV / 'lib/python3.11/site-packages'
        lines = [f'hostname {self.name}',
                 f'echo {packages} >/run/rig/site',
                 f'echo 127.0.0.1 localhost {self.name} >/etc/hosts',
                 f'echo InitiatorName={self.iqn} '
                 '>/etc/iscsi/initiatorname.iscsi',
                 'sysctl -q net.ipv4.conf.all.arp_ignore=1 '
                 'net.ipv4.conf.all.arp_announce=2 '
                 'net.ipv4.conf.all.rp_filter=0',
                 f'mkdir -p {paths.ROOT}',
                 f'mount -t 9p -o ro,trans=virtio,version=9p2000.L,'
                 f'msize=512000,cache=loose {machine.TAG} {paths.ROOT}']
        for card, address in enumerate(self.addresses):
            # All come from one snapshot, with the same addresses.
            mac = f'52:54:00:77:{card:02x}:{self._number:02x}'
            lines += [f'ip link set eth{card} address {mac} up',
                      f'ip address add {address}/24 dev eth{card}']
        if self.name == INITIATOR:
            lines.append('systemctl start iscsid multipathd')
        lines.append('tree-python -m blockpath.guests.debian.files.server '
                     f'{" ".join(modules)} </dev/null '
                     '>/run/rig/server.log 2>&1 &')
        self.shell('\n'.join(lines))


class Rig(contextlib.ExitStack):
    """Guests that are up while the block lasts: ``rig['storage']``.

    Every two of them share each network.

    :param modules: imported at once in the guest of that role, for the
        calls to come, which are faster then
    :param say: told what is being built, a line each
    :raises BlockpathError: it can not be built or booted
    """

    def __init__(self, modules: Mapping[str, Sequence[str]] | None = None,
                 say: image.Say = image.say_to_terminal) -> None:
        super().__init__()
        self._modules = modules or {}
        self._say = say
        self.guests: dict[str, Guest] = {}

    def __getitem__(self, role: str) -> Guest:
        return self.guests[role]

    def __enter__(self) -> 'Rig':
        python = paths.VENV / f'lib/python{"%d.%d" % recipe.PYTHON}'
        if not python.exists():
            raise errors.BlockpathError(
                f'{python} is missing: the rig needs .venv made with Python '
                f'{"%d.%d" % recipe.PYTHON}, as {recipe.SUITE} has it')
        with contextlib.ExitStack() as stack:
            self._boot(stack)
            self.callback(stack.pop_all().close)
        return self

    def _boot(self, stack: contextlib.ExitStack) -> None:
        booted = snapshot.take(image.build(self._say), self._say)
        folder = _own_folder()
        stack.callback(shutil.rmtree, folder)
        cables = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                  for _ in range(NETWORKS)]
        for end in itertools.chain.from_iterable(cables):
            end.setblocking(False)
            stack.callback(end.close)
        for number, role in enumerate(ROLES):
            home = folder / role
            home.mkdir()
            snapshot.overlay(booted.disk, 'qcow2', home / 'disk.qcow2')
            started = machine.Machine(
                booted.source, home, home / 'disk.qcow2',
                [cable[number] for cable in cables], booted.state)
            stack.callback(started.close)
            self.guests[role] = Guest(role, 11 + number, started)
        with concurrent.futures.ThreadPoolExecutor() as executor:
            list(executor.map(self._set_up, self.guests.values()))

    def _set_up(self, guest: Guest) -> None:
        guest.machine.wait_for_agent(WAKE_S)
        guest.set_up(self._modules.get(guest.name, ()))


def _own_folder() -> pathlib.Path:
    """A new folder; those of rigs that were killed are removed."""
    for left in pathlib.Path('/var/tmp').glob(f'{FOLDER}*'):
        pid = left.name.removeprefix(FOLDER).partition('-')[0]
        if not pathlib.Path('/proc', pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    return pathlib.Path(tempfile.mkdtemp(prefix=f'{FOLDER}{os.getpid()}-',
                                         dir='/var/tmp'))
