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

Times are in milliseconds. A stall is the longest time between the arrivals of
two of the guest's records at the volume, seen from the storage host, from the
request to migrate until two seconds after Nova has said that it is done.
"""

from collections.abc import Iterable
import contextlib
import datetime
import statistics
import time
from typing import Any

import libvirt
from lxml import etree

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import wait
from blockpath.observe import plots
from blockpath.observe import write_watcher

#: How much longer the writes may stand still with another target.
STALL_RATIO = 1.15
#: Median milliseconds in libvirt to attach one of many volumes.
ATTACH_MS = 60
#: Seconds longer that many volumes may take to migrate than one.
EXTRA_S = 2.0
_SETTLE = 2.0
#: Names of the servers.
SAME, OTHER, MANY = 'same', 'other', 'many'
#: What nova-compute logs before and after it has libvirt migrate.
_ASKED = 'About to invoke the migrate API'
_ANSWERED = 'Migrate API has completed'


def expected(rounds: int, volumes: int) -> list[str]:
    """Name the checks of a run with these options."""
    return [
        *(name for guest in (SAME, OTHER, MANY)
          for name in (f'{guest}: every record right, in order',
                       f'{guest}: never booted again')),
        f'the stall with another target is at most {STALL_RATIO} times the '
        f'stall with the same',
        f'libvirt attaches one of {volumes} volumes within {ATTACH_MS} ms',
        f'{volumes} volumes take libvirt at most {EXTRA_S:g} s longer to '
        f'migrate than one']


def run(lab: cloud.Lab, report: reports.Report, rounds: int,
        volumes: int) -> None:
    rows = _targets(lab, report, rounds)
    rows += _volumes(lab, report, volumes)
    path = report.folder.with_suffix('.json')
    reports.write_rows(path, rows)
    report.say(f'{path} has the rows')


def _row(case: str, values: Iterable[float], unit: str = 'ms',
         tool: str = 'series') -> dict[str, Any]:
    kept = sorted(values)
    return {'case': case, 'tool': tool, 'unit': unit, 'runs': len(kept),
            'median': round(statistics.median(kept), 2),
            'min': round(kept[0], 2), 'max': round(kept[-1], 2)}


class Guest:
    """A server that writes, its volumes shown by one target or by two."""

    def __init__(self, lab: cloud.Lab, name: str,
                 cleanup: contextlib.ExitStack, shared: bool = False,
                 more: int = 0) -> None:
        self.lab = lab
        self.name = name
        self.stalls: list[float] = []
        self.seconds: list[float] = []
        #: Of these, the seconds that libvirt took.
        self.libvirt_seconds: list[float] = []
        kind: dict[str, Any] = {}
        if shared:
            kind['metadata'] = {'target': 'shared'}

        def volume(what: str, **kwargs: Any) -> Any:
            made = lab.volumes.create(f'{name}-{what}', **kind, **kwargs)
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
        self.watcher = cleanup.enter_context(
            write_watcher.Watcher(lab.holdings.file(self.data)))
        self.watcher.wait(100, wait.PATIENCE)

    def migrate(self) -> None:
        """Move to the other host."""
        here = self.lab.servers.host_of(self.server)
        [there] = set(self.lab.hosts.names) - {here}
        began = time.monotonic()
        migration = self.lab.servers.migrate(self.server, there)
        time.sleep(_SETTLE)
        self.stalls.append(self.watcher.longest_stall(began).seconds * 1000)
        self.seconds.append(migration.seconds)
        self.libvirt_seconds.append(_in_libvirt(self.lab, here))

    def check(self, report: reports.Report) -> None:
        """Check what it wrote, and that it ran on all the time."""
        self.watcher.stop()
        result = self.watcher.result()
        report.check(f'{self.name}: every record right, in order',
                     result.ok and not result.io_errors, str(result))
        report.check(f'{self.name}: never booted again', not result.restarts,
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


def _targets(lab: cloud.Lab, report: reports.Report,
             rounds: int) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as cleanup:
        with report.step('two guests that write'):
            same = Guest(lab, SAME, cleanup, shared=True)
            other = Guest(lab, OTHER, cleanup)
        for number in range(2 * rounds):
            # In turn, and each first as often as the other.
            pair = [same, other] if number % 2 else [other, same]
            with report.step(f'migration {number + 1} of {2 * rounds}, '
                             f'to the same target and to another'):
                for guest in pair:
                    guest.migrate()
        for guest in (same, other):
            guest.check(report)
    ratio = statistics.median(other.stalls) / statistics.median(same.stalls)
    report.check(
        f'the stall with another target is at most {STALL_RATIO} times the '
        f'stall with the same', ratio <= STALL_RATIO,
        f'{statistics.median(other.stalls):.0f} / '
        f'{statistics.median(same.stalls):.0f} ms = {ratio:.2f}, '
        f'{len(same.stalls)} each')
    report.figure('longest stall, another target / the same',
                  round(ratio, 2), '')
    report.summary = (
        f'Two guests that write were live-migrated {len(same.stalls)} times '
        f'each, one between hosts that share a target, one between hosts '
        f'with a target each. The plot has the longest pause of the writes '
        f'in each migration, and their medians.')
    report.plot = plots.columns({'same target': same.stalls,
                                 'another target': other.stalls}, 'ms')
    return [_row('stall, same target', same.stalls),
            _row('stall, another target', other.stalls),
            _row('migration, same target', same.seconds, 's'),
            _row('migration, another target', other.seconds, 's')]


def _volumes(lab: cloud.Lab, report: reports.Report,
             volumes: int) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as cleanup:
        with report.step('a guest with one volume'):
            guest = Guest(lab, MANY, cleanup, more=volumes - 1)
        with report.step('migrating it, both ways'):
            for _ in lab.hosts.names:
                guest.migrate()
        one = guest.seconds, guest.libvirt_seconds
        guest.seconds, guest.libvirt_seconds = [], []
        with report.step(f'{volumes - 1} more volumes'):
            for volume in guest.more:
                lab.servers.attach(guest.server, volume)
        with report.step('each taken away and given back, by libvirt'):
            took = [_attach(lab, guest, volume) for volume in guest.more]
        with report.step('migrating it, both ways'):
            for _ in lab.hosts.names:
                guest.migrate()
        guest.check(report)
    median = statistics.median(took)
    report.check(f'libvirt attaches one of {volumes} volumes within '
                 f'{ATTACH_MS} ms', median <= ATTACH_MS,
                 f'median {median:.0f} ms, {min(took):.0f} to '
                 f'{max(took):.0f}')
    extra, extra_libvirt = (
        statistics.median(after) - statistics.median(before)
        for before, after in zip(one, (guest.seconds,
                                       guest.libvirt_seconds)))
    report.check(f'{volumes} volumes take libvirt at most {EXTRA_S:g} s '
                 f'longer to migrate than one', extra_libvirt <= EXTRA_S,
                 f'{extra_libvirt:.1f} s longer; with Nova and Cinder, '
                 f'{extra:.1f} s')
    title = f'longer with {volumes} volumes than with one'
    report.figure(f'{title}, in libvirt', round(extra_libvirt, 1), 's')
    report.figure(f'{title}, with Nova and Cinder', round(extra, 1), 's')
    return [_row(f'attach, {volumes} volumes', took),
            _row('migration, 1 volume', one[0], 's'),
            _row(f'migration, {volumes} volumes', guest.seconds, 's'),
            _row('migration in libvirt, 1 volume', one[1], 's'),
            _row(f'migration in libvirt, {volumes} volumes',
                 guest.libvirt_seconds, 's')]


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
