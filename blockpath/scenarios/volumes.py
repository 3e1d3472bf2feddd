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

From LVM to Ceph, between two pools, back, and between two volume groups. One
volume migrates by Cinder's own copies, through the storage host's initiator;
another is retyped, and copied through QEMU's. The scenario writes and reads
the data past Cinder.
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
from blockpath.machine import wait
from blockpath.observe import leak_watch
from blockpath.observe import volume_content
from blockpath.scenarios import _guest

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
#: Bytes of the largest blocks in which a copy leaves out zeros. dd has them,
#: by which the LVM driver copies to another volume group.
UNIT = _MIB
#: Cinder's option: which initiator its copies use.
INITIATOR = 'volume_copy_iscsi_initiator'
SERVICE = 'cinder-volume'
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
            f'{title}: the storage host\'s initiator has left nothing',
            f'{title}: no temporary file is left']


def _travels(only_ceph: bool) -> tuple[str, ...]:
    return (RETYPED,) if only_ceph else (MIGRATED, RETYPED)


def _way(only_ceph: bool) -> tuple[str, ...]:
    if only_ceph:
        return RBD2, RBD
    return RBD, RBD2, topology.LVM, topology.LVM_BY_VOLUME


def _title(how: str, backend: str) -> str:
    return f'{how} to {backend}'


def run(lab: cloud.Lab, report: reports.Report, mib: int = 64,
        only_ceph: bool = False) -> None:
    with leak_watch.Lookout(lab, {lab.daemons.ceph.key()}) as watch:
        play(lab, report, mib, only_ceph)
    watch.tell(report, SECRET)


def play(lab: cloud.Lab, report: reports.Report, mib: int = 64,
         only_ceph: bool = False) -> None:
    """Make all checks except the lookout's."""
    way = _way(only_ceph)
    before = lab.holdings.names()
    temporary = lab.holdings.temporary()
    with contextlib.ExitStack() as cleanup:
        if MIGRATED in _travels(only_ceph):
            migrated = Traveller(lab, report, cleanup, MIGRATED, mib,
                                 topology.ANYWHERE)
            migrated.travel(way, functools.partial(lab.volumes.migrate,
                                                   force_host_copy=True))
            with report.step('cinder-volume restarted, to copy through '
                             'QEMU\'s initiator'):
                cleanup.enter_context(lab.hosts.configured(
                    SERVICE, **dict.fromkeys(topology.BACKENDS,
                                             {INITIATOR: _guest.QEMU})))
        # Not from where it already is.
        retyped = Traveller(lab, report, cleanup, RETYPED, mib, way[-1])
        retyped.travel(way, lab.volumes.retype)
    nothing_left(lab, report, DELETED, before, temporary)


class Traveller:
    """A volume, its content, and its way."""

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
        self.mib = mib
        self.sha256 = lab.holdings.sha256(self.volume)
        self.backend = volume_content.backend(self.volume)

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
                await_count(self.lab, len(self.others) + 1)
        except errors.LabError as exc:
            return self.report.check(f'{title}: the volume arrives', False,
                                     str(exc))
        seconds = time.monotonic() - began
        self.report.check(f'{title}: the volume arrives', True,
                          f'{seconds:.1f} s')
        self.report.figure(title, round(seconds, 1), 's')
        # By a retype, the RBD driver copies within Ceph, and whole objects.
        by_ceph = (self.how == RETYPED and
                   {self.backend, backend} <= set(topology.POOLS))
        self.backend = backend
        self._whole(title, volume_content.OBJECT if by_ceph else UNIT)
        nothing_left(self.lab, self.report, title,
                      self.others | {self._name(backend)}, self.temporary)
        return True

    def _name(self, backend: str) -> str:
        return f'{backend}/{volume_content.stored_name(self.volume)}'

    def _whole(self, title: str, unit: int) -> None:
        found = self.lab.holdings.sha256(self.volume)
        self.report.check(f'{title}: its content is the same',
                          found == self.sha256, f'SHA-256 {found[:16]}...')
        check_room(self.lab, self.report, title, self.volume,
                   volume_content.pattern(self.volume.size << 30, self.mib),
                   unit)


def await_count(lab: cloud.Lab, number: int) -> None:
    """Wait until Cinder lists so many volumes.

    Cinder deletes the source of a migration when that has ended.

    :raises TimedOut: it lists more, or fewer
    """
    wait.until(lambda: len(list(lab.cloud.block_storage.volumes())) ==
               number, f'Cinder to list {number} volumes', wait.PATIENCE,
               wait.POLL)


def check_room(lab: cloud.Lab, report: reports.Report, title: str,
               volume: Any, extents: Iterable[volume_content.Extent],
               unit: int) -> None:
    """Check that a copy takes no room for what is blank.

    :param extents: the data
    :param unit: bytes of the blocks in which zeros are left out
    """
    found = lab.holdings.allocated(volume)
    room = lab.holdings.room(volume, extents, unit)
    report.check(f'{title}: blank parts take no room', found <= room,
                 f'{found / _MIB:.2f} MiB, at most {room / _MIB:.2f}')


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
    targets = lab.storage.targets()
    report.check(f'{title}: no volume is exported', not targets,
                 ', '.join(sorted(targets)))
    found = lab.hosts.leftovers(topology.STORAGE.name)
    report.check(f'{title}: the storage host\'s initiator has left nothing',
                 not found, str(found or ''))
    files = lab.holdings.temporary() - temporary
    report.check(f'{title}: no temporary file is left', not files,
                 ', '.join(sorted(files)))
