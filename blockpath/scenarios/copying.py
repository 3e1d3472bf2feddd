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
"""Kill cinder-volume while it copies, and see the volume whole again.

Copies are slowed down. Cinder undoes the first two, to Ceph and to another
volume group, completes the third, to Ceph, and resumes the fourth, back to
LVM. The page plots the progress and the rate of each copy, as Cinder reports
them and as the backend shows them.
"""

from collections.abc import Iterator
import contextlib
import re
import time
from typing import Any

from blockpath.cloud import cloud
from blockpath.cloud import mariadb
from blockpath.console import report as reports
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import copy_follower
from blockpath.observe import leak_watch
from blockpath.observe import plots
from blockpath.observe import volume_content
from blockpath.scenarios import _guest
from blockpath.scenarios import volumes

_MIB = 1 << 20
#: MiB of data in the volume, spread over all of it: one in each four.
LENGTH, EVERY = 250, 4
#: MiB of the volume that are read in a second, of which one in four is
#: written: Cinder tells of a copy each 5 s.
RATE = 96
#: Bytes of the blocks in which Cinder's copier leaves out zeros.
UNIT = 64 << 10
#: A copy's first blocks need not wait.
TOLERANCE = 0.9
#: How much is copied, at least, when the service is killed.
SHARE = 0.3
#: A checkpoint is noted in steps of 256 MiB, but only each 5 s.
_CHECKPOINT = ('SELECT value FROM cinder.volume_admin_metadata '
               "WHERE volume_id = %s AND `key` = 'volume_copy_flushed'")
_GOES_ON = re.compile(r'goes on at offset (\d+)')
#: Its process that reaches volumes by QEMU's initiator.
_QEMU = 'qemu-storage-daemon'
#: The host's initiator makes these for a volume.
_DEVICES = {'session', 'node record', 'SCSI device', 'multipath map'}
UNDONE = 'to Ceph, killed'
UNDONE_QEMU = 'to LVM by QEMU, killed'
MOVED = 'to Ceph, again'
RESUMED = 'to LVM by the host, killed'
#: Names the checks after the volume was deleted.
DELETED = 'copied volume deleted'


def expected() -> list[str]:
    return [*checks(), *leak_watch.checks(volumes.SECRET)]


def checks() -> list[str]:
    """Name the checks that :func:`play` makes."""
    return [
        *_undone_checks(UNDONE),
        *_undone_checks(UNDONE_QEMU, _guest.QEMU),
        f'{UNDONE_QEMU}: no {_QEMU} is left',
        f'{MOVED}: the volume arrives',
        *_copied_checks(MOVED),
        f'{MOVED}: Cinder reports its progress',
        f'{MOVED}: the copy keeps to the limit',
        *_killed_checks(RESUMED, _guest.HOST),
        f'{RESUMED}: the migration succeeds after the restart',
        f'{RESUMED}: the copy resumes at its checkpoint',
        *_copied_checks(RESUMED),
        *volumes.nothing_left_checks(DELETED)]


def _undone_checks(title: str, initiator: str = '') -> list[str]:
    return [*_killed_checks(title, initiator),
            f'{title}: the volume is where it was',
            f'{title}: Cinder has a message for its user',
            f'{title}: the volume takes no more room',
            *_whole_checks(title)]


def _killed_checks(title: str, initiator: str = '') -> list[str]:
    names = [f'{title}: the kill leaves its copy']
    if initiator:
        names.append(f'{title}: the kill leaves an export')
    if initiator == _guest.HOST:
        names.append(f'{title}: the kill leaves a session and devices')
    if initiator == _guest.QEMU:
        names.append(f'{title}: the kill ends QEMU as well')
    return names


def _copied_checks(title: str) -> list[str]:
    return [f'{title}: blank parts take no room', *_whole_checks(title)]


def _whole_checks(title: str) -> list[str]:
    return [f'{title}: its content is the same',
            *volumes.nothing_left_checks(title)]


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with leak_watch.Lookout(lab, {lab.daemons.ceph.key()}) as watch:
        play(lab, report)
    watch.tell(report, volumes.SECRET)


