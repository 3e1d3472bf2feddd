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
"""What moving a guest to another target costs, and what many volumes cost.

By the hosts' initiators and by QEMU's. Times are in milliseconds. A stall is
the longest time between the arrivals of two of the guest's records at the
volume, seen from the storage host, from the request to migrate until two
seconds after Nova reports the end of the migration.
"""

from collections.abc import Iterable
import contextlib
import datetime
import statistics
import time
from typing import Any

import libvirt
from lxml import etree

from blockpath.bench import claims
from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import plots
from blockpath.scenarios import _guest

#: How much longer the writes may stand still with another target.
STALL_RATIO = 1.15
#: Median milliseconds in libvirt to attach one of many volumes.
ATTACH_MS = 60
#: Seconds longer that many volumes may take to migrate than one.
EXTRA_S = 2.0
#: Names of the servers, and the backend of each one's volumes: both hosts
#: reach a volume by the same target, or each by a target of its own.
SAME, OTHER, MANY = 'same', 'other', 'many'
BACKENDS = {SAME: topology.LVM_BY_VOLUME, OTHER: topology.LVM,
            MANY: topology.LVM}
#: What nova-compute logs before and after it has libvirt migrate.
_ASKED = 'About to invoke the migrate API'
_ANSWERED = 'Migrate API has completed'


def expected(rounds: int, volumes: int) -> list[str]:
    """Name the checks of a run with these options."""
    names = [f'{guest}: {check}' for guest in BACKENDS
             for check in ('every record right, in order',
                           'never booted again')]
    names += [_stall_check(), _attach_check(volumes),
              _migration_check(volumes)]
    return [f'{initiator}: {name}'
            for initiator in _guest.INITIATORS.values() for name in names]


def _stall_check() -> str:
    return (f'the stall with another target is at most {STALL_RATIO} times '
            'the stall with the same')


def _attach_check(volumes: int) -> str:
    return f'libvirt attaches one of {volumes} volumes within {ATTACH_MS} ms'


def _migration_check(volumes: int) -> str:
    return (f'{volumes} volumes take libvirt at most {EXTRA_S:g} s longer to '
            f'migrate than one')


def run(lab: cloud.Lab, report: reports.Report, rounds: int,
        volumes: int) -> None:
    rows: list[claims.Row] = []
    stalls: dict[str, list[float]] = {}
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lab.hosts.set_initiators,
                         dict.fromkeys(lab.hosts.names, _guest.HOST))
        for initiator, name in _guest.INITIATORS.items():
            with report.step(f'initiator of both hosts: {initiator}'):
                lab.hosts.set_initiators(
                    dict.fromkeys(lab.hosts.names, initiator))
            bench = Bench(lab, report, name)
            rows += bench.targets(rounds)
            rows += bench.volumes(volumes)
            stalls |= bench.stalls
    report.summary = (
        f'Two guests that write were live-migrated {2 * rounds} times each, '
        f'with the hosts\' initiators and with QEMU\'s: one between hosts '
        f'that share a target, one between hosts with a target each. The '
        f'plot has the longest pause of the writes in each migration, and '
        f'their medians.')
    report.plot = plots.columns(stalls, 'ms')
    path = report.folder.with_suffix('.json')
    reports.write_rows(path, rows)
    report.say(f'{path} has the rows')


class Guest:
    """A server that writes to a volume.

    :param name: one of :data:`BACKENDS`
    :param more: how many further volumes to create
    """

    def __init__(self, lab: cloud.Lab, name: str,
                 cleanup: contextlib.ExitStack, more: int = 0) -> None:
        self.lab = lab
        self.name = name
        self.stalls: list[float] = []
        self.seconds: list[float] = []
        #: Of these, the seconds that libvirt took.
        self.libvirt_seconds: list[float] = []

        def volume(what: str, **kwargs: Any) -> Any:
            made = lab.volumes.create(f'{name}-{what}',
                                      volume_type=BACKENDS[name], **kwargs)
            cleanup.callback(lab.volumes.delete, made)
            return made

        self.root = volume('root', bootable=True)
        self.data = volume('data')
        #: Further volumes, not attached. All are made before the server, so
        #: that they are deleted after it.
        self.more = [volume(str(number)) for number in range(more)]
        self.server = lab.servers.boot(name, self.root, 'cmp1')
        cleanup.callback(lab.servers.delete, self.server)
        lab.servers.attach(self.server, self.data)
        self.watcher = cleanup.enter_context(lab.holdings.watch(self.data))
        self.watcher.wait(_guest.SIGN_OF_LIFE, wait.PATIENCE)

    def migrate(self) -> None:
        """Move to the other host."""
        here = self.lab.servers.host_of(self.server)
        began = time.monotonic()
        migration = self.lab.servers.migrate(self.server,
                                             _guest.other(here))
        time.sleep(_guest.SETTLE)
        self.stalls.append(self.watcher.longest_stall(began).seconds * 1000)
        self.seconds.append(migration.seconds)
        self.libvirt_seconds.append(_in_libvirt(self.lab, here))

    def check(self, report: reports.Report, initiator: str) -> None:
        """Check what it wrote, and that it ran on all the time."""
        self.watcher.stop()
        result = self.watcher.result()
        title = f'{initiator}: {self.name}'
        report.check(f'{title}: every record right, in order',
                     result.ok and not result.io_errors, str(result))
        report.check(f'{title}: never booted again', not result.restarts,
                     self.lab.servers.last_words(self.server)
                     if result.restarts else '')


