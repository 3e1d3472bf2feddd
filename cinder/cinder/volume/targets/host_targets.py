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
from typing import Optional
from typing import Protocol

from oslo_log import log as logging

from cinder import exception
from cinder.i18n import _
from cinder.volume import volume_utils

LOG = logging.getLogger(__name__)

#: QEMU's initiator and tgtd do not agree on how larger ones are written.
LAST_LUN = 255


@dataclasses.dataclass
class Unit:
    """A volume in a host's target.

    :ivar path: of its device
    :ivar identity: what it calls itself, at most 35 characters
    """

    lun: int
    path: str
    identity: str


class Daemon(Protocol):
    """What serves the targets on this host.

    A method that takes away does nothing if that is not there.
    """

    FIRST_LUN: int

    def listen(self) -> None:
        """See to it that the portals are served."""

    def iqns(self) -> set[str]:
        """The targets there are."""

    def read(self) -> dict[str, dict[int, Unit]]:
        """What there is: IQN -> LUN -> unit."""

    def add_target(self, iqn: str) -> None:
        """Make a target that lets in nobody yet."""

    def admit(self, iqn: str, initiator: str, user: str,
              password: str) -> None:
        """Let in one initiator, by its name and an account."""

    def remove_target(self, iqn: str, user: str) -> None:
        """Remove a target without units, and the account."""

    def add_lun(self, iqn: str, unit: Unit) -> None:
        """Show a volume; nothing is left of it if that fails."""

    def remove_lun(self, iqn: str, lun: int) -> None:
        """Hide a volume."""

    def resize(self, iqn: str, lun: int, path: str) -> None:
        """Let the initiators see how large a volume is now."""


