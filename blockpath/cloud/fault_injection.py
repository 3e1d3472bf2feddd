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
"""The storage host: what it shows to whom, and how to break it on purpose."""

from collections.abc import Iterator
import contextlib
import json
import secrets
import socket

from blockpath.cloud import services
from blockpath.daemons import tgt
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import topology

#: Connections that the kernel takes for a listener that never accepts.
_BACKLOG = 128


class Storage:
    """tgtd of a running lab, seen from anywhere.

    Hosts are named (``cmp1``); each has one target while anything is mapped
    to it, so a host's name stands for its target too.
    """

    def __init__(self, daemons: services.Daemons) -> None:
        self._site = daemons.site
        self._daemons = daemons

    @property
    def client(self) -> tgt.Client:
        return self._daemons.tgtd()

    def target(self, host: str) -> tgt.Target | None:
        """A host's target; None while nothing is mapped to the host."""
        initiator = topology.client(host).initiator
        for target in self.client.show():
            if initiator in target.acl:
                return target
        return None

    def luns(self, host: str) -> dict[int, str]:
        """What a host sees: LUN -> path of the backing file."""
        target = self.target(host)
        return target.units if target else {}

    def sessions(self, host: str) -> list[tgt.Session]:
        """Who is logged in to a host's target."""
        target = self.target(host)
        return target.sessions if target else []

    def passwords(self) -> set[str]:
        """The CHAP passwords in use: what must be found nowhere."""
        return {password for _, password in self._accounts().values()}

    def _accounts(self) -> dict[str, tuple[str, str]]:
        """Of the hosts that have targets: user and password."""
        path = (self._site.targets / 'hosts' /
                f'{topology.STORAGE.name}@{topology.FILES}.json')
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        return {host.name: (kept[host.initiator]['user'],
                            kept[host.initiator]['password'])
                for host in topology.CLIENTS if host.initiator in kept}

    def _set_password(self, host: str, password: str) -> None:
        """Replace an account: sessions that are logged in stay so."""
        user, _ = self._accounts()[host]
        client = self.client
        if user in client.accounts():
            client.remove_account(user)
        client.add_account(user, password)
        target = self.target(host)
        if target:
            client.bind_account(target.tid, user)

    @contextlib.contextmanager
    def wrong_chap(self, host: str) -> Iterator[None]:
        """Have a host's logins refused: its password is not the target's.

        :raises LabError: nothing is mapped to it: it has no account yet
        """
        if host not in self._accounts():
            raise errors.LabError(f'nothing is mapped to {host}')
        self._set_password(host, secrets.token_hex(8))
        try:
            yield
        finally:
            self._set_password(host, self._accounts()[host][1])

    @contextlib.contextmanager
    def hung_portal(self, host: str) -> Iterator[None]:
        """Have a host's portal take connections and never answer.

        Sessions that are logged in, by this portal or another, go on.
        """
        portal = topology.client(host)
        self.client.remove_portal(portal.portal)
        # The kernel completes the handshakes; nobody ever accepts.
        listener = namespaces.run_in(
            self._site.netns(topology.STORAGE.name), _listen,
            portal.portal_address)
        try:
            yield
        finally:
            # Connections that wait are reset by this.
            listener.close()
            self.client.add_portal(portal.portal)

    def heal(self) -> None:
        """Undo what an interrupted scenario broke."""
        portals = self.client.portals()
        for host in topology.CLIENTS:
            if host.portal not in portals:
                self.client.add_portal(host.portal)
        for name, (_, password) in self._accounts().items():
            self._set_password(name, password)


def _listen(address: str) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, topology.ISCSI_PORT))
    listener.listen(_BACKLOG)
    return listener
