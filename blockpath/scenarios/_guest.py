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
"""A guest that writes to its volumes while it moves, for scenarios.

It boots from one volume and writes checksummed records to two others: one
that hosts reach by both portals, and one that hosts encrypt by dm-crypt.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import time
from typing import Any
from xml.sax import saxutils

import libvirt
from lxml import etree

from blockpath.cloud import cloud
from blockpath.cloud import lab_servers
from blockpath.console import report as reports
from blockpath import errors
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import plots
from blockpath.observe import write_ring
from blockpath.observe import write_watcher

#: How much longer than at rest the guest's writes may stall while something
#: fails, in seconds.
TOLERANCE = 1.0
#: Seconds after the end of a migration that still count as part of it.
SETTLE = 2.0
#: Records that show that the guest is writing.
SIGN_OF_LIFE = 100
#: The host that the guest boots on.
FIRST = 'cmp1'
#: Of both hosts when a scenario begins: the host's initiator, or QEMU's.
HOST, QEMU = 'host', 'qemu'
#: Initiators, and how the names of checks call them.
INITIATORS = {HOST: 'host', QEMU: 'QEMU'}


def place_checks(title: str, host: str) -> list[str]:
    """Name the checks of :meth:`Guest.check_place`."""
    return [f'{title}: the guest runs on {host}',
            f'{title}: only {host} is logged in',
            f'{title}: only {host} has secrets, for QEMU\'s volumes alone',
            f'{title}: the volumes are mapped to {host} only',
            f'{title}: {host} has exactly the guest\'s devices',
            f'{title}: {other(host)} has no devices',
            f'{title}: libvirt keeps the configuration that runs']


def end_checks() -> list[str]:
    """Name the checks of :meth:`Guest.end` and :meth:`Guest.remove`."""
    return ['every record that arrived is right, in order',
            'the guest never booted again',
            'the records on the volume are right, in order',
            'the records on the encrypted volume are right, in order',
            'detached: nothing of the volumes is left on the host',
            'deleted: no secret, domain, device or mapping is left']


def other(host: str) -> str:
    """Return the compute host that a guest is not on."""
    [found] = {compute.name for compute in topology.COMPUTES} - {host}
    return found


def unnoticed(stall: float, rest: float) -> bool:
    """Return whether a guest does not notice that its writes stall.

    :param stall: seconds, at most
    :param rest: seconds at rest, at most
    """
    return stall - rest < TOLERANCE


@dataclasses.dataclass
class Move:
    """One attempt to migrate, for the plots.

    :ivar moved: None: the attempt was broken off
    """

    title: str
    began: float
    ended: float
    moved: bool | None


class Guest:
    """A server with its volumes, and what happens to it.

    :ivar other: another's volume, which no host has
    :ivar initiator: the one by which its host reaches the volumes
    :ivar paths: how many paths the host's initiator has to each volume
    """

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack, name: str,
                 initiator: str = HOST) -> None:
        self.lab = lab
        self.report = report
        self.moves: list[Move] = []
        self.host = FIRST
        self.initiator = initiator
        self.paths = len(topology.NETWORKS)
        with report.step('another\'s volumes, one of them on cmp1'):
            self.other = self._create(f'{name}-other', cleanup)
            taken = self._create(f'{name}-taken', cleanup)
            cleanup.enter_context(lab.volumes.taken(taken, FIRST))
        with report.step('three volumes, one from the guest\'s image, one '
                         'encrypted'):
            self.root = self._create(f'{name}-root', cleanup, bootable=True)
            self.data = self._create(f'{name}-data', cleanup)
            self.secret = self._create(f'{name}-secret', cleanup,
                                       volume_type=topology.ENCRYPTED)
            lab.holdings.encrypt(self.secret)
        with report.step(f'a server that boots from it, on {FIRST}'):
            self.server = lab.servers.boot(name, self.root, FIRST,
                                           network=True)
            cleanup.callback(self._delete_server)
        with report.step('the other volumes attached'):
            lab.servers.attach(self.server, self.data)
            self.watcher = cleanup.enter_context(
                lab.holdings.watch(self.data))
            self.watcher.wait(1, wait.PATIENCE)
            lab.servers.attach(self.server, self.secret)
        with report.step('the guest writes'):
            self.watcher.wait(SIGN_OF_LIFE, wait.PATIENCE)

    def _create(self, name: str, cleanup: contextlib.ExitStack,
                **attributes: Any) -> Any:
        volume = self.lab.volumes.create(name, **attributes)
        cleanup.callback(self.lab.volumes.delete, volume)
        return volume

    def _delete_server(self) -> None:
        self.lab.servers.delete(self.server)

    @property
    def volumes(self) -> tuple[Any, ...]:
        return self.root, self.data, self.secret

    def rest(self, seconds: float) -> None:
        """Measure the writes without any migration."""
        records = self.watcher.records
        with self.report.step(f'{seconds:g} s of rest'):
            start = self.watcher.mark('rest')
            time.sleep(seconds)
        self.rest_rate = (self.watcher.records - records) / seconds
        self.rest_stall = self.watcher.longest_stall(start).seconds
        self.report.figure('longest stall at rest',
                           round(self.rest_stall * 1000), 'ms')

    def migrate(self, title: str, destination: str
                ) -> tuple[lab_servers.Migration, write_watcher.Stall]:
        """Migrate, and watch the writes until they have settled.

        Whether the guest moved is for the caller to check.
        """
        began = self.watcher.mark(title)
        moved: bool | None = None
        try:
            with self.report.step(f'migrating: {title}'):
                migration = self.lab.servers.migrate(
                    self.server, destination, check=False)
                moved = migration.completed
                time.sleep(SETTLE)
                self._wait_for_writes()
        finally:
            ended = time.monotonic()
            stall = self.watcher.longest_stall(began, ended)
            self.moves.append(Move(title, began, ended, moved))
            self.report.figure(f'{title}: longest stall',
                               round(stall.seconds * 1000), 'ms')
        if migration.completed:
            self.host = destination
        return migration, stall

    def _wait_for_writes(self) -> None:
        """:raises BlockpathError: none come; a panic is named as such"""
        try:
            self.watcher.wait(SIGN_OF_LIFE, wait.PATIENCE)
        except errors.BlockpathError as exc:
            if said := self.lab.servers.panic(self.server):
                raise errors.BlockpathError(
                    f'the guest panicked on {said}') from exc
            raise

    def check_place(self, title: str) -> None:
        """Check that the guest, and all it needs, is on one host only."""
        lab, here, there = self.lab, self.host, other(self.host)
        self.report.check(
            f'{title}: the guest runs on {here}',
            lab.servers.host_of(self.server) == here and
            self._runs(here) and not self._runs(there))
        sessions = {host: lab.storage.sessions(host) for host in (here,
                                                                  there)}
        self.report.check(
            f'{title}: only {here} is logged in',
            len(sessions[here]) == 1 and not sessions[there],
            ', '.join(sessions[here]))
        self.report.check(
            f'{title}: only {here} has secrets, for QEMU\'s volumes alone',
            self._secrets(here) == self._with_secrets() and
            not self._secrets(there))
        self.report.check(
            f'{title}: the volumes are mapped to {here} only',
            all(lab.volumes.mapping(volume, here) and
                not lab.volumes.mapping(volume, there)
                for volume in self.volumes))
        found = {kind: len(names) for kind, names in
                 lab.hosts.leftovers(here).items()}
        self.report.check(
            f'{title}: {here} has exactly the guest\'s devices',
            found == self.expected_devices(), _counts(found))
        left = lab.hosts.leftovers(there)
        self.report.check(f'{title}: {there} has no devices',
                          not left, str(left or ''))
        self.report.check(
            f'{title}: libvirt keeps the configuration that runs',
            self.disk() == self.disk(inactive=True))

    def expected_devices(self) -> dict[str, int]:
        """Count what the guest's volumes need on its host, by kind.

        QEMU does not open LUKS on its initiator: the host's initiator always
        connects the encrypted volume.
        """
        volumes = len(self.volumes) if self.initiator == HOST else 1
        # A portal that is dead has a record: it may come back.
        return {'session': self.paths, 'node record': len(topology.NETWORKS),
                'SCSI device': volumes * self.paths,
                'multipath map': volumes, 'dm-crypt device': 1}

    def _with_secrets(self) -> set[str]:
        return ({self.root.id, self.data.id} if self.initiator == QEMU
                else set())

    def _runs(self, host: str) -> bool:
        return any(domain.UUIDString() == self.server.id and
                   domain.isActive() for domain in
                   self.lab.hosts.hypervisor(host).listAllDomains())

    def _secrets(self, host: str) -> set[str]:
        return {secret.usageID() for secret in self.lab.hosts.secrets(host)}

    def disk(self, inactive: bool = False) -> str:
        """Return the data volume's disk as libvirt has it, for people."""
        xml = self.lab.servers.domain(self.server, self.host).XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0)
        root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
        for disk in root.iterfind('./devices/disk'):
            if disk.findtext('serial') == self.data.id:
                return _readable(disk)
        return ''

    def by_path(self) -> list[str]:
        """List the links by path to the data volume on the guest's host."""
        mapping = self.lab.volumes.mapping(self.data, self.host)
        if not mapping:
            return []
        iqn, lun = mapping
        said = self.lab.hosts.run_in(self.host, ['ls', '/dev/disk/by-path'])
        return [line for line in said.stdout.split()
                if line.endswith(f'{iqn}-lun-{lun}')]

    def end(self) -> None:
        """Check every record, and detach the volumes."""
        self.watcher.stop()
        result = self.watcher.result()
        self.report.check('every record that arrived is right, in order',
                          result.ok and not result.io_errors, str(result))
        self.report.check('the guest never booted again',
                          not result.restarts,
                          self.lab.servers.last_words(self.server)
                          if result.restarts else '')
        with self.report.step('the volumes detached'):
            for volume in (self.data, self.secret):
                self.lab.servers.detach(self.server, volume)
        for name, ring in (
                ('volume', self.lab.holdings.verify(self.data)),
                ('encrypted volume', self.lab.holdings.verify(
                    self.secret, encrypted=True))):
            self.report.check(
                f'the records on the {name} are right, in order',
                _is_right(ring), str(ring))
        found = {kind: len(names) for kind, names in
                 self.lab.hosts.leftovers(self.host).items()}
        left = 1 if self.initiator == HOST else 0
        self.report.check(
            'detached: nothing of the volumes is left on the host',
            self._secrets(self.host) == self._with_secrets() - {
                self.data.id} and 'dm-crypt device' not in found and
            found.get('multipath map', 0) == left, _counts(found))

    def check_gone(self) -> None:
        """Check that nothing of a deleted guest is left anywhere."""
        lab, ours = self.lab, {volume.id for volume in self.volumes}
        self.report.check(
            'deleted: no secret, domain, device or mapping is left',
            not any(ours & self._secrets(host) or
                    lab.hosts.hypervisor(host).listAllDomains() or
                    lab.hosts.leftovers(host) or lab.storage.luns(host)
                    for host in lab.hosts.names))

    def show(self) -> None:
        """Put the moves on the page, however far they went."""
        if not self.moves:
            return
        spans = [(move.title, move.began, move.ended) for move in self.moves]
        self.report.plot = plots.rate(self.watcher, spans, self.rest_stall)
        self.report.section(
            'The guest\'s writes, seen from the storage host',
            plots=[plots.moves(self.watcher, spans)],
            text='Each dot is a record: when it arrived, and how long after '
                 'the record before. The line marks the request to migrate.')
        stall = max(self.watcher.longest_stall(move.began, move.ended).seconds
                    for move in self.moves)
        result = self.watcher.result()
        moved = sum(move.moved is True for move in self.moves)
        failed = sum(move.moved is False for move in self.moves)
        self.report.summary = (
            f'A guest that wrote {self.rest_rate:.0f} records a second went '
            f'through {_plural(moved, "live migration")} between two hosts, '
            f'which reach its volumes by different targets, IQNs and LUNs, '
            f'with the host\'s iSCSI initiator and with QEMU\'s; '
            f'{_plural(failed, "migration")} into injected faults failed. '
            f'Its writes paused for {stall * 1000:,.0f} ms at most, '
            f'{self.rest_stall * 1000:.0f} ms at rest, and '
            f'{result.records:,} records arrived, ' +
            ('intact and in order.' if result.ok else
             f'with {_plural(len(result.problems), "gap")} or damaged '
             f'ones.'))


