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
"""A target for each host: which volumes are in it, and by which LUNs.

A host is known by its initiator's name. It has a target while a volume is
mapped to it, and an account of its own there. What is mapped is kept in a
file, written before it is shown to the host, so that a LUN that was told to a
host is never another volume's, whenever the service is killed.
"""

from collections.abc import Iterable
import dataclasses
import hashlib
import json
import os
import tempfile
from typing import Protocol

from oslo_log import log as logging

from cinder.volume import volume_utils

LOG = logging.getLogger(__name__)


class TargetGone(Exception):
    """The daemon does not have a target that it had."""


class Daemon(Protocol):
    """What serves the targets on this host."""

    FIRST_LUN: int

    def read(self) -> dict[str, dict[int, str]]:
        ...

    def add_target(self, iqn: str, initiator: str, user: str,
                   password: str) -> None:
        ...

    def remove_target(self, iqn: str, user: str) -> None:
        ...

    def add_lun(self, iqn: str, lun: int, path: str, identity: str) -> None:
        ...

    def remove_lun(self, iqn: str, lun: int) -> None:
        ...

    def resize(self, iqn: str, lun: int, path: str) -> None:
        ...


@dataclasses.dataclass
class Unit:
    """A volume in a host's target.

    :ivar path: of its device
    :ivar identity: what it calls itself, at most 35 characters
    """

    lun: int
    path: str
    identity: str


@dataclasses.dataclass
class Host:
    """A host's target and account.

    :ivar initiator: its name as the host tells it
    :ivar units: by the volumes' names
    """

    initiator: str
    iqn: str
    user: str
    password: str = dataclasses.field(repr=False)
    units: dict[str, Unit] = dataclasses.field(default_factory=dict)


