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
"""Move volumes between backends of two kinds, and compare what they hold.

From the files to Ceph, between two pools, and back: by migrating with
Cinder's own copy, and by retyping. What a volume holds is written and read
past Cinder.
"""

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import functools
import time
from typing import Any

import click

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.observe import leak_watch
from blockpath.observe import volume_content

RBD, RBD2 = topology.POOLS
OPTIONS = (
    click.Option(['--mib'], type=click.IntRange(1, 256), default=64,
                 show_default=True, help='MiB of data in each volume.'),
    click.Option(['--only-ceph'], is_flag=True,
                 help='Move between the pools only.'),
)
#: Moves a volume to a backend, and returns it.
Move = Callable[[Any, str], Any]
_MIB = 1 << 20
#: How many bytes more than its source a copy may take: the objects, of
#: 4 MiB, that each of the five extents touches without filling it.
SLACK = 2 * 5 * 4 * _MIB


#: Passwords of targets, and keys of Ceph.
SECRET = 'CHAP password or key'
MIGRATED = 'migrated'
RETYPED = 'retyped'
#: Names the checks after the last volume was deleted.
DELETED = 'volumes deleted'


def expected(mib: int = 64, only_ceph: bool = False) -> list[str]:
    return [*checks(only_ceph), *leak_watch.checks(SECRET)]


def checks(only_ceph: bool = False) -> list[str]:
    """Name the checks that :func:`play` makes."""
    names = []
    for how in _travels(only_ceph):
        for backend in _way(only_ceph):
            title = _title(how, backend)
            names += [f'{title}: the volume arrives',
                      f'{title}: its content is the same',
                      f'{title}: blank parts take no room',
                      *nothing_left_checks(title)]
    return names + nothing_left_checks(DELETED)


def nothing_left_checks(title: str) -> list[str]:
    """Name the checks that :func:`nothing_left` makes."""
    return [f'{title}: no other volume is left, none is missing',
            f'{title}: Cinder lists the same number',
            f'{title}: no volume is exported',
            f'{title}: no temporary file is left']


def _travels(only_ceph: bool) -> tuple[str, ...]:
    return (RETYPED,) if only_ceph else (MIGRATED, RETYPED)


def _way(only_ceph: bool) -> tuple[str, ...]:
    return (RBD2, RBD) if only_ceph else (RBD, RBD2, topology.FILES)


def _title(how: str, backend: str) -> str:
    return f'{how} to {backend}'


def run(lab: cloud.Lab, report: reports.Report, mib: int = 64,
        only_ceph: bool = False) -> None:
    with leak_watch.Lookout(lab, {lab.daemons.ceph.key()}) as watch:
        play(lab, report, mib, only_ceph)
    watch.tell(report, SECRET)


def play(lab: cloud.Lab, report: reports.Report, mib: int = 64,
         only_ceph: bool = False) -> None:
    """All but the lookout, which is for whoever plays more."""
    way = _way(only_ceph)
    before = lab.holdings.names()
    temporary = lab.holdings.temporary()
    with contextlib.ExitStack() as cleanup:
        if MIGRATED in _travels(only_ceph):
            migrated = Traveller(lab, report, cleanup, MIGRATED, mib,
                                 topology.ANYWHERE)
            migrated.travel(way, functools.partial(lab.volumes.migrate,
                                                   force_host_copy=True))
        # Not from where it already is.
        retyped = Traveller(lab, report, cleanup, RETYPED, mib, way[-1])
        retyped.travel(way, lab.volumes.retype)
    nothing_left(lab, report, DELETED, before, temporary)


class Traveller:
    """A volume, what it holds, and where it has been."""

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack, name: str, mib: int,
                 kind: str) -> None:
        self.lab = lab
        self.report = report
        self.how = name
        self.temporary = lab.holdings.temporary()
        self.others = lab.holdings.names()
        with report.step(f'a volume of type {kind} with {mib} MiB in it'):
            self.volume = lab.volumes.create(f'volumes-{name}',
                                             volume_type=kind)
            cleanup.callback(lab.volumes.delete, self.volume)
            lab.holdings.write(self.volume, mib)
        self.sha256 = lab.holdings.sha256(self.volume)
        self.least = lab.holdings.allocated(self.volume)

    def travel(self, way: Iterable[str], move: Move) -> None:
        """Move it from one to the next, as long as it comes there."""
        for backend in way:
            if not self._go(backend, move):
                break

    def _go(self, backend: str, move: Move) -> bool:
        """Move it, and see that it is there, whole, and nowhere else."""
        title = _title(self.how, backend)
        began = time.monotonic()
        try:
            with self.report.step(f'a volume {title}'):
                self.volume = move(self.volume, backend)
        except errors.LabError as exc:
            return self.report.check(f'{title}: the volume arrives', False,
                                     str(exc))
        seconds = time.monotonic() - began
        self.report.check(f'{title}: the volume arrives', True,
                          f'{seconds:.1f} s')
        self.report.figure(title, round(seconds, 1), 's')
        self._whole(title)
        nothing_left(self.lab, self.report, title,
                      self.others | {self._name(backend)}, self.temporary)
        return True

    def _name(self, backend: str) -> str:
        return f'{backend}/{volume_content.stored_name(self.volume)}'

    def _whole(self, title: str) -> None:
        found = self.lab.holdings.sha256(self.volume)
        self.report.check(f'{title}: its content is the same',
                          found == self.sha256, f'SHA-256 {found[:16]}...')
        allocated = self.lab.holdings.allocated(self.volume)
        self.report.check(
            f'{title}: blank parts take no room',
            allocated <= self.least + SLACK,
            f'{allocated / _MIB:.1f} MiB, {self.least / _MIB:.1f} MiB before')


def nothing_left(lab: cloud.Lab, report: reports.Report, title: str,
                 names: set[str], temporary: set[str]) -> None:
    """See that just these volumes are there, and nothing else.

    :param names: of all volumes, as holdings has them
    :param temporary: files that were there before
    """
    left = lab.holdings.names() ^ names
    report.check(f'{title}: no other volume is left, none is missing',
                 not left, ', '.join(sorted(left)))
    known = {volume.id for volume in lab.cloud.block_storage.volumes()}
    report.check(f'{title}: Cinder lists the same number',
                 len(known) == len(names), f'{len(known)}')
    luns = [lun for host in topology.CLIENTS
            for lun in lab.storage.luns(host.name)]
    report.check(f'{title}: no volume is exported', not luns)
    files = lab.holdings.temporary() - temporary
    report.check(f'{title}: no temporary file is left', not files,
                 ', '.join(sorted(files)))