def play(lab: cloud.Lab, report: reports.Report) -> None:
    """Make all checks except the lookout's."""
    before = lab.holdings.names()
    temporary = lab.holdings.temporary()
    slow: dict[str, object] = {'volume_copy_bps_limit': RATE * _MIB}
    options = dict.fromkeys(topology.SCOPES, slow | {
        volumes.INITIATOR: _guest.QEMU})
    options[volumes.RBD] = slow | {volumes.INITIATOR: _guest.HOST,
                                   'volume_copy_resume': True}
    with contextlib.ExitStack() as cleanup:
        with report.step(f'cinder-volume restarted, to copy {RATE} MiB/s'):
            cleanup.enter_context(lab.hosts.configured(
                volumes.SERVICE, **copy_follower.NOTIFY, **options))
        act = Act(lab, report, cleanup)
        act.undone(UNDONE, volumes.RBD)
        act.undone(UNDONE_QEMU, act.other_group(), _guest.QEMU)
        act.move(MOVED, volumes.RBD)
        act.resumed(RESUMED, topology.LVM, _guest.HOST)
        act.show()
        with report.step('cinder-volume restarted as it was'):
            cleanup.close()
    volumes.nothing_left(lab, report, DELETED, before, temporary)


class Act:
    """A volume, its content, and the course of its copies."""

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack) -> None:
        self.lab = lab
        self.report = report
        self.courses: list[copy_follower.Course] = []
        self.temporary = lab.holdings.temporary()
        self.others = lab.holdings.names()
        self.listener = cleanup.enter_context(copy_follower.Listener(lab.site))
        with report.step(f'a volume with {LENGTH} MiB in it'):
            self.volume = lab.volumes.create('copying',
                                             volume_type=topology.ANYWHERE)
            cleanup.callback(lab.volumes.delete, self.volume)
            lab.holdings.write(self.volume, LENGTH, every=EVERY)
        self.sha256 = lab.holdings.sha256(self.volume)

    def other_group(self) -> str:
        """Return the backend on LVM that the volume is not on."""
        [found] = set(topology.SCOPES) - {volume_content.backend(self.volume)}
        return found

    def move(self, title: str, backend: str) -> None:
        """Copy it with nothing in the way."""
        with self.report.step(f'copying {title}'), \
                self._copy(title, backend) as (course, _):
            self.volume = self.lab.volumes.wait_for_move(self.volume, backend)
            self._await_no_other()
        seconds = time.monotonic() - course.began
        self.report.check(f'{title}: the volume arrives', True,
                          f'{seconds:.1f} s')
        self._copied(title, backend)
        self.report.check(f'{title}: Cinder reports its progress',
                          course.told, f'{len(course.told)} times')
        self.report.check(f'{title}: the copy keeps to the limit',
                          seconds >= TOLERANCE * (1 << 10) / RATE,
                          f'{(1 << 10) / seconds:.0f} of {RATE} MiB/s')

    def undone(self, title: str, backend: str, initiator: str = '') -> None:
        """Kill the service in mid-copy; it must undo the migration.

        :param initiator: by which it reaches the copy, if that is on LVM
        """
        home = volume_content.backend(self.volume)
        stored = self.lab.holdings.allocated(self.volume)
        messages = len(self._messages())
        with self.report.step(f'{title}, and cinder-volume restarted'), \
                self._copy(title, backend) as (course, growth):
            self._await_share(growth)
            with self._killed(title, course, growth, initiator):
                pass
            self.volume = self.lab.volumes.wait_for_rest(self.volume,
                                                         reported=True)
            self._await_no_other()
        state = self._state()
        self.report.check(f'{title}: the volume is where it was',
                          state == 'available, migration error' and
                          volume_content.backend(self.volume) == home, state)
        told = self._messages()
        self.report.check(f'{title}: Cinder has a message for its user',
                          len(told) == messages + 1, '; '.join(told))
        found = self.lab.holdings.allocated(self.volume)
        self.report.check(f'{title}: the volume takes no more room',
                          found == stored, f'{found / _MIB:.2f} MiB')
        self._whole(title, home)
        if initiator == _guest.QEMU:
            self.report.check(f'{title}: no {_QEMU} is left',
                              not self._qemu())

    def _messages(self) -> list[str]:
        return [text for text in self.lab.volumes.messages(self.volume)
                if 'restarted' in text]

    def _qemu(self) -> list[int]:
        return self.lab.hosts.running(topology.STORAGE.name, _QEMU)

    def resumed(self, title: str, backend: str, initiator: str) -> None:
        """Kill the service in mid-copy; it must resume the migration.

        :param initiator: by which it reaches the copy
        """
        log = self.lab.site.log / f'{volumes.SERVICE}.log'
        with self.report.step(f'{title}, and cinder-volume restarted'), \
                self._copy(title, backend) as (course, growth):
            checkpoint = wait.until(
                lambda: self._checkpoint(growth.volume),
                'a checkpoint of the copy', wait.PATIENCE, wait.POLL)
            self._await_share(growth)
            with self._killed(title, course, growth, initiator):
                length = log.stat().st_size
            self.volume = self.lab.volumes.wait_for_rest(self.volume,
                                                         reported=True)
            self._await_no_other()
        # Cinder counts from there on.
        before = growth.stored * checkpoint >> 30
        killed = course.marks[0][0]
        course.told = [(at, written + before * (at > killed), rate)
                       for at, written, rate in course.told]
        state = self._state()
        self.report.check(f'{title}: the migration succeeds after the restart',
                          state == 'available, migration success' and
                          volume_content.backend(self.volume) == backend,
                          state)
        with log.open('rb') as stream:
            stream.seek(length)
            found = _GOES_ON.findall(stream.read().decode(errors='replace'))
        self.report.check(f'{title}: the copy resumes at its checkpoint',
                          found == [str(checkpoint)], ', '.join(
                              f'at {int(offset) / _MIB:.0f} of 1024 MiB'
                              for offset in found))
        self._copied(title, backend)

    def _state(self) -> str:
        return (f'{self.volume.status}, migration '
                f'{self.volume.migration_status}')

    def _await_share(self, growth: copy_follower.Growth) -> None:
        wait.until(lambda: growth.stored >= SHARE * LENGTH * _MIB,
                   f'{SHARE:.0%} of the copy', wait.PATIENCE, 0.05)

    def _await_no_other(self) -> None:
        volumes.await_count(self.lab, len(self.others) + 1)

    def _checkpoint(self, destination: Any) -> int:
        """All below this offset was noted to be there; 0: nothing was."""
        with mariadb.connect(self.lab.site) as cursor:
            cursor.execute(_CHECKPOINT, (destination.id,))
            return int((cursor.fetchone() or (0,))[0])

    @contextlib.contextmanager
    def _killed(self, title: str, course: copy_follower.Course,
                growth: copy_follower.Growth, initiator: str
                ) -> Iterator[None]:
        """Kill the service, and check what that leaves; restart it."""
        programs = self._qemu()
        course.marks.append((time.monotonic(), 'killed'))
        with self.lab.hosts.killed(volumes.SERVICE):
            self._left_behind(title, growth, initiator)
            if initiator == _guest.QEMU:
                self.report.check(f'{title}: the kill ends QEMU as well',
                                  programs and not self._qemu(),
                                  f'{len(programs)} before')
            yield
        course.marks.append((time.monotonic(), 'serves again'))

    def _left_behind(self, title: str, growth: copy_follower.Growth,
                     initiator: str) -> None:
        """Check what the service must clean up when it starts again."""
        name = (f'{volume_content.backend(growth.volume)}/'
                f'{volume_content.stored_name(growth.volume)}')
        self.report.check(f'{title}: the kill leaves its copy',
                          name in self.lab.holdings.names(),
                          f'{growth.stored / _MIB:.0f} of {LENGTH} MiB '
                          'copied')
        if initiator:
            self.report.check(
                f'{title}: the kill leaves an export',
                self.lab.volumes.mapping(growth.volume,
                                         topology.STORAGE.name))
        if initiator == _guest.HOST:
            found = self.lab.hosts.leftovers(topology.STORAGE.name)
            self.report.check(
                f'{title}: the kill leaves a session and devices',
                found.keys() == _DEVICES, str(found))

    @contextlib.contextmanager
    def _copy(self, title: str, backend: str
              ) -> Iterator[tuple[copy_follower.Course, copy_follower.Growth]]:
        """Ask for a copy, and watch it in the block, to its end."""
        course = copy_follower.Course(title, time.monotonic())
        self.lab.volumes.start_migration(self.volume, backend,
                                         force_host_copy=True)
        destination = self.lab.volumes.destination(self.volume)
        with copy_follower.Growth(self.lab.holdings, destination) as growth:
            yield course, growth
        course.samples = growth.samples
        course.told = [(word.at, word.written, word.rate) for word in
                       self.listener.words(self.volume, course.began)]
        self.courses.append(course)

    def _copied(self, title: str, backend: str) -> None:
        volumes.check_room(
            self.lab, self.report, title, self.volume,
            volume_content.pattern(self.volume.size << 30, LENGTH,
                                   every=EVERY), UNIT)
        self._whole(title, backend)

    def _whole(self, title: str, backend: str) -> None:
        found = self.lab.holdings.sha256(self.volume)
        self.report.check(f'{title}: its content is the same',
                          found == self.sha256, f'SHA-256 {found[:16]}...')
        name = f'{backend}/{volume_content.stored_name(self.volume)}'
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
