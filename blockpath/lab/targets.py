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
"""Which volume is mapped where: each host has a target of its own.

A host's target has its own IQN, is reached by the host's own portal with the
host's own CHAP account, and shows the volumes that are mapped to that host,
each by a LUN of that host's range. So one volume is never found at the same
place from two hosts, as with arrays that mask per host.

What is mapped is kept in a file, from which a tgtd that was started anew is
filled again. The accounts are there from the start and stay; a target is
there while something is mapped to it.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import secrets
import time

from blockpath.lab import credentials
from blockpath.lab import layout
from blockpath.lab import tgt

#: tgtd keeps a unit or a target for a moment after its initiator has left.
_PATIENCE = 5.0
_IN_USE = (tgt.UNIT_ACTIVE, tgt.TARGET_ACTIVE)


@dataclasses.dataclass(frozen=True)
class Mapping:
    """How one host reaches one volume."""

    portal: str
    iqn: str
    lun: int
    user: str
    password: str


def target_iqn(host: layout.Client) -> str:
    return f'{layout.IQN_PREFIX}storage.{host.name}'


def host_of(initiator: str) -> layout.Client | None:
    """The host that has an initiator's name."""
    for host in layout.CLIENTS:
        if host.initiator == initiator:
            return host
    return None


def serial(volume_id: str) -> str:
    """What a volume calls itself on every path: at most 35 characters."""
    return volume_id.replace('-', '')


def _tid(host: layout.Client) -> int:
    return layout.CLIENTS.index(host) + 1


class Targets:
    """The mappings of one storage host.

    Callers see to it that only one thread changes them at a time.

    :param folder: of the backing files; the mappings are kept there as well.
    """

    def __init__(self, folder: pathlib.Path, client: tgt.Client) -> None:
        self.folder = folder
        self.client = client
        self._file = folder / 'targets.json'
        try:
            kept = json.loads(self._file.read_text())
        except FileNotFoundError:
            kept = {'accounts': {}, 'luns': {}}
        #: host -> (user, password)
        self.accounts: dict[str, list[str]] = kept['accounts']
        #: host -> volume's id -> LUN
        self.luns: dict[str, dict[str, int]] = kept['luns']

    def path(self, volume_id: str) -> pathlib.Path:
        return self.folder / f'volume-{volume_id}'

    def restore(self) -> None:
        """Give tgtd what it lacks of the accounts and mappings."""
        for host in layout.CLIENTS:
            self.luns.setdefault(host.name, {})
            self.accounts.setdefault(
                host.name, [f'chap-{host.name}', secrets.token_hex(8)])
        self._save()
        known = self.client.accounts()
        for user, password in self.accounts.values():
            if user not in known:
                self.client.add_account(user, password)
        for host in layout.CLIENTS:
            for volume_id, lun in self.luns[host.name].items():
                self._expose(host, volume_id, lun)

    def map(self, volume_id: str, host: layout.Client) -> Mapping:
        """Map a volume to a host; twice is as once."""
        luns = self.luns[host.name]
        lun = luns.get(volume_id) or self._free_lun(host)
        self._expose(host, volume_id, lun)
        luns[volume_id] = lun
        self._save()
        user, password = self.accounts[host.name]
        return Mapping(host.portal, target_iqn(host), lun, user, password)

    def admit(self, owner: layout.Client,
              guest: layout.Client) -> None:
        """Let another host into a host's target, while that is there."""
        target = self._find(owner)
        if target and guest.initiator not in target.acl:
            self.client.allow(target.tid, guest.initiator)

    def unmap(self, volume_id: str, host: layout.Client) -> None:
        """Undo :meth:`map`; a volume that is not mapped stays so."""
        luns = self.luns[host.name]
        lun = luns.get(volume_id)
        if lun is None:
            return
        target = self._find(host)
        if target and lun in target.units:
            self._patiently(self.client.remove_unit, target.tid, lun)
        del luns[volume_id]
        self._save()
        if target and not luns:
            self._remove_target(target)

    def mapped(self, volume_id: str) -> bool:
        """Whether any host has the volume."""
        return any(volume_id in luns for luns in self.luns.values())

    def resize(self, volume_id: str) -> None:
        """Tell the initiators that the volume's file has grown."""
        for host in layout.CLIENTS:
            lun = self.luns[host.name].get(volume_id)
            if lun is not None:
                self.client.resize_unit(_tid(host), lun,
                                        str(self.path(volume_id)))

    def _find(self, host: layout.Client) -> tgt.Target | None:
        for target in self.client.show():
            if target.iqn == target_iqn(host):
                return target
        return None

    def _expose(self, host: layout.Client, volume_id: str,
                lun: int) -> None:
        tid = _tid(host)
        target = self._find(host)
        if target is None:
            self.client.add_target(tid, target_iqn(host))
            self.client.bind_account(tid, self.accounts[host.name][0])
            # By name only: tgtd lets in whom either rule allows.
            self.client.allow(tid, host.initiator)
        if target is None or lun not in target.units:
            self.client.add_unit(tid, lun, str(self.path(volume_id)),
                                 serial(volume_id))

    def _free_lun(self, host: layout.Client) -> int:
        taken = set(self.luns[host.name].values())
        lun = host.first_lun
        while lun in taken:
            lun += 1
        return lun

    def _remove_target(self, target: tgt.Target) -> None:
        try:
            self._patiently(self.client.remove_target, target.tid)
        except tgt.TgtError as error:
            if error.number != tgt.TARGET_ACTIVE:
                raise
            # Nothing is mapped to it: whoever is logged in has no use of it.
            self.client.remove_target(target.tid, force=True)

    def _patiently(self, change: Callable[..., None], *args: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return change(*args)
            except tgt.TgtError as error:
                late = time.monotonic() > deadline
                if late or error.number not in _IN_USE:
                    raise
            time.sleep(0.1)

    def _save(self) -> None:
        partial = self._file.with_suffix('.new')
        credentials.write_private(partial, json.dumps(
            {'accounts': self.accounts, 'luns': self.luns}, indent=1))
        partial.rename(self._file)
