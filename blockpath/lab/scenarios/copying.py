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
"""Slow copies down to watch them: by what Cinder tells, and past it.

From the files to Ceph and back. The page plots how much was copied, and how
fast.
"""

from collections.abc import Iterator
import contextlib
import time

from blockpath.lab import cloud
from blockpath.lab import copies
from blockpath.lab import holdings
from blockpath.lab import layout
from blockpath.lab import lookout
from blockpath.lab import plots
from blockpath.lab.scenarios import volumes
from blockpath.lab import wait
from blockpath import report as reports

_MIB = 1 << 20
#: MiB of data in the volume, spread over all of it: one in each four.
LENGTH, EVERY = 250, 4
#: MiB of the volume that are read in a second, of which one in four is
#: written: Cinder tells of a copy each 5 s.
RATE = 96
#: How much of what it is given a backend may take: zeros are left out in
#: units of 64 KiB.
SLACK = 1.15
#: A copy's first blocks need not wait.
TOLERANCE = 0.9


def run(lab: cloud.Lab, report: reports.Report) -> None:
    secrets = lab.storage.passwords() | {lab.daemons.ceph.key()}
    with lookout.Lookout(lab, secrets) as watch:
        play(lab, report)
    watch.tell(report, 'CHAP password or key')


def play(lab: cloud.Lab, report: reports.Report) -> None:
    """All but the lookout, which is for whoever plays more."""
    before = lab.holdings.names()
    temporary = lab.holdings.temporary()
    slow = {'volume_copy_bps_limit': RATE * _MIB}
    with contextlib.ExitStack() as cleanup:
        with report.step(f'cinder-volume restarted, to copy {RATE} MiB/s'):
            cleanup.enter_context(lab.configured(
                'cinder-volume', **copies.NOTIFY,
                **{layout.FILES: slow, volumes.RBD: slow}))
        act = Act(lab, report, cleanup)
        act.move('to Ceph', volumes.RBD)
        act.move('to iSCSI', layout.FILES)
        act.show()
        with report.step('cinder-volume restarted as it was'):
            cleanup.close()
    volumes.nothing_left(lab, report, 'deleted', before, temporary)


class Act:
    """A volume, what it holds, and how its copies went."""

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack) -> None:
        self.lab = lab
        self.report = report
        self.courses: list[copies.Course] = []
        self.temporary = lab.holdings.temporary()
        self.others = lab.holdings.names()
        self.listener = cleanup.enter_context(copies.Listener(lab.site))
        with report.step(f'a volume with {LENGTH} MiB in it'):
            self.volume = lab.create_volume('copying',
                                            volume_type=layout.ANYWHERE)
            cleanup.callback(lab.delete_volume, self.volume)
            lab.holdings.write(self.volume, LENGTH, every=EVERY)
        self.sha256 = lab.holdings.sha256(self.volume)

    def move(self, title: str, backend: str) -> None:
        """Copy it with nothing in the way."""
        with self.report.step(f'copying {title}'), \
                self._copy(title, backend) as (course, _):
            self.volume = self.lab.wait_for_move(self.volume, backend)
            self._await_no_other()
        seconds = time.monotonic() - course.began
        self.report.check(f'{title}: it comes there', True,
                          f'{seconds:.1f} s')
        self._whole(title, backend)
        self.report.check(f'{title}: Cinder tells how far it is',
                          course.told, f'{len(course.told)} times')
        self.report.check(f'{title}: it is as slow as it is told to be',
                          seconds >= TOLERANCE * (1 << 10) / RATE,
                          f'{(1 << 10) / seconds:.0f} of {RATE} MiB/s')

    def _await_no_other(self) -> None:
        """Until Cinder knows of no volume but the migrated one."""
        wait.until(lambda: len(self.others) + 1 == len(list(
            self.lab.cloud.block_storage.volumes())),
            'the temporary volume to be deleted', cloud.PATIENCE, cloud.POLL)

    @contextlib.contextmanager
    def _copy(self, title: str, backend: str
              ) -> Iterator[tuple[copies.Course, copies.Growth]]:
        """Ask for a copy, and watch it in the block, to its end."""
        course = copies.Course(title, time.monotonic())
        self.lab.start_migration(self.volume, backend, force_host_copy=True)
        destination = self.lab.destination(self.volume)
        with copies.Growth(self.lab, destination) as growth:
            yield course, growth
        course.samples = growth.samples
        course.told = [(word.at, word.written, word.rate) for word in
                       self.listener.words(self.volume, course.began)]
        self.courses.append(course)

    def _whole(self, title: str, backend: str) -> None:
        found = self.lab.holdings.sha256(self.volume)
        self.report.check(f'{title}: it holds what it held',
                          found == self.sha256, f'SHA-256 {found[:16]}...')
        allocated = self.lab.holdings.allocated(self.volume) / _MIB
        self.report.check(f'{title}: what was blank takes no room',
                          allocated <= SLACK * LENGTH,
                          f'{allocated:.0f} MiB')
        name = f'{backend}/{holdings.stored_name(self.volume)}'
        volumes.nothing_left(self.lab, self.report, title,
                             self.others | {name}, self.temporary)

    def show(self) -> None:
        """Put the copies on the page."""
        self.report.section(
            'Copies over time', plots=[plots.courses(self.courses)],
            text=f'What was written, of {LENGTH} MiB spread over a volume '
                 f'of 1 GiB that is read at {RATE} MiB/s. Of the rate '
                 'Cinder tells the average, and the line is that of the '
                 'last second.')
