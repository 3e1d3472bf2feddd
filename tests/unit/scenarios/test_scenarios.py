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
"""The checks that scenarios and benches list, and those that they make."""

import ast
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
import dataclasses
import functools
import io
import itertools
import pathlib
import re
import types
from typing import Any
from unittest import mock

import click
import testtools

from blockpath.bench import attach
from blockpath.bench import migrate
from blockpath.bench import targets
from blockpath.cloud import mariadb
from blockpath.console import progress
from blockpath.console import report as reports
from blockpath.machine import wait
from blockpath.observe import copy_follower
from blockpath.observe import leak_watch
from blockpath.observe import plots
from blockpath.observe import volume_content
from blockpath import scenarios
from blockpath.scenarios import _guest
from blockpath.scenarios import copying
from blockpath.scenarios import demo
from blockpath.scenarios import endurance
from blockpath.scenarios import lifecycle
from blockpath.scenarios import smoke
from blockpath.scenarios import volumes
from tests.unit import lab_base
from tests.unit.scenarios import fake_cinder
from tests.unit.scenarios import fake_lab

#: Of each run: its list, and the modules that make its checks.
RUNS = {
    'attach': (attach.expected(rounds=3, cycles=100), [attach]),
    'migrate': (migrate.expected(rounds=6, volumes=24), [migrate]),
    'targets': (targets.expected(volumes=200), [targets]),
    'smoke': (smoke.expected(), [smoke]),
    'lifecycle': (lifecycle.expected(), [lifecycle]),
    'volumes': (volumes.expected(), [volumes, leak_watch]),
    'copying': (copying.expected(), [copying, volumes, leak_watch]),
    'demo': (demo.expected(), [demo, _guest, leak_watch]),
    'endurance': (endurance.expected(20, _guest.HOST), [endurance, _guest]),
}


def defaults(module: types.ModuleType) -> dict[str, Any]:
    """The options of a scenario if none is given."""
    command = click.Command('run', params=list(getattr(module, 'OPTIONS',
                                                       ())))
    return command.make_context('run', []).params


def patterns(module: types.ModuleType) -> list[str]:
    """A regular expression for the name in each call of ``check``."""
    tree = ast.parse(pathlib.Path(module.__file__ or '').read_text())
    return [pattern(call.args[0]) for call in ast.walk(tree)
            if isinstance(call, ast.Call) and call.args and
            isinstance(call.func, ast.Attribute) and
            call.func.attr == 'check' and
            ast.unparse(call.func.value).endswith('report')]


def pattern(name: ast.expr) -> str:
    match name:
        case ast.Constant():
            return re.escape(str(name.value))
        case ast.JoinedStr():
            return ''.join(pattern(part) for part in name.values)
    return '.+'


class ExpectedTest(testtools.TestCase):

    def test_every_scenario_has_a_list(self):
        for name in scenarios.names():
            self.assertTrue(RUNS[name][0], name)
            module = scenarios.load(name)
            self.assertEqual(RUNS[name][0],
                             module.expected(**defaults(module)))

    def test_no_name_twice(self):
        for name, (expected, _) in RUNS.items():
            self.assertEqual(len(set(expected)), len(expected), name)

    def test_every_name_is_made_by_a_call(self):
        for name, (expected, modules) in RUNS.items():
            found = list(itertools.chain.from_iterable(
                map(patterns, modules)))
            for check in expected:
                self.assertTrue(any(re.fullmatch(one, check)
                                    for one in found), f'{name}: {check}')

    def test_every_call_is_listed(self):
        # The scenario 'copying' makes some of the checks of 'volumes' only.
        for name in set(RUNS) - {'copying'}:
            expected, modules = RUNS[name]
            for one in itertools.chain.from_iterable(map(patterns, modules)):
                self.assertTrue(any(re.fullmatch(one, check)
                                    for check in expected),
                                f'{name}: {one}')

    def test_options(self):
        self.assertIn('migrated to rbd: the volume arrives',
                      volumes.expected())
        only_ceph = volumes.expected(only_ceph=True)
        self.assertFalse([name for name in only_ceph if 'lvm' in name or
                          name.startswith('migrated')])
        self.assertIn('retyped to rbd: the volume arrives', only_ceph)
        self.assertFalse([name for name in attach.expected(3, cycles=0)
                          if 'times 4 volumes' in name])
        for moves, host in ((1, 'cmp2'), (2, 'cmp1')):
            names = endurance.expected(moves, _guest.QEMU)
            self.assertIn(f'move {moves}', names)
            self.assertNotIn(f'move {moves + 1}', names)
            self.assertIn(f'after the last move: the guest runs on {host}',
                          names)

    def test_the_guest_is_where_the_plan_has_brought_it(self):
        names = demo.expected()
        for title, host in ((demo.BEFORE, 'cmp1'), ('host: A to B', 'cmp2'),
                            ('QEMU, wrong CHAP password', 'cmp1'),
                            ('QEMU, one portal dead: A to B', 'cmp2'),
                            ('host, hung portals', 'cmp1')):
            self.assertIn(f'{title}: the guest runs on {host}', names)


