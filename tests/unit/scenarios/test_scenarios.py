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
from collections.abc import Sequence
import functools
import io
import itertools
import pathlib
import re
import types
from typing import Any
from unittest import mock

import testtools

from blockpath.bench import attach
from blockpath.bench import migrate
from blockpath.bench import targets
from blockpath.console import progress
from blockpath.console import report as reports
from blockpath.machine import wait
from blockpath.observe import leak_watch
from blockpath.observe import plots
from blockpath import scenarios
from blockpath.scenarios import copying
from blockpath.scenarios import demo
from blockpath.scenarios import endurance
from blockpath.scenarios import lifecycle
from blockpath.scenarios import smoke
from blockpath.scenarios import volumes
from tests.unit import lab_base
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
    'demo': (demo.expected(), [demo, copying, volumes, leak_watch]),
}


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
        for name in set(scenarios.names()).difference(scenarios.LONG):
            self.assertTrue(RUNS[name][0], name)
            self.assertEqual(RUNS[name][0],
                             scenarios.load(name).expected())

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
        self.assertFalse([name for name in only_ceph if 'files' in name or
                          name.startswith('migrated')])
        self.assertIn('retyped to rbd: the volume arrives', only_ceph)
        self.assertFalse([name for name in attach.expected(3, cycles=0)
                          if 'times 4 volumes' in name])

    def test_the_guest_is_where_the_plan_has_brought_it(self):
        names = demo.guest_checks()
        for title, host in ((demo.BEFORE, 'cmp1'), ('A to B', 'cmp2'),
                            ('wrong CHAP password at cmp2', 'cmp1'),
                            ('hung portal at cmp1', 'cmp2')):
            self.assertIn(f'{title}: the guest runs on {host}', names)