def _in_libvirt(lab: cloud.Lab, source: str) -> float:
    """Seconds of the last migration away from a host within libvirt.

    Taken from the log of its nova-compute, which notes both ends.
    """
    times = {}
    with open(lab.site.log / f'nova-compute-{source}.log') as log:
        for line in log:
            for text in (_ASKED, _ANSWERED):
                if text in line:
                    times[text] = datetime.datetime.fromisoformat(line[:23])
    return (times[_ANSWERED] - times[_ASKED]).total_seconds()


class Bench:
    """Measures with one initiator.

    :param initiator: its name, for checks, figures and rows
    :ivar stalls: milliseconds of each migration, for the plot
    """

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 initiator: str) -> None:
        self.lab = lab
        self.report = report
        self.initiator = initiator
        self.stalls: dict[str, list[float]] = {}

    def _check(self, name: str, passed: object, figure: str) -> None:
        self.report.check(f'{self.initiator}: {name}', passed, figure)

    def _row(self, case: str, values: Iterable[float], unit: str = 'ms'
             ) -> claims.Row:
        return claims.row(f'{self.initiator}: {case}', 'series', values, unit)

    def targets(self, rounds: int) -> list[claims.Row]:
        """Migrate to the same target and to another, in turn."""
        with contextlib.ExitStack() as cleanup:
            with self.report.step('two guests that write'):
                same = Guest(self.lab, SAME, cleanup)
                other = Guest(self.lab, OTHER, cleanup)
            for number in range(2 * rounds):
                # In turn, and each first as often as the other.
                pair = [same, other] if number % 2 else [other, same]
                with self.report.step(
                        f'migration {number + 1} of {2 * rounds}, to the '
                        f'same target and to another'):
                    for guest in pair:
                        guest.migrate()
            for guest in (same, other):
                guest.check(self.report, self.initiator)
        medians = [statistics.median(guest.stalls) for guest in (other, same)]
        ratio = medians[0] / medians[1]
        self._check(_stall_check(), ratio <= STALL_RATIO,
                    f'{medians[0]:.0f} / {medians[1]:.0f} ms = {ratio:.2f}, '
                    f'{len(same.stalls)} each')
        self.report.figure(
            f'{self.initiator}: longest stall, another target / the same',
            round(ratio, 2), '')
        self.stalls = {f'{self.initiator}\nsame target': same.stalls,
                       f'{self.initiator}\nanother target': other.stalls}
        return [self._row('stall, same target', same.stalls),
                self._row('stall, another target', other.stalls),
                self._row('migration, same target', same.seconds, 's'),
                self._row('migration, another target', other.seconds, 's')]

    def volumes(self, count: int) -> list[claims.Row]:
        """Attach volumes to a guest, and migrate it with one and with all."""
        with contextlib.ExitStack() as cleanup:
            with self.report.step('a guest with one volume'):
                guest = Guest(self.lab, MANY, cleanup, more=count - 1)
            self._migrate_both_ways(guest)
            one = guest.seconds, guest.libvirt_seconds
            guest.seconds, guest.libvirt_seconds = [], []
            with self.report.step(f'{count - 1} more volumes'):
                for volume in guest.more:
                    self.lab.servers.attach(guest.server, volume)
            with self.report.step('libvirt detaches and attaches each'):
                took = [_attach(self.lab, guest, volume)
                        for volume in guest.more]
            self._migrate_both_ways(guest)
            guest.check(self.report, self.initiator)
        median = statistics.median(took)
        self._check(_attach_check(count), median <= ATTACH_MS,
                    f'median {median:.0f} ms, {min(took):.0f} to '
                    f'{max(took):.0f}')
        extra, extra_libvirt = (
            statistics.median(after) - statistics.median(before)
            for before, after in zip(one, (guest.seconds,
                                           guest.libvirt_seconds)))
        self._check(_migration_check(count), extra_libvirt <= EXTRA_S,
                    f'{extra_libvirt:.1f} s longer; with Nova and Cinder, '
                    f'{extra:.1f} s')
        title = f'{self.initiator}: longer with {count} volumes than with one'
        self.report.figure(f'{title}, in libvirt', round(extra_libvirt, 1),
                           's')
        self.report.figure(f'{title}, with Nova and Cinder', round(extra, 1),
                           's')
        return [self._row(f'attach, {count} volumes', took),
                self._row('migration, 1 volume', one[0], 's'),
                self._row(f'migration, {count} volumes', guest.seconds, 's'),
                self._row('migration in libvirt, 1 volume', one[1], 's'),
                self._row(f'migration in libvirt, {count} volumes',
                          guest.libvirt_seconds, 's')]

    def _migrate_both_ways(self, guest: Guest) -> None:
        with self.report.step('migrating it, both ways'):
            for _ in self.lab.hosts.names:
                guest.migrate()


def _attach(lab: cloud.Lab, guest: Guest, volume: Any) -> float:
    """Milliseconds that libvirt takes to attach a volume's disk again."""
    domain = lab.servers.domain(guest.server)
    disk = _disk(domain, volume)
    flags = (libvirt.VIR_DOMAIN_AFFECT_LIVE |
             libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    domain.detachDeviceFlags(disk, flags)
    wait.until(lambda: _disk(domain, volume) is None,
               f'the guest to let go of {volume.name}', wait.PATIENCE, 0.05)
    began = time.monotonic()
    domain.attachDeviceFlags(disk, flags)
    return (time.monotonic() - began) * 1000


def _disk(domain: libvirt.virDomain, volume: Any) -> str | None:
    for disk in etree.fromstring(domain.XMLDesc(0)).iterfind(
            './devices/disk'):
        if disk.findtext('serial') == volume.id:
            return etree.tostring(disk, encoding='unicode')
    return None