class FakeLookout:
    """Finds nothing."""

    def __init__(self, lab: Any, passwords: Collection[str]) -> None:
        assert all(passwords)

    def __enter__(self) -> 'FakeLookout':
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def tell(self, report: reports.Report, secret: str) -> None:
        for name in leak_watch.checks(secret):
            report.check(name, True)


class PlayTestCase(lab_base.LabTest):
    """Scenarios on a model of the lab."""

    def setUp(self) -> None:
        super().setUp()
        for module, name, value in (
                (demo, 'REST', 0.3), (endurance, 'REST', 0.3),
                (_guest, 'SETTLE', 0.05), (_guest, 'SIGN_OF_LIFE', 10),
                (wait, 'PATIENCE', 5.0),
                (leak_watch, 'Lookout', FakeLookout),
                # Slow, and drawn in a test of its own.
                (plots, 'moves', lambda watcher, spans: '')):
            self.patch(module, name, value)
        self.lab: Any = fake_lab.FakeLab(self.folder)
        self.addCleanup(self.lab.close)

    def patch(self, module: Any, name: str, value: object) -> None:
        patcher = mock.patch.object(module, name, value)
        patcher.start()
        self.addCleanup(patcher.stop)

    def play(self, play: Callable[[Any, reports.Report], None],
             expected: Sequence[str]) -> reports.Report:
        report = reports.Report(progress.Plain(io.StringIO()),
                                self.folder / 'report', expected)
        try:
            play(self.lab, report)
            report.finish()
        except Exception as exc:
            report.break_off(exc)
        report.write()
        return report


class SmokeTest(PlayTestCase):

    def test_makes_the_listed_checks(self) -> None:
        report = self.play(smoke.run, smoke.expected())
        self.assertEqual('passed', report.ended, report.outcome())

    def test_devices_that_stay(self) -> None:
        self.lab.hosts.stays = 'host'
        report = self.play(smoke.run, smoke.expected())
        self.assertEqual(['no initiator has left anything'],
                         report.tally.failed)


