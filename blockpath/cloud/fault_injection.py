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
"""The storage host: what it maps to whom, and how to break it on purpose."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import secrets
import socket
from typing import Any

from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import topology
from blockpath import paths

_VIEW = paths.ROOT / 'blockpath' / 'observe' / 'lio_view.py'
_LIO = '/sys/kernel/config/target/iscsi'
#: Connections that the kernel takes for a listener that never accepts.
_BACKLOG = 128
#: An address of the storage host for a portal that never answers, and its
#: interface there.
_DEAD_ADDRESS = '10.77.0.29'
_INTERFACE = 'vec0'


@dataclasses.dataclass(frozen=True)
class Mapping:
    """What a target maps to one initiator.

    :ivar luns: LUN -> path of the device
    :ivar addresses: from which the initiator is logged in
    """

    iqn: str
    initiator: str
    luns: dict[int, str]
    addresses: tuple[str, ...]
    user: str
    password: str = dataclasses.field(repr=False)

    @property
    def acl(self) -> str:
        """Where the kernel has it."""
        return f'{_LIO}/{self.iqn}/tpgt_1/acls/{self.initiator}'


class Storage:
    """LIO of a running lab, seen from anywhere.

    Hosts are named (``cmp1``).
    """

    def __init__(self, daemons: services.Daemons) -> None:
        self._site = daemons.site
        self._shell = daemons.shell(topology.STORAGE.name)

    @property
    def shell(self) -> kernel_host.Shell:
        """Runs commands on the storage host."""
        return self._shell

    def mappings(self, host: str | None = None) -> list[Mapping]:
        """List what is mapped: to one host, or to all of them."""
        wanted = topology.kernel(host).initiator if host else None
        return [
            Mapping(target['iqn'], acl['initiator'],
                    {int(lun): path for lun, path in acl['luns'].items()},
                    tuple(acl['addresses']), acl['user'], acl['password'])
            for target in self._targets() for acl in target['acls']
            if wanted in (None, acl['initiator'])]

    def _targets(self) -> list[Any]:
        return json.loads(self._shell.read('/usr/bin/python3', str(_VIEW)))

    def targets(self) -> set[str]:
        """List the IQNs of the targets that exist."""
        return {target['iqn'] for target in self._targets()}

    def luns(self, host: str) -> dict[str, tuple[str, int]]:
        """Map the devices that a host sees to target and LUN."""
        return {path: (mapping.iqn, lun) for mapping in self.mappings(host)
                for lun, path in mapping.luns.items()}

    def sessions(self, host: str) -> dict[str, tuple[str, ...]]:
        """Map the targets that a host is logged in to to its addresses."""
        return {mapping.iqn: mapping.addresses
                for mapping in self.mappings(host) if mapping.addresses}

    def passwords(self) -> set[str]:
        """List the CHAP passwords in use, which nobody may find."""
        return {mapping.password for mapping in self.mappings()
                if mapping.password}

    @contextlib.contextmanager
    def wrong_chap(self, host: str) -> Iterator[None]:
        """Have a host's logins refused: its passwords are not the targets'.

        Sessions that are logged in go on.

        :raises LabError: nothing is mapped to the host
        """
        found = self.mappings(host)
        if not found:
            raise errors.LabError(f'nothing is mapped to {host}')
        for mapping in found:
            self._set_password(mapping, secrets.token_hex(8))
        try:
            yield
        finally:
            there = self.targets()
            for mapping in found:
                if mapping.iqn in there:
                    self._set_password(mapping, mapping.password)

    def _set_password(self, mapping: Mapping, password: str) -> None:
        self._shell.run(['tee', f'{mapping.acl}/auth/password'], check=True,
                        input=password)

    @contextlib.contextmanager
    def hung_portals(self) -> Iterator[list[str]]:
        """Listen on both networks, and never answer anybody.

        The kernel completes handshakes, and nobody accepts.

        :returns: the portals
        """
        switch = self._site.netns(topology.SWITCH)
        listeners = [namespaces.run_in(switch, _listen, address)
                     for address in topology.SWITCHES]
        try:
            yield [f'{address}:{topology.ISCSI_PORT}'
                   for address in topology.SWITCHES]
        finally:
            # Connections that wait are reset by this.
            for listener in listeners:
                listener.close()

    @contextlib.contextmanager
    def dead_portal(self, number: int) -> Iterator[None]:
        """Have one of the two portals answer nobody: its cable is cut.

        :param number: 0 or 1
        """
        self._set_cable(number, 'nomaster')
        try:
            yield
        finally:
            self._plug(number)

    @contextlib.contextmanager
    def added_dead_portal(self) -> Iterator[str]:
        """Give the host one more address, from which no other host hears.

        LIO can listen there: it is a portal behind a cut cable.

        :returns: the address
        """
        address = [f'{_DEAD_ADDRESS}/32', 'dev', _INTERFACE]
        rule = ['from', _DEAD_ADDRESS, 'blackhole']

        def remove() -> None:
            self._shell.run(['ip', 'rule', 'delete', *rule])
            self._shell.run(['ip', 'address', 'delete', *address])

        # A run that was killed has left them.
        remove()
        try:
            self._shell.read('ip', 'rule', 'add', *rule)
            self._shell.read('ip', 'address', 'add', *address)
            yield _DEAD_ADDRESS
        finally:
            remove()

    def _plug(self, number: int) -> None:
        self._set_cable(number, f'master {topology.NETWORKS[number]}')

    def _set_cable(self, number: int, state: str) -> None:
        # A tap that was down is of no use to user-mode Linux any more.
        tap = namespaces.tap(topology.STORAGE, topology.NETWORKS[number])
        namespaces.run_in(self._site.netns(topology.SWITCH), namespaces.ip,
                          f'link set {tap} {state}')

    def heal(self) -> None:
        """Undo what an interrupted scenario broke in the network."""
        for number in range(len(topology.NETWORKS)):
            self._plug(number)


def _listen(address: str) -> socket.socket:
    """Listen, in the calling thread's network namespace."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, topology.ISCSI_PORT))
    listener.listen(_BACKLOG)
    return listener