class HostTargets:
    """The targets of the hosts of one backend.

    Callers see to it that there is one call at a time.

    :param path: of the file of what is mapped
    :param prefix: of the IQNs
    :param backend: the name of the backend; two of them on one host have a
        target each for the same initiator
    """

    def __init__(self, daemon: Daemon, path: str, prefix: str,
                 backend: str) -> None:
        self._daemon = daemon
        self._path = path
        self._prefix = prefix
        self._backend = backend
        #: by the initiators' names, whose case does not matter
        self.hosts: dict[str, Host] = {}
        #: volumes that could not be shown when the service began
        self.lacking: set[str] = set()

    def iqn(self, initiator: str) -> str:
        """The name of a host's target: the same at any time."""
        name = f'{self._backend}\0{initiator.lower()}'.encode()
        return f'{self._prefix}host-{hashlib.sha256(name).hexdigest()[:24]}'

    def load(self) -> None:
        """Read what was mapped when the service ended."""
        try:
            with open(self._path) as file:
                kept = json.load(file)
        except FileNotFoundError:
            kept = {}
        self.hosts = {
            initiator: Host(**values | {'units': {
                volume: Unit(**unit)
                for volume, unit in values['units'].items()}})
            for initiator, values in kept.items()}

    def _save(self) -> None:
        folder = os.path.dirname(self._path)
        os.makedirs(folder, exist_ok=True)
        text = json.dumps({initiator: dataclasses.asdict(host)
                           for initiator, host in self.hosts.items()})
        # Only its owner can read this, and it replaces the other as a whole.
        with tempfile.NamedTemporaryFile(
                'w', dir=folder, prefix='.hosts-', delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.rename(file.name, self._path)
            except BaseException:
                os.unlink(file.name)
                raise

    def restore(self) -> None:
        """Make the daemon's targets what they are to be.

        What is right is left alone: hosts use it. A volume that can not be
        shown, as its device is not there yet, is remembered; see ``ensure``.
        """
        there = self._daemon.read()
        self.lacking = set()
        for initiator, host in list(self.hosts.items()):
            units = there.get(host.iqn)
            self._remove_strangers(host, units or {})
            if not host.units:
                self._remove(initiator)
                continue
            if units is None:
                self._add_target(host)
            for volume, unit in host.units.items():
                if not units or units.get(unit.lun) != unit.path:
                    self._show(host, volume, unit)
        self._save()

    def _remove_strangers(self, host: Host, units: dict[int, str]) -> None:
        wanted = {unit.lun: unit.path for unit in host.units.values()}
        for lun, path in units.items():
            if wanted.get(lun) != path:
                LOG.warning('Target %s shows %s by LUN %d, which is not '
                            'mapped: it is removed.', host.iqn, path, lun)
                self._daemon.remove_lun(host.iqn, lun)

    def _show(self, host: Host, volume: str, unit: Unit) -> None:
        try:
            self._daemon.add_lun(host.iqn, unit.lun, unit.path, unit.identity)
        except Exception as error:
            LOG.warning('%s can not be shown to %s: %s', unit.path,
                        host.initiator, error)
            self.lacking.add(volume)

    def ensure(self, volume: str) -> None:
        """Show a volume that could not be shown before."""
        if volume in self.lacking:
            for initiator in self.initiators(volume):
                host = self.hosts[initiator]
                unit = host.units[volume]
                self._daemon.remove_lun(host.iqn, unit.lun)
                self._daemon.add_lun(host.iqn, unit.lun, unit.path,
                                     unit.identity)
            self.lacking.remove(volume)

    def _add_target(self, host: Host) -> None:
        self._daemon.add_target(host.iqn, host.initiator, host.user,
                                host.password)

    def map(self, initiator: str, volume: str, path: str,
            identity: str) -> tuple[Host, int]:
        """Show a volume to a host; twice is as once.

        :returns: the host's target and account, and the LUN
        """
        name, initiator = initiator, initiator.lower()
        host = self.hosts.get(initiator)
        if host and volume in host.units:
            return host, host.units[volume].lun
        if host is None:
            host = self.hosts[initiator] = Host(
                name, self.iqn(initiator), volume_utils.generate_username(),
                volume_utils.generate_password())
        unit = Unit(self._free(host), path, identity)
        first = not host.units
        host.units[volume] = unit
        try:
            self._save()
            if first:
                self._add_target(host)
            self._daemon.add_lun(host.iqn, unit.lun, path, identity)
        except TargetGone:
            self.restore()
            self.ensure(volume)
        except BaseException:
            self._forget(initiator, volume)
            raise
        LOG.info('%s is shown to %s by LUN %d', path, name, unit.lun)
        return host, unit.lun

    def adopt(self, initiator: str, volume: str, unit: Unit,
              user: str, password: str) -> bool:
        """Take what a host was told before for mapped.

        :returns: whether it was not known; see ``restore``
        """
        host = self.hosts.setdefault(initiator.lower(), Host(
            initiator, self.iqn(initiator), user, password))
        taken = {each.lun for each in host.units.values()}
        if volume in host.units or unit.lun in taken:
            return False
        host.units[volume] = unit
        return True

    def drop(self, volume: str, initiator: str) -> None:
        """Take a volume for not mapped; see ``restore``."""
        self.hosts[initiator].units.pop(volume, None)

    def volumes(self) -> set[str]:
        """Those that are shown to any host."""
        return {volume for host in self.hosts.values()
                for volume in host.units}

    def _free(self, host: Host) -> int:
        taken = {unit.lun for unit in host.units.values()}
        lun = self._daemon.FIRST_LUN
        while lun in taken:
            lun += 1
        return lun

    def unmap(self, volume: str, initiators: Iterable[str]) -> None:
        """Hide a volume from hosts, also from those it is hidden from."""
        for initiator in [each.lower() for each in initiators]:
            host = self.hosts.get(initiator)
            if host and volume in host.units:
                # As long as the host may see it the LUN is not free.
                unit = host.units[volume]
                self._daemon.remove_lun(host.iqn, unit.lun)
                self._forget(initiator, volume)
                LOG.info('%s is no longer shown to %s', unit.path,
                         host.initiator)

    def _forget(self, initiator: str, volume: str) -> None:
        host = self.hosts[initiator]
        del host.units[volume]
        if not host.units:
            self._remove(initiator)
        self._save()

    def _remove(self, initiator: str) -> None:
        host = self.hosts[initiator]
        self._daemon.remove_target(host.iqn, host.user)
        del self.hosts[initiator]

    def initiators(self, volume: str) -> list[str]:
        """The hosts that a volume is shown to."""
        return [initiator for initiator, host in self.hosts.items()
                if volume in host.units]

    def resize(self, volume: str) -> None:
        """Let hosts see how large a volume is now."""
        for initiator in self.initiators(volume):
            host = self.hosts[initiator]
            unit = host.units[volume]
            self._daemon.resize(host.iqn, unit.lun, unit.path)
