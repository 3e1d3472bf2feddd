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
import io

import fixtures
import testtools

from blockpath.console import suite
from blockpath import paths
from blockpath import scenarios
from blockpath.series import model
from blockpath.series import tree_checks
from blockpath import testrun
from tests.unit.series import base


class MainTest(base.TestCase):

    def setUp(self):
        super().setUp()
        self.logs = self.temp / 'logs'
        self.logs.mkdir()
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.console.suite.LOGS', self.logs))

    def _main(self, *steps: suite.Step) -> tuple[int, list[str]]:
        output = io.StringIO()
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', output))
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.testrun.steps', lambda under, quick: steps))
        return testrun.main([]), output.getvalue().splitlines()

    def test_last_line(self):
        good = suite.Step('a', lambda log, update: suite.Counts(5, 0, 2))
        bad = suite.Step('b', lambda log, update: suite.Counts(1, 1, 0))
        code, lines = self._main(good)
        self.assertEqual((0, '5 passed, 0 failed, 2 skipped'),
                         (code, lines[-1]))
        code, lines = self._main(good, bad)
        self.assertEqual((1, '6 passed, 1 failed, 2 skipped'),
                         (code, lines[-1]))
        self.assertIn('failed: b;', lines[-2])

    def test_a_lab_is_stopped_however_the_run_ends(self):
        stopped = []
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.testrun.stop_lab', lambda: stopped.append(True)))

        def interrupt(log, update):
            raise KeyboardInterrupt

        up = suite.Step('lab-up', lambda log, update: suite.Counts(1))
        self._main(suite.Step('a', lambda log, update: suite.Counts(1)))
        self.assertEqual([], stopped)
        self._main(up)
        self.assertEqual([True], stopped)
        self.assertRaises(KeyboardInterrupt, self._main, up,
                          suite.Step('b', interrupt))
        self.assertEqual([True, True], stopped)

    def test_one_at_a_time(self):
        """A second run would remove what the first one writes."""
        (self.logs / 'earlier').mkdir()
        codes = []

        def work(log, update):
            codes.append(self.assertRaises(suite.RunError,
                                           self._main).message)
            return suite.Counts(1)
        code, _ = self._main(suite.Step('a', work))
        self.assertEqual((0, ['other tests run in this checkout; wait for '
                              'them to end']), (code, codes))
        self.assertEqual({'.lock', 'a.log'},
                         {path.name for path in self.logs.iterdir()})


class StepsTest(testtools.TestCase):

    def names(self, quick: bool, release: str = '') -> list[str]:
        series = model.Series(paths.ROOT)
        under = tree_checks.Trees(series, release or series.default)
        return [step.name for step in testrun.steps(under, quick)]

    def test_quick_is_the_beginning(self):
        quick, whole = self.names(True), self.names(False)
        self.assertEqual(quick, whole[:len(quick)])
        for name in ('style', 'shell', 'types', 'unit', 'series', 'docs'):
            self.assertIn(name, quick)
        for name in ('nova-libvirt', 'nova-functional', 'lab-demo'):
            self.assertNotIn(name, quick)
            self.assertIn(name, whole)
        for name in scenarios.names():
            self.assertEqual(name not in scenarios.LEFT_OUT,
                             f'lab-{name}' in whole)
        # One lab serves them all.
        self.assertEqual(['lab-up', 'lab-down'], [
            name for name in whole if name in ('lab-up', 'lab-down')])
        self.assertEqual(
            {f'lab-{name}' for name in scenarios.whole()},
            set(whole[whole.index('lab-up') + 1:whole.index('lab-down')]))

    def test_other_releases_have_the_trees_alone(self):
        for release in ('2026.1', '2025.2'):
            quick, whole = (self.names(quick, release)
                            for quick in (True, False))
            self.assertEqual(quick, whole[:len(quick)])
            self.assertEqual(
                ['nova-libvirt', 'nova-functional', 'cinder-volume'],
                whole[len(quick):])
            for name in ('series', 'style-nova', 'nova-new-functional',
                         'cinder-new-unit', 'os-brick', 'mixed'):
                self.assertIn(name, quick)
            for name in ('unit', 'types', 'kernel', 'lab-demo'):
                self.assertNotIn(name, whole)

    def test_arguments(self):
        series = model.Series(paths.ROOT)
        parser = testrun.parser(series)
        for arguments, wanted in (
                ([], (None, series.default)),
                (['quick'], ('quick', series.default)),
                (['--release', '2026.1'], (None, '2026.1')),
                (['--release', '2025.2', 'quick'], ('quick', '2025.2'))):
            found = parser.parse_args(arguments)
            self.assertEqual(wanted, (found.quick, found.release))
        for arguments, why in (
                (['--release', '1999.1'], "invalid choice: '1999.1'"),
                (['slow'], 'invalid choice'), (['--release'], 'expected')):
            said = io.StringIO()
            with fixtures.MonkeyPatch('sys.stderr', said):
                error = self.assertRaises(SystemExit, parser.parse_args,
                                          arguments)
            self.assertEqual(2, error.code)
            self.assertIn(why, said.getvalue())


class ShellTest(testtools.TestCase):

    def test_what_is_shell(self):
        root = paths.ROOT
        self.assertTrue(testrun.is_shell(root / 'run'))
        self.assertTrue(testrun.is_shell(root / '.ci/run'))
        self.assertFalse(testrun.is_shell(root / 'blockpath/cli.py'))
        self.assertFalse(testrun.is_shell(root / 'missing'))