class VolumesTest(PlayTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.lab = fake_cinder.FakeCinder(self.folder)

    def play_volumes(self, only_ceph: bool = False) -> reports.Report:
        return self.play(functools.partial(volumes.play, mib=1,
                                           only_ceph=only_ceph),
                         volumes.checks(only_ceph))

    def test_makes_the_listed_checks(self) -> None:
        for only_ceph in (False, True):
            report = self.play_volumes(only_ceph)
            self.assertEqual('passed', report.ended, report.outcome())

    def test_whole_objects_within_ceph_by_retype_only(self) -> None:
        self.play_volumes()
        self.assertEqual(
            [('volumes-retyped', 'rbd2')],
            [(name, backend) for name, backend, unit in self.lab.units
             if unit == volume_content.OBJECT])

    def test_each_initiator_has_its_volume(self) -> None:
        seen = []
        start = self.lab.start_migration

        def start_migration(volume: Any, backend: str, force: bool) -> None:
            start(volume, backend, force)
            if backend == 'lvm':
                seen.append((volume.name, self.lab._copy.initiator))

        self.lab.start_migration = start_migration
        self.play_volumes()
        self.assertEqual([('volumes-migrated', 'host'),
                          ('volumes-retyped', 'qemu')], seen)

    def test_a_copy_that_is_not_true(self) -> None:
        self.lab.flips = 'rbd2'
        report = self.play_volumes()
        for how in ('migrated', 'retyped'):
            self.assertIn(f'{how} to rbd2: its content is the same',
                          report.tally.failed)

    def test_a_copy_that_takes_room_for_zeros(self) -> None:
        self.lab.wastes = fake_cinder.MIB
        report = self.play_volumes()
        self.assertEqual(
            [name for name in volumes.checks() if 'blank parts' in name],
            report.tally.failed)

    def test_a_volume_that_does_not_arrive(self) -> None:
        self.lab.refuses = 'rbd2'
        report = self.play_volumes()
        self.assertEqual(['migrated to rbd2: the volume arrives',
                          'retyped to rbd2: the volume arrives'],
                         report.tally.failed)
        self.assertIn('migrated to lvm: the volume arrives',
                      report.tally.missing)

    def test_a_volume_that_is_left(self) -> None:
        self.lab.leaves = True
        report = self.play_volumes()
        self.assertIn('volumes deleted: no other volume is left, none is '
                      'missing', report.tally.failed)

    def test_an_export_that_stays(self) -> None:
        self.lab.exports_stay = True
        report = self.play_volumes()
        self.assertIn('migrated to lvm: no volume is exported',
                      report.tally.failed)
        self.assertNotIn('migrated to rbd: no volume is exported',
                         report.tally.failed)

    def test_devices_that_stay(self) -> None:
        self.lab.devices_stay = True
        report = self.play_volumes()
        self.assertIn('migrated to lvm: the storage host\'s initiator has '
                      'left nothing', report.tally.failed)


class CopyingTest(PlayTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.lab = fake_cinder.FakeCinder(self.folder)
        for module, name, value in (
                # A copy of the model takes no time.
                (copying, 'RATE', 1 << 30), (copying, 'LENGTH', 4),
                (copy_follower, 'Listener', fake_cinder.FakeListener),
                (copy_follower, '_PAUSE', 0.01),
                (mariadb, 'connect', fake_cinder.FakeCursor.connect),
                (plots, 'courses', lambda courses: '')):
            self.patch(module, name, value)

    def play_copying(self) -> reports.Report:
        return self.play(copying.play, copying.checks())

    def test_makes_the_listed_checks(self) -> None:
        report = self.play_copying()
        self.assertEqual('passed', report.ended, report.outcome())

    def test_a_copy_that_is_too_fast(self) -> None:
        self.patch(copying, 'RATE', 96)
        report = self.play_copying()
        self.assertEqual(
            [f'{copying.MOVED}: the copy keeps to the limit'],
            report.tally.failed)

    def test_devices_that_stay(self) -> None:
        self.lab.devices_stay = True
        report = self.play_copying()
        self.assertEqual(
            [f'{title}: the storage host\'s initiator has left nothing'
             for title in (copying.RESUMED, copying.DELETED)],
            report.tally.failed)

    def test_qemu_that_survives(self) -> None:
        self.lab.qemu_stays = True
        report = self.play_copying()
        self.assertEqual(
            [f'{copying.UNDONE_QEMU}: the kill ends QEMU as well'],
            report.tally.failed)

    def test_qemu_that_never_ran(self) -> None:
        self.lab.qemu = 0
        report = self.play_copying()
        self.assertEqual(
            [f'{copying.UNDONE_QEMU}: the kill ends QEMU as well'],
            report.tally.failed)

    def test_a_copy_that_begins_again(self) -> None:
        self.lab.resumes_at = 0
        report = self.play_copying()
        self.assertEqual(
            [f'{copying.RESUMED}: the copy resumes at its checkpoint'],
            report.tally.failed)

    def test_no_message_for_the_user(self) -> None:
        self.lab.most_messages = 1
        report = self.play_copying()
        self.assertEqual(
            [f'{copying.UNDONE_QEMU}: Cinder has a message for its user'],
            report.tally.failed)

    def test_another_initiator_than_the_configured(self) -> None:
        for initiator, failed in (
                ('host', f'{copying.UNDONE_QEMU}: the kill ends QEMU as '
                         'well'),
                ('qemu', f'{copying.RESUMED}: the kill leaves a session and '
                         'devices')):
            self.lab = fake_cinder.FakeCinder(self.folder)
            self.lab.initiator = initiator
            report = self.play_copying()
            self.assertEqual([failed], report.tally.failed)

    def test_an_export_that_the_kill_ends(self) -> None:
        self.lab.kill_unmaps = True
        report = self.play_copying()
        self.assertEqual(
            [f'{title}: the kill leaves an export' for title in (
                copying.UNDONE_QEMU, copying.RESUMED)], report.tally.failed)

    def test_a_kill_that_comes_too_late(self) -> None:
        self.lab.kill_is_late = True
        report = self.play_copying()
        self.assertIn(f'{copying.UNDONE}: the kill leaves its copy',
                      report.tally.failed)
        self.assertIn(f'{copying.UNDONE}: the volume is where it was',
                      report.tally.failed)

    def test_a_source_that_is_written_to(self) -> None:
        self.lab.undo_writes = True
        report = self.play_copying()
        self.assertEqual(
            [f'{title}: the volume takes no more room' for title in (
                copying.UNDONE, copying.UNDONE_QEMU)], report.tally.failed)

    def test_a_copy_that_takes_room_for_zeros(self) -> None:
        self.lab.wastes = fake_cinder.MIB
        report = self.play_copying()
        self.assertEqual(
            [f'{title}: blank parts take no room' for title in (
                copying.MOVED, copying.RESUMED)], report.tally.failed)


class DemoTest(PlayTestCase):

    def play_demo(self) -> reports.Report:
        return self.play(demo.run, demo.expected())

    def test_makes_the_listed_checks(self) -> None:
        report = self.play_demo()
        self.assertEqual('passed', report.ended, report.outcome())
        self.assertIn('7 live migrations between', report.summary)
        self.assertIn('6 migrations into injected faults failed',
                      report.summary)
        self.assertIn('records arrived, intact and in order.',
                      report.summary)
        for attempt in demo.PLAN:
            self.assertIn(f'<!-- {attempt.title}: ',
                          report.plot.replace('&#39;', "'"))
        diffs = {diff.title.rpartition(', ')[2]: diff.lines
                 for diff in report.diffs}
        by_path = 'ip-10.77.0.20:3260-iscsi-iqn.2010-10.org.openstack:host'
        by_qemu = '      name="iqn.2010-10.org.openstack:host'
        self.assertIn(('-', f'{by_path}-cmp1-lun-2'), diffs['host: A to B'])
        self.assertIn(('+', f'{by_path}-cmp2-lun-1'), diffs['host: A to B'])
        self.assertIn(('+', f'{by_qemu}-cmp2/1">'),
                      diffs['host to QEMU: A to B'])
        self.assertIn(('+', '    <auth username="chap-cmp1">'),
                      diffs['QEMU: B to A'])
        self.assertIn((' ', '  <serial>'), [
            (mark, line[:10]) for mark, line in diffs['QEMU: B to A']])

    def test_a_stall_over_the_limit(self) -> None:
        self.lab.servers.stalls[4] = 1.4
        report = self.play_demo()
        self.assertEqual('failed', report.ended)
        self.assertEqual(
            ['QEMU, wrong CHAP password: the guest does not notice'],
            report.tally.failed)

    def test_the_limit(self) -> None:
        self.assertTrue(_guest.unnoticed(1.25, rest=0.3))
        self.assertFalse(_guest.unnoticed(1.35, rest=0.3))

    def test_a_failure_for_another_reason(self) -> None:
        self.lab.volumes.hung['host'] = 'the scheduler was asleep'
        report = self.play_demo()
        self.assertEqual(['host, hung portals: Nova gives the reason'],
                         report.tally.failed)

    def test_a_guest_that_hangs(self) -> None:
        self.lab.servers.hangs = 1
        with mock.patch.object(wait, 'PATIENCE', 1.0):
            report = self.play_demo()
        self.assertEqual('broken off', report.ended)
        self.assertIn("in step 'migrating: host: B to A' after",
                      report.headline)
        self.assertIn('of 10 records arrived', report.headline)
        # The earlier moves are on the page.
        self.assertIn('<!-- host: B to A: ', report.plot)
        self.assertIn('2 live migrations between', report.summary)

    def test_a_guest_that_panics(self) -> None:
        self.lab.servers.hangs = 1
        self.lab.servers.panics = 'cmp1: Kernel panic - not syncing: lost it'
        with mock.patch.object(wait, 'PATIENCE', 1.0):
            report = self.play_demo()
        self.assertEqual('broken off', report.ended)
        self.assertIn('the guest panicked on cmp1: Kernel panic - not '
                      'syncing: lost it', report.headline)

    def test_a_guest_that_does_not_move(self) -> None:
        self.lab.servers.refuses = 0
        report = self.play_demo()
        self.assertEqual('failed', report.ended)
        self.assertIn('host: A to B: the guest moves', report.tally.failed)
        self.assertIn('host: A to B: its target and LUN are others',
                      report.tally.missing)

    def test_a_record_that_is_lost(self) -> None:
        self.lab.servers.loses = 0
        report = self.play_demo()
        self.assertEqual(
            ['every record that arrived is right, in order',
             'the records on the volume are right, in order'],
            report.tally.failed)
        self.assertIn('with 1 gap or damaged ones', report.summary)

    def test_devices_that_stay(self) -> None:
        self.lab.hosts.stays = 'host'
        report = self.play_demo()
        self.assertIn('host: A to B: cmp1 has no devices',
                      report.tally.failed)
        self.assertIn('deleted: no secret, domain, device or mapping is left',
                      report.tally.failed)


class EnduranceTest(PlayTestCase):

    def play_endurance(self, initiator: str) -> reports.Report:
        return self.play(functools.partial(endurance.run, moves=3,
                                           initiator=initiator),
                         endurance.expected(3, initiator))

    def test_makes_the_listed_checks(self) -> None:
        for initiator in (_guest.HOST, _guest.QEMU):
            report = self.play_endurance(initiator)
            self.assertEqual('passed', report.ended, report.outcome())
            self.assertEqual('host', self.lab.hosts.option['cmp2'])

    def test_a_guest_that_does_not_move(self) -> None:
        self.lab.servers.refuses = 2
        report = self.play_endurance(_guest.HOST)
        self.assertIn('move 3', report.tally.failed)


class LifecycleTest(PlayTestCase):

    def play_lifecycle(self) -> reports.Report:
        return self.play(lifecycle.run, lifecycle.expected())

    def test_makes_the_listed_checks(self) -> None:
        report = self.play_lifecycle()
        self.assertEqual('passed', report.ended, report.outcome())
        self.assertEqual('host', self.lab.hosts.option['cmp1'])
        # Only then does nova-compute look for QEMU's driver.
        self.assertIn('qemu: install qemu-block-extra',
                      report.checks[-1].figure)

    def test_an_initiator_that_ignores_what_it_connected(self) -> None:
        for stays, title in (('host', 'host'), ('qemu', 'QEMU')):
            self.lab = fake_lab.FakeLab(self.folder)
            self.addCleanup(self.lab.close)
            self.lab.hosts.stays = stays
            report = self.play_lifecycle()
            self.assertIn(f'{title}: detached: the volume is disconnected',
                          report.tally.failed)
            self.assertIn(
                f'{title}: option changed: the detach finds the initiator of '
                f'the attach', report.tally.failed)
            # The second server sees leftovers of the first.
            self.assertEqual(
                stays == 'host', 'QEMU: soft reboot: its volumes are '
                'connected' in report.tally.failed)

    def test_a_secret_that_nobody_needs(self) -> None:
        secrets, another = self.lab.hosts.secrets, fake_lab.Volume('another')
        self.lab.hosts.secrets = lambda host: [*secrets(host), another]
        report = self.play_lifecycle()
        for title in ('host', 'QEMU'):
            self.assertIn(f'{title}: soft reboot: its volumes are connected',
                          report.tally.failed)

    def test_a_type_that_is_ignored(self) -> None:
        choose = self.lab.hosts.initiator
        self.lab.hosts.initiator = lambda volume, host: choose(
            dataclasses.replace(volume, initiator=''), host)
        report = self.play_lifecycle()
        self.assertEqual(
            [f'{title}: option changed: a volume type has its own initiator'
             for title in ('host', 'QEMU')], report.tally.failed)

    def test_a_guest_that_does_not_boot_again(self) -> None:
        self.lab.servers.reboot_server = lambda server, kind: None
        report = self.play_lifecycle()
        self.assertEqual(
            [f'{title}: {kind} reboot: the guest boots again'
             for title in ('host', 'QEMU') for kind in ('soft', 'hard')],
            report.tally.failed)

    def test_no_reason_given(self) -> None:
        self.lab.servers.create_volume_attachment = (
            lambda server, volume_id: None)
        with mock.patch.object(wait, 'PATIENCE', 2.0):
            report = self.play_lifecycle()
        self.assertEqual('broken off', report.ended)
        self.assertIn('Nova to give its reason', report.headline)


class MigrateTest(PlayTestCase):

    def setUp(self) -> None:
        super().setUp()
        # Of short stalls, on a busy machine.
        self.patch(migrate, 'STALL_RATIO', 3)
        self.lab.servers.stalls = dict.fromkeys(range(16), 0.1)
        self.patch(migrate, '_in_libvirt', lambda lab, source: 1.0)
        self.patch(migrate, '_attach', lambda lab, guest, volume: 30.0)
        self.patch(plots, 'columns', self.columns)

    def columns(self, groups: dict[str, list[float]], unit: str) -> str:
        self.labels = {name: len(values) for name, values in groups.items()}
        return ''

    def play_migrate(self) -> reports.Report:
        return self.play(functools.partial(migrate.run, rounds=1, volumes=3),
                         migrate.expected(rounds=1, volumes=3))

    def test_makes_the_listed_checks(self) -> None:
        report = self.play_migrate()
        self.assertEqual('passed', report.ended, report.outcome())
        self.assertEqual({f'{initiator}\n{which} target': 2
                          for initiator in ('host', 'QEMU')
                          for which in ('same', 'another')}, self.labels)
        self.assertEqual('host', self.lab.hosts.option['cmp2'])

    def test_another_target_that_costs(self) -> None:
        # The other guest is the first of four, and the last.
        self.lab.servers.stalls |= {0: 0.5, 3: 0.5}
        report = self.play_migrate()
        self.assertIn(
            'host: the stall with another target is at most 3 times the '
            'stall with the same', report.tally.failed)

    def test_one_target_or_one_for_each_host(self) -> None:
        found: dict[str, set[str]] = {}
        migrated = self.lab.servers.migrate

        def migrate_server(server: Any, destination: str) -> Any:
            done = migrated(server, destination)
            data = server.volumes[1]
            iqn, _ = self.lab.volumes.mapping(data, destination)
            option = self.lab.hosts.option[destination]
            found.setdefault(f'{option}: {data.name}', set()).add(iqn)
            return done

        self.lab.servers.migrate = migrate_server
        self.play_migrate()
        self.assertEqual(
            {f'{initiator}: {name}-data': iqns
             for initiator in ('host', 'qemu')
             for name, iqns in (('same', 1), ('other', 2), ('many', 2))},
            {name: len(iqns) for name, iqns in found.items()})