@dataclasses.dataclass
class Host:
    """A host's target and account.

    :ivar last: the LUN that was given last
    :ivar units: by the volumes' names
    """

    iqn: str
    user: str
    password: str = dataclasses.field(repr=False)
    last: int = -1
    units: dict[str, Unit] = dataclasses.field(default_factory=dict)

    def by_lun(self) -> dict[int, Unit]:
        return {unit.lun: unit for unit in self.units.values()}


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
        #: by the initiators' names
        self.hosts: dict[str, Host] = {}
        #: initiator and volume, of what could not be shown
        self.lacking: set[tuple[str, str]] = set()
        self._admitted: set[str] = set()

    def iqn(self, initiator: str) -> str:
        """The name of a host's target: the same at any time."""
        name = f'{self._backend}\0{initiator}'.encode()
        return f'{self._prefix}host-{hashlib.sha256(name).hexdigest()[:24]}'

    def load(self) -> dict[str, Host]:
        """What was mapped when the service ended.

        A file that can not be read is set aside.
        """
        try:
            with open(self._path) as file:
                return {initiator: Host(**values | {'units': {
                    volume: Unit(**unit)
                    for volume, unit in values['units'].items()}})
                    for initiator, values in json.load(file).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            LOG.error('%s can not be read. It is set aside, and what the '
                      'attachments recorded is used alone.', self._path)
            os.rename(self._path, f'{self._path}.broken')
            return {}

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

    def complete(self) -> bool:
        """Whether the daemon has all that is mapped, but for what it lacks.

        It may have started anew, or been given what it had another time.
        """
        there = self._daemon.read()
        return all(
            there.get(host.iqn) == {
                unit.lun: unit for volume, unit in host.units.items()
                if (initiator, volume) not in self.lacking}
            for initiator, host in self.hosts.items() if host.units)

    def restore(self) -> None:
        """Make the daemon's targets what they are to be.

        What is right is left alone: hosts use it. A host of which a volume
        can not be shown, as its device is not there yet, is let in when that
        is; see ``ensure``.
        """
        self._save()
        there = self._daemon.read()
        self.lacking = set()
        self._admitted = set()
        for initiator, host in list(self.hosts.items()):
            try:
                self._restore(initiator, host, there.get(host.iqn))
            except Exception as error:
                # The others are not to wait for this one. It is tried again
                # with the next volume.
                LOG.error('The target of %s is not restored: %s', initiator,
                          error)
                self.lacking |= {(initiator, volume)
                                 for volume in host.units}
        self._save()

    def _restore(self, initiator: str, host: Host,
                 units: Optional[dict[int, Unit]]) -> None:
        self._remove_strangers(host, units or {})
        if not host.units:
            self._remove(initiator)
            return
        if units is None:
            self._daemon.add_target(host.iqn)
        for volume, unit in host.units.items():
            if not units or units.get(unit.lun) != unit:
                self._show(initiator, volume)
        self._admit(initiator)

    def _remove_strangers(self, host: Host, units: dict[int, Unit]) -> None:
        wanted = host.by_lun()
        for lun, unit in units.items():
            if wanted.get(lun) != unit:
                LOG.warning('Target %s shows %s by LUN %d, which is not '
                            'mapped: it is removed.', host.iqn, unit.path,
                            lun)
                self._daemon.remove_lun(host.iqn, lun)

    def _show(self, initiator: str, volume: str) -> None:
        host = self.hosts[initiator]
        unit = host.units[volume]
        try:
            self._daemon.add_lun(host.iqn, unit)
        except Exception as error:
            LOG.warning('%s can not be shown to %s: %s', unit.path,
                        initiator, error)
            self.lacking.add((initiator, volume))

    def _admit(self, initiator: str, whole: bool = True) -> None:
        lacks = any(name == initiator for name, _v in self.lacking)
        if initiator in self._admitted or whole and lacks:
            # It would find that a volume it uses is not there any more.
            return
        host = self.hosts[initiator]
        self._daemon.admit(host.iqn, initiator, host.user, host.password)
        self._admitted.add(initiator)

    def ensure(self, volume: str) -> None:
        """Show a volume that could not be shown before."""
        for initiator, name in sorted(self.lacking):
            if name == volume:
                host = self.hosts[initiator]
                unit = host.units[volume]
                self._daemon.remove_lun(host.iqn, unit.lun)
                self._daemon.add_lun(host.iqn, unit)
                self.lacking.remove((initiator, volume))
                self._admit(initiator)

    def map(self, initiator: str, volume: str, path: str,
            identity: str) -> tuple[Host, int]:
        """Show a volume to a host; twice is as once.

        :returns: the host's target and account, and the LUN
        """
        host = self.hosts.get(initiator)
        if host and volume in host.units:
            self.ensure(volume)
            return host, host.units[volume].lun
        if host is None:
            self._make_room(initiator)
            host = Host(self.iqn(initiator),
                        volume_utils.generate_username(),
                        volume_utils.generate_password())
        unit = Unit(self._next(host), path, identity)
        first = not host.units
        host.units[volume] = unit
        host.last = unit.lun
        self.hosts[initiator] = host
        try:
            self._save()
            if first:
                self._daemon.add_target(host.iqn)
            self._daemon.add_lun(host.iqn, unit)
            self._admit(initiator, whole=False)
        except BaseException:
            # Whether the host finds it is not known until this succeeds.
            self.lacking.add((initiator, volume))
            self._daemon.remove_lun(host.iqn, unit.lun)
            self._forget(initiator, volume)
            raise
        LOG.info('%s is shown to %s by LUN %d', path, initiator, unit.lun)
        return host, unit.lun

    def _make_room(self, initiator: str) -> None:
        """See to it that a host that nothing is mapped to has no target."""
        iqn = self.iqn(initiator)
        units = self._daemon.read().get(iqn)
        if units:
            raise exception.ISCSITargetHelperCommandFailed(error_message=_(
                'Target %(iqn)s exists, with LUNs that are not mapped: '
                '%(luns)s') % {'iqn': iqn, 'luns': sorted(units)})
        if units is not None:
            self._daemon.remove_target(iqn, '')

    def _next(self, host: Host) -> int:
        """A LUN that was not given for as long as can be.

        A host that still uses a volume which was taken from it must not find
        another's there.
        """
        taken = host.by_lun()
        luns = range(self._daemon.FIRST_LUN, LAST_LUN + 1)
        begin = max(0, host.last + 1 - luns.start)
        for lun in [*luns[begin:], *luns[:begin]]:
            if lun not in taken:
                return lun
        raise exception.ISCSITargetHelperCommandFailed(error_message=_(
            'Target %s has as many LUNs as it can have') % host.iqn)

    def unmap(self, volume: str, initiators: Iterable[str]) -> None:
        """Hide a volume from hosts, also from those it is hidden from."""
        for initiator in list(initiators):
            host = self.hosts.get(initiator)
            if host and volume in host.units:
                # As long as the host may see it the LUN is not free.
                unit = host.units[volume]
                self._daemon.remove_lun(host.iqn, unit.lun)
                self._forget(initiator, volume)
                LOG.info('%s is no longer shown to %s', unit.path, initiator)

    def _forget(self, initiator: str, volume: str) -> None:
        host = self.hosts[initiator]
        del host.units[volume]
        self.lacking.discard((initiator, volume))
        if not host.units:
            self._remove(initiator)
        self._save()

    def _remove(self, initiator: str) -> None:
        host = self.hosts.pop(initiator)
        self._admitted.discard(initiator)
        self._daemon.remove_target(host.iqn, host.user)

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
