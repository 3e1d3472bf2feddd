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
"""Move a guest between targets and volumes between backends; break both.

In the first act the guest boots from one volume and writes checksummed
records to another. Each compute host reaches both by its own target, IQN,
LUN and password. The second act plays the scenarios 'volumes' and 'copying'.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import time
from typing import Any
from xml.sax import saxutils

from lxml import etree

from blockpath.cloud import cloud
from blockpath.cloud import lab_servers
from blockpath.console import report as reports
from blockpath import errors
from blockpath.machine import wait
from blockpath.observe import leak_watch
from blockpath.observe import plots
from blockpath.observe import write_ring
from blockpath.observe import write_watcher
from blockpath.scenarios import copying
from blockpath.scenarios import volumes

#: How much longer than at rest the guest's writes may stand still while
#: something fails, in seconds.
TOLERANCE = 1.0
#: Seconds of rest that give the stall in rest.
REST = 10.0
#: Seconds after the end of a migration that still count as part of it.
SETTLE = 2.0
#: Records that show that the guest is writing.
SIGN_OF_LIFE = 100
#: The host that the guest boots on.
FIRST = 'cmp1'
#: Names the checks before any migration.
BEFORE = 'before any migration'

#: Names the checks after the last move.
END = ('every record that arrived is right, in order',
       'the guest never booted again',
       'the records on the volume are right, in order',
       'detached: its secret is gone',
       'deleted: no secret, domain or mapping is left')

#: Breaks the way to a host while the block lasts.
Break = Callable[['Act', str], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A live migration that the guest goes through.

    :ivar fault: what makes it fail; None: it must succeed
    :ivar reason: part of the reason that Nova must give for the failure
    """

    title: str
    destination: str
    fault: Break | None = None
    reason: str = ''


def _wrong_chap(act: 'Act', host: str
                ) -> contextlib.AbstractContextManager[None]:
    return act.lab.storage.wrong_chap(host)


def _mistaken(act: 'Act', host: str
              ) -> contextlib.AbstractContextManager[None]:
    return act.lab.volumes.mistaken(act.data, act.other)


def _hung_portal(act: 'Act', host: str
                 ) -> contextlib.AbstractContextManager[None]:
    return act.lab.storage.hung_portal(host)


PLAN = (
    Attempt('A to B', 'cmp2'),
    Attempt('B to A', 'cmp1'),
    Attempt('wrong CHAP password at cmp2', 'cmp2', _wrong_chap, '513'),
    Attempt('another\'s volume at cmp2', 'cmp2', _mistaken,
            'iscsi_check_identity'),
    Attempt('A to B, repaired', 'cmp2'),
    Attempt('hung portal at cmp1', 'cmp1', _hung_portal, 'no answer within'),
    Attempt('B to A, repaired', 'cmp1'),
)


def expected() -> list[str]:
    return [*guest_checks(), *volume_checks(),
            *leak_watch.checks(volumes.SECRET)]


def guest_checks() -> list[str]:
    """Name the checks of the first act."""
    host = FIRST
    names = place_checks(BEFORE, host)
    for attempt in PLAN:
        title = attempt.title
        if attempt.fault:
            names += [f'{title}: the migration fails',
                      f'{title}: the guest does not notice',
                      f'{title}: Nova gives the reason']
        else:
            host = attempt.destination
            names += [f'{title}: the guest moves',
                      f'{title}: its LUN is another']
        names += place_checks(title, host)
    return names + list(END)


def place_checks(title: str, host: str) -> list[str]:
    return [f'{title}: the guest runs on {host}',
            f'{title}: only the target of {host} has sessions',
            f'{title}: only {host} has secrets',
            f'{title}: the volumes are mapped to {host} only',
            f'{title}: libvirt keeps the configuration that runs']


def volume_checks() -> list[str]:
    """Name the checks of the second act."""
    return [*volumes.checks(), *copying.checks()]


def unnoticed(stall: float, rest: float) -> bool:
    """Return whether a guest does not notice that its writes stand still.

    :param stall: seconds, at most
    :param rest: seconds that they stand still in rest, at most
    """
    return stall - rest < TOLERANCE


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with leak_watch.Lookout(lab, {lab.daemons.ceph.key()}) as watch:
        with report.act('1: a guest that writes moves between targets',
                        guest_checks()):
            guest(lab, report)
        with report.act('2: volumes move between iSCSI and Ceph',
                        volume_checks()):
            volumes.play(lab, report)
            copying.play(lab, report)
    watch.tell(report, volumes.SECRET)


def guest(lab: cloud.Lab, report: reports.Report) -> None:
    """Play the first act."""
    with contextlib.ExitStack() as cleanup:
        act = Act(lab, report, cleanup)
        act.rest()
        try:
            for attempt in PLAN:
                if attempt.fault:
                    with attempt.fault(act, attempt.destination):
                        act.fail(attempt)
                else:
                    act.move(attempt)
            act.end()
        finally:
            act.show()
        act.detach()
    check_nothing_left(lab, report, act)


