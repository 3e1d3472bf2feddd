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
"""Move a writing guest between targets and initiators, and break them.

The guest boots from one volume and writes checksummed records to two others:
one is reached through both portals of the storage host, one is encrypted by
dm-crypt. Each compute host reaches the volumes by its own target, IQN, LUNs
and password, by its kernel's initiator and multipathd, or by QEMU's
initiator. The guest is live-migrated by every pair of initiators, and into a
wrong password, another's volume, a portal that hangs and one that is dead.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.observe import leak_watch
from blockpath.scenarios import _guest

HOST, QEMU = _guest.HOST, _guest.QEMU
#: Seconds of rest that give the stall at rest.
REST = 10.0
#: Names the checks before any migration.
BEFORE = 'before any migration'
SECRET = 'CHAP password or key'

#: Breaks the way to a host while the block lasts.
Break = Callable[[_guest.Guest, str],
                 contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A live migration that the guest goes through.

    :ivar initiator: both hosts are set to it before, with the guest there
    :ivar fault: breaks something on the way
    :ivar reason: part of the reason that Nova must give; without it the
        migration must succeed, whatever is broken
    :ivar paths: the number of paths to each volume afterwards
    """

    title: str
    destination: str
    initiator: str = ''
    fault: Break | None = None
    reason: str = ''
    paths: int = 2


@contextlib.contextmanager
def _wrong_chap(guest: _guest.Guest, host: str) -> Iterator[None]:
    # The host's target is there only while something is mapped to it.
    with (guest.lab.volumes.taken(guest.other, host),
          guest.lab.storage.wrong_chap(host)):
        yield


@contextlib.contextmanager
def _mistaken(guest: _guest.Guest, host: str) -> Iterator[None]:
    with (guest.lab.volumes.taken(guest.other, host),
          guest.lab.volumes.mistaken(guest.data, guest.other)):
        yield


@contextlib.contextmanager
def _hung_portals(guest: _guest.Guest, host: str) -> Iterator[None]:
    with (guest.lab.storage.hung_portals() as portals,
          guest.lab.volumes.reached_by(guest.data, portals)):
        yield


def _dead_portal(guest: _guest.Guest, host: str
                 ) -> contextlib.AbstractContextManager[None]:
    return guest.lab.storage.dead_portal(1)


def _faults(name: str, wrong_chap: str, hung: str) -> tuple[Attempt, ...]:
    """Return the attempts to move to cmp2 with one initiator that go wrong.

    :param name: of the initiator
    :param wrong_chap: part of Nova's reason for a login that is refused
    :param hung: part of Nova's reason for portals that do not answer
    """
    return (
        Attempt(f'{name}, wrong CHAP password', 'cmp2', fault=_wrong_chap,
                reason=wrong_chap),
        Attempt(f'{name}, another\'s volume', 'cmp2', fault=_mistaken,
                reason='iscsi_check_identity'),
        Attempt(f'{name}, hung portals', 'cmp2', fault=_hung_portals,
                reason=hung),
        Attempt(f'{name}, one portal dead: A to B', 'cmp2',
                fault=_dead_portal, paths=1),
    )


PLAN = (
    Attempt('host: A to B', 'cmp2'),
    Attempt('host: B to A', 'cmp1'),
    Attempt('host to QEMU: A to B', 'cmp2', initiator=QEMU),
    Attempt('QEMU: B to A', 'cmp1'),
    *_faults('QEMU', '513', 'no answer within'),
    Attempt('QEMU to host: B to A', 'cmp1', initiator=HOST),
    *_faults('host', 'VolumeDeviceNotFound', 'VolumeDeviceNotFound'),
)


def expected() -> list[str]:
    host = _guest.FIRST
    names = _guest.place_checks(BEFORE, host)
    for attempt in PLAN:
        title = attempt.title
        if attempt.reason:
            names += [f'{title}: the migration fails',
                      f'{title}: the guest does not notice',
                      f'{title}: Nova gives the reason']
        else:
            host = attempt.destination
            names += [f'{title}: the guest moves',
                      f'{title}: its target and LUN are others']
        names += _guest.place_checks(title, host)
    return [*names, *_guest.end_checks(), *leak_watch.checks(SECRET)]


def run(lab: cloud.Lab, report: reports.Report) -> None:
    secrets = {lab.daemons.ceph.key(), lab.passwords.volumes}
    with leak_watch.Lookout(lab, secrets) as watch:
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(lab.hosts.set_initiators,
                             dict.fromkeys(lab.hosts.names, HOST))
            guest = _guest.Guest(lab, report, cleanup, 'demo')
            guest.rest(REST)
            guest.check_place(BEFORE)
            try:
                _play(lab, report, guest)
                guest.end()
            finally:
                guest.show()
        guest.check_gone()
    watch.tell(report, SECRET)


def _play(lab: cloud.Lab, report: reports.Report,
          guest: _guest.Guest) -> None:
    initiator = HOST
    for attempt in PLAN:
        if attempt.initiator:
            initiator = attempt.initiator
            with report.step('both hosts set to '
                             f'{_guest.INITIATORS[initiator]}\'s initiator'):
                lab.hosts.set_initiators(dict.fromkeys(lab.hosts.names,
                                                       initiator))
        with contextlib.ExitStack() as stack:
            if attempt.fault:
                stack.enter_context(attempt.fault(guest,
                                                  attempt.destination))
            if attempt.reason:
                _fail(report, guest, attempt)
            else:
                _move(report, guest, attempt, initiator)


def _move(report: reports.Report, guest: _guest.Guest, attempt: Attempt,
          initiator: str) -> None:
    """Migrate, and see that the guest is there and nowhere else."""
    title = attempt.title
    before, links = guest.disk(), guest.by_path()
    mapping = guest.lab.volumes.mapping(guest.data, guest.host)
    migration, stall = guest.migrate(title, attempt.destination)
    report.check(f'{title}: the guest moves', migration.completed,
                 f'{migration.seconds:.1f} s, writes stalled '
                 f'{stall.seconds * 1000:.0f} ms')
    if not migration.completed:
        report.say(guest.lab.servers.fault(guest.server))
        return
    guest.initiator = initiator
    guest.paths = attempt.paths
    there = guest.lab.volumes.mapping(guest.data, guest.host)
    report.check(f'{title}: its target and LUN are others',
                 mapping and there and mapping[0] != there[0] and
                 mapping[1] != there[1], f'{mapping}, then {there}')
    report.figure(f'{title}: migration', round(migration.seconds, 1), 's')
    guest.check_place(title)
    report.diff(f'The disk as libvirt has it, {title}',
                '\n'.join([*links, before]),
                '\n'.join([*guest.by_path(), guest.disk()]))


def _fail(report: reports.Report, guest: _guest.Guest,
          attempt: Attempt) -> None:
    """Migrate to where the volumes cannot be reached."""
    title = attempt.title
    migration, stall = guest.migrate(title, attempt.destination)
    report.check(f'{title}: the migration fails', not migration.completed,
                 f'{migration.status}, {migration.seconds:.1f} s')
    report.check(f'{title}: the guest does not notice',
                 _guest.unnoticed(stall.seconds, guest.rest_stall),
                 f'writes stalled {stall.seconds * 1000:.0f} ms, '
                 f'{guest.rest_stall * 1000:.0f} ms at rest')
    reason = guest.lab.servers.fault(guest.server)
    report.check(f'{title}: Nova gives the reason',
                 attempt.reason in reason, reason)
    guest.check_place(title)