def _is_right(ring: write_ring.Result) -> bool:
    return bool(ring.ok and not ring.io_errors and ring.records)


def _counts(found: dict[str, int]) -> str:
    return ', '.join(_plural(number, kind) for kind, number in found.items())


def _plural(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" if number != 1 else ""}'


def _readable(disk: Any) -> str:
    """Leave out what libvirt adds while a guest runs."""
    for element in disk.iter():
        element.attrib.pop('index', None)
    for tag in ('backingStore', 'alias'):
        for element in disk.findall(tag):
            disk.remove(element)
    return '\n'.join(_lines(disk))


def _lines(element: Any, margin: str = '') -> Iterator[str]:
    """Yield XML with a line for each attribute: such texts compare well."""
    name = element.tag
    attributes = [f'{key}={saxutils.quoteattr(value)}'
                  for key, value in element.items()]
    if len(attributes) > 1:
        *before, last = [f'{margin}<{name}',
                         *(f'{margin}    {each}' for each in attributes)]
    else:
        *before, last = [f'{margin}{" ".join([f"<{name}", *attributes])}']
    yield from before
    if len(element):
        yield f'{last}>'
        for child in element:
            yield from _lines(child, f'{margin}  ')
        yield f'{margin}</{name}>'
    elif element.text:
        yield f'{last}>{saxutils.escape(element.text)}</{name}>'
    else:
        yield f'{last}/>'