@dataclasses.dataclass
class _Move:
    """One attempt to migrate, for the plots."""

    title: str
    began: float
    ended: float
    #: None: the attempt was broken off.
    moved: bool | None


class Act:
    """A server with its volumes, and what happens to it."""

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack) -> None:
        self.lab = lab
        self.report = report
        self.moves: list[_Move] = []
        with report.step('two volumes, one from the guest\'s image'):
            self.root = self._volume('demo-root', cleanup, bootable=True)
            self.data = self._volume('demo-data', cleanup)
        with report.step(f'a server that boots from it, on {FIRST}'):
            self.server = lab.servers.boot('demo', self.root, FIRST,
                                           network=True)
            cleanup.callback(lab.servers.delete, self.server)
        with report.step('the other volume attached'):
            lab.servers.attach(self.server, self.data)
        self.watcher = cleanup.enter_context(
            write_watcher.Watcher(lab.holdings.file(self.data)))
        with report.step('the guest writes'):
            self.watcher.wait(SIGN_OF_LIFE, wait.PATIENCE)
        self.host = FIRST
        with report.step('another\'s volume on cmp2'):
            self.other = self._volume('demo-other', cleanup)
            cleanup.enter_context(lab.volumes.taken(self.other, 'cmp2'))

    def _volume(self, name: str, cleanup: contextlib.ExitStack,
                **kwargs: Any) -> Any:
        volume = self.lab.volumes.create(name, **kwargs)
        cleanup.callback(self.lab.volumes.delete, volume)
        return volume

    def rest(self) -> None:
        """Measure the writes without any migration."""
        records = self.watcher.records
        with self.report.step(f'{REST:g} s of rest'):
            start = self.watcher.mark('rest')
            time.sleep(REST)
        self.rest_rate = (self.watcher.records - records) / REST
        self.rest_stall = self.watcher.longest_stall(start).seconds
        self.report.figure('longest stall at rest',
                           round(self.rest_stall * 1000), 'ms')
        self._where(BEFORE)

    def move(self, planned: Attempt) -> None:
        """Migrate, and see that the guest is there and nowhere else."""
        title, destination = planned.title, planned.destination
        before = self._disk(self.host)
        lun = self.lab.volumes.lun(self.data, self.host)
        migration, stall = self.attempt(planned)
        self.report.check(f'{title}: the guest moves', migration.completed,
                          f'{migration.seconds:.1f} s, writes stood still '
                          f'{stall.seconds * 1000:.0f} ms')
        if not migration.completed:
            self.report.say(self.lab.servers.fault(self.server))
            return
        self.host = destination
        self._where(title)
        there = self.lab.volumes.lun(self.data, destination)
        self.report.check(f'{title}: its LUN is another', there != lun,
                          f'{lun}, then {there}')
        self.report.figure(f'{title}: migration',
                           round(migration.seconds, 1), 's')
        self.report.diff(f'The disk as libvirt has it, {title}', before,
                         self._disk(destination))

    def fail(self, planned: Attempt) -> None:
        """Migrate to where the volumes cannot be reached."""
        title = planned.title
        migration, stall = self.attempt(planned)
        self.report.check(f'{title}: the migration fails',
                          not migration.completed,
                          f'{migration.status}, {migration.seconds:.1f} s')
        self.report.check(
            f'{title}: the guest does not notice',
            unnoticed(stall.seconds, self.rest_stall),
            f'writes stood still {stall.seconds * 1000:.0f} ms, '
            f'{self.rest_stall * 1000:.0f} ms in rest')
        reason = self.lab.servers.fault(self.server)
        self.report.check(f'{title}: Nova gives the reason',
                          planned.reason in reason, reason)
        self._where(title)

    def attempt(self, planned: Attempt
                 ) -> tuple[lab_servers.Migration, write_watcher.Stall]:
        """Migrate, and watch the writes until they have settled."""
        began = self.watcher.mark(planned.title)
        moved: bool | None = None
        try:
            with self.report.step(f'migrating: {planned.title}'):
                migration = self.lab.servers.migrate(
                    self.server, planned.destination, check=False)
                moved = migration.completed
                time.sleep(SETTLE)
                self._wait_for_writes()
        finally:
            ended = time.monotonic()
            stall = self.watcher.longest_stall(began, ended)
            self.moves.append(_Move(planned.title, began, ended, moved))
            self.report.figure(f'{planned.title}: longest stall',
                               round(stall.seconds * 1000), 'ms')
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

    def _where(self, title: str) -> None:
        """The guest, its sessions and its secrets are on self.host only."""
        lab, other = self.lab, self._other()
        self.report.check(
            f'{title}: the guest runs on {self.host}',
            lab.servers.host_of(self.server) == self.host and
            self._runs(self.host) and not self._runs(other))
        sessions = {host: {session.initiator for session in
                           lab.storage.sessions(host)}
                    for host in lab.hosts.names}
        self.report.check(
            f'{title}: only the target of {self.host} has sessions',
            sessions[self.host] == {self.initiator(self.host)} and
            not sessions[other], ', '.join(sorted(sessions[self.host])))
        self.report.check(
            f'{title}: only {self.host} has secrets',
            self._secrets(self.host) == {self.root.id, self.data.id} and
            not self._secrets(other))
        self.report.check(
            f'{title}: the volumes are mapped to {self.host} only',
            all(lab.volumes.lun(volume, self.host) is not None and
                lab.volumes.lun(volume, other) is None
                for volume in (self.root, self.data)))
        self.report.check(
            f'{title}: libvirt keeps the configuration that runs',
            self._disk(self.host) == self._disk(self.host, inactive=True))

    @staticmethod
    def initiator(host: str) -> str:
        from blockpath.machine import topology
        return topology.compute(host).initiator

    def _other(self) -> str:
        [other] = set(self.lab.hosts.names) - {self.host}
        return other

    def _runs(self, host: str) -> bool:
        hypervisor = self.lab.hosts.hypervisor(host)
        return any(domain.UUIDString() == self.server.id and
                   domain.isActive()
                   for domain in hypervisor.listAllDomains())

    def _secrets(self, host: str) -> set[str]:
        return {secret.usageID() for secret in self.lab.hosts.secrets(host)}

    def _disk(self, host: str, inactive: bool = False) -> str:
        """What the host-side half of the data volume's disk says."""
        import libvirt
        xml = self.lab.servers.domain(self.server, host).XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0)
        root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
        for disk in root.iterfind('./devices/disk'):
            if disk.findtext('serial') == self.data.id:
                return _readable(disk)
        return ''

    def end(self) -> None:
        """Check every record."""
        self.watcher.stop()
        result = self.watcher.result()
        self.report.check('every record that arrived is right, in order',
                          result.ok and not result.io_errors, str(result))
        self.report.check('the guest never booted again',
                          not result.restarts,
                          self.lab.servers.last_words(self.server)
                          if result.restarts else '')
        ring = write_ring.verify(self.lab.holdings.file(self.data))
        self.report.check('the records on the volume are right, in order',
                          ring.ok and not ring.io_errors, str(ring))

    def show(self) -> None:
        """Put the moves on the page, however far they went."""
        spans = [(move.title, move.began, move.ended) for move in self.moves]
        self.report.plot = plots.rate(self.watcher, spans, self.rest_stall)
        self.report.section(
            'The guest\'s writes, seen from the host',
            plots=[plots.moves(self.watcher, spans)],
            text='Each dot is a record: when it arrived, and how long after '
                 'the one before. The line marks the request to migrate.')
        stall = max(self.watcher.longest_stall(move.began, move.ended).seconds
                    for move in self.moves)
        result = self.watcher.result()
        moved = sum(move.moved is True for move in self.moves)
        failed = sum(move.moved is False for move in self.moves)
        self.report.summary = (
            f'A guest that wrote {self.rest_rate:.0f} records a second to a '
            f'volume went through {_count(moved, "live migration")} between '
            f'two hosts, which reach the volume by different targets, IQNs, '
            f'LUNs and passwords, and {_count(failed, "migration")} into '
            f'injected faults failed. Its writes paused for '
            f'{stall * 1000:,.0f} ms at most, {self.rest_stall * 1000:.0f} ms '
            f'at rest, and {result.records:,} records arrived, ' +
            ('intact and in order.' if result.ok else
             f'with {_count(len(result.problems), "gap")} or damaged '
             f'ones.'))

    def detach(self) -> None:
        """Detach the volume."""
        with self.report.step('the volume detached'):
            self.lab.servers.detach(self.server, self.data)
        self.report.check('detached: its secret is gone',
                          self._secrets(self.host) == {self.root.id})


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" if number != 1 else ""}'


def _readable(disk: Any) -> str:
    """Without what libvirt adds while a guest runs."""
    for element in disk.iter():
        element.attrib.pop('index', None)
    for tag in ('backingStore', 'alias'):
        for element in disk.findall(tag):
            disk.remove(element)
    return '\n'.join(_lines(disk))


def _lines(element: Any, margin: str = '') -> Iterator[str]:
    """XML with a line for each attribute: two of them compare well."""
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


def check_nothing_left(lab: cloud.Lab, report: reports.Report,
                       act: Act) -> None:
    ours = {act.root.id, act.data.id}
    report.check('deleted: no secret, domain or mapping is left', not any(
        ours & {secret.usageID() for secret in lab.hosts.secrets(host)} or
        lab.hosts.hypervisor(host).listAllDomains() or lab.storage.luns(host)
        for host in lab.hosts.names))