class PlayTestCase(lab_base.LabTest):
    """Scenarios on a model of the lab."""

    def setUp(self) -> None:
        super().setUp()
        for module, name, value in (
                (demo, 'REST', 0.3), (demo, 'SETTLE', 0.05),
                (demo, 'SIGN_OF_LIFE', 10), (wait, 'PATIENCE', 5.0),
                # Slow, and drawn in a test of its own.
                (plots, 'moves', lambda watcher, spans: '')):
            patcher = mock.patch.object(module, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.lab: Any = fake_lab.FakeLab(self.folder)
        self.addCleanup(self.lab.close)

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


class VolumesTest(PlayTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.lab = fake_lab.FakeCinder()

    def test_makes_the_listed_checks(self) -> None:
        for only_ceph in (False, True):
            report = self.play(
                functools.partial(volumes.play, only_ceph=only_ceph),
                volumes.checks(only_ceph))
            self.assertEqual('passed', report.ended, report.outcome())

    def test_a_copy_that_is_not_true(self) -> None:
        self.lab.flips = 'rbd2'
        report = self.play(volumes.play, volumes.checks())
        for how in ('migrated', 'retyped'):
            self.assertIn(f'{how} to rbd2: its content is the same',
                          report.tally.failed)

    def test_a_volume_that_does_not_arrive(self) -> None:
        self.lab.refuses = 'rbd2'
        report = self.play(volumes.play, volumes.checks())
        self.assertEqual(['migrated to rbd2: the volume arrives',
                          'retyped to rbd2: the volume arrives'],
                         report.tally.failed)
        self.assertIn('migrated to files: the volume arrives',
                      report.tally.missing)

    def test_a_volume_that_is_left(self) -> None:
        self.lab.leaves = True
        report = self.play(volumes.play, volumes.checks())
        self.assertIn('volumes deleted: no other volume is left, none is '
                      'missing', report.tally.failed)


class GuestTest(PlayTestCase):
    """The first act of the demo."""

    def play_guest(self) -> reports.Report:
        return self.play(demo.guest, demo.guest_checks())

    def test_makes_the_listed_checks(self) -> None:
        report = self.play_guest()
        self.assertEqual('passed', report.ended, report.outcome())
        self.assertIn('4 live migrations between', report.summary)
        self.assertIn('3 migrations into injected faults failed',
                      report.summary)
        self.assertIn('records arrived, intact and in order.',
                      report.summary)
        for attempt in demo.PLAN:
            self.assertIn(f'<!-- {attempt.title} -->',
                          report.plot.replace('&#39;', "'"))
        diff = report.diffs[0].lines
        name = '      name="iqn.2010-10.org.openstack:host'
        self.assertIn(('-', f'{name}-cmp1/2">'), diff)
        self.assertIn(('+', f'{name}-cmp2/3">'), diff)
        self.assertIn(('+', '    <auth username="chap-cmp2">'), diff)
        self.assertIn((' ', '  <serial>'), [
            (mark, line[:10]) for mark, line in diff])

    def test_endurance_makes_the_listed_checks(self) -> None:
        report = self.play(lambda lab, report: endurance.run(lab, report, 3),
                           endurance.expected(3))
        self.assertEqual('passed', report.ended, report.outcome())
        self.assertIn('3 live migrations between', report.summary)

    def test_endurance_with_a_move_that_fails(self) -> None:
        self.lab.servers.refuses = 1
        report = self.play(lambda lab, report: endurance.run(lab, report, 3),
                           endurance.expected(3))
        self.assertEqual('failed', report.ended)
        self.assertIn('move 2: the guest moves to cmp1', report.tally.failed)

    def test_a_stall_over_the_limit(self) -> None:
        self.lab.servers.stalls[2] = 1.4
        report = self.play_guest()
        self.assertEqual('failed', report.ended)
        self.assertEqual(
            ['wrong CHAP password at cmp2: the guest does not notice'],
            report.tally.failed)

    def test_the_limit(self) -> None:
        self.assertTrue(demo.unnoticed(1.25, rest=0.3))
        self.assertFalse(demo.unnoticed(1.35, rest=0.3))

    def test_a_failure_for_another_reason(self) -> None:
        self.lab.storage.hung_portal = lambda host: self.lab.volumes.break_way(
            host, 'the scheduler was asleep')
        report = self.play_guest()
        self.assertEqual(['hung portal at cmp1: Nova gives the reason'],
                         report.tally.failed)

    def test_a_guest_that_hangs(self) -> None:
        self.lab.servers.hangs = 1
        with mock.patch.object(wait, 'PATIENCE', 0.5):
            report = self.play_guest()
        self.assertEqual('broken off', report.ended)
        self.assertIn("in step 'migrating: B to A' after", report.headline)
        self.assertIn('of 10 records arrived', report.headline)
        # The earlier moves are on the page.
        self.assertIn('<!-- B to A -->', report.plot)
        self.assertIn('2 live migrations between', report.summary)

    def test_a_guest_that_panics(self) -> None:
        self.lab.servers.hangs = 1
        self.lab.servers.panics = 'cmp1: Kernel panic - not syncing: lost it'
        with mock.patch.object(wait, 'PATIENCE', 0.5):
            report = self.play_guest()
        self.assertEqual('broken off', report.ended)
        self.assertIn('the guest panicked on cmp1: Kernel panic - not '
                      'syncing: lost it', report.headline)

    def test_a_guest_that_does_not_move(self) -> None:
        self.lab.servers.refuses = 0
        report = self.play_guest()
        self.assertEqual('failed', report.ended)
        self.assertIn('A to B: the guest moves', report.tally.failed)
        self.assertIn('A to B: its LUN is another', report.tally.missing)

    def test_a_record_that_is_lost(self) -> None:
        self.lab.servers.loses = 0
        report = self.play_guest()
        self.assertEqual(
            ['every record that arrived is right, in order',
             'the records on the volume are right, in order'],
            report.tally.failed)
        self.assertIn('with 1 gap or damaged ones', report.summary)
