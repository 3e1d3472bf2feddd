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
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import fixtures
import testtools

from blockpath import scenarios
from blockpath.series import git
from blockpath.series import model
from blockpath import testrun
from tests.unit.series import base
from tests.unit import signals


class Case(base.TestCase):

    def setUp(self):
        super().setUp()
        self.logs = self.temp / 'logs'
        self.logs.mkdir()
        self.useFixture(fixtures.MonkeyPatch('blockpath.testrun.LOGS',
                                             self.logs))

    def run_work(self, work: testrun.Work) -> tuple[testrun.Counts, str]:
        path = self.logs / 'x.log'
        with path.open('w') as log:
            counts = work(log, lambda counts: None)
        return counts, path.read_text()


class SuiteTest(Case):
    """Counts come from a real stestr's stream."""

    def suite(self, text: str, stall: float | None = None
              ) -> tuple[testrun.Counts, str]:
        package = self.temp / 'project' / 'pkg'
        package.mkdir(parents=True)
        (package / '__init__.py').write_text('')
        (package / 'test_it.py').write_text(textwrap.dedent(text))
        (package.parent / '.stestr.conf').write_text(
            '[DEFAULT]\ntest_path=./pkg\ntop_dir=./\n')
        return self.run_work(testrun.suite(package.parent, 'x',
                                           stall=stall))

    def test_counts(self):
        counts, log = self.suite('''
            import unittest
            class T(unittest.TestCase):
                def test_good(self): pass
                def test_good_too(self): pass
                def test_bad(self): self.fail('the reason why')
                def test_error(self): raise KeyError('missing')
                @unittest.skip('not here')
                def test_skipped(self): pass
                @unittest.expectedFailure
                def test_expected(self): self.fail()
            ''')
        self.assertEqual(testrun.Counts(3, 2, 1), counts)
        self.assertIn('the reason why', log)
        self.assertIn('pkg.test_it.T.test_bad', log)

    def test_import_error(self):
        counts, log = self.suite('import nothing_of_that_name\n')
        self.assertTrue(counts.failed)
        self.assertIn('nothing_of_that_name', log)

    def test_no_tests(self):
        counts, _ = self.suite('')
        self.assertEqual(1, counts.failed)

    def test_worker_dies(self):
        counts, _ = self.suite('''
            import os, unittest
            class T(unittest.TestCase):
                def test_dies(self): os._exit(3)
            ''')
        self.assertTrue(counts.failed)

    def test_stuck(self):
        """It is run again, once."""
        began = self.temp / 'began'
        text = '''
            import pathlib, time, unittest
            class T(unittest.TestCase):
                def test_good(self): pass
                def test_stuck(self):
                    began = pathlib.Path(%r)
                    if not began.exists() or %r:
                        began.touch()
                        time.sleep(60)
            '''
        counts, log = self.suite(text % (str(began), False), stall=6.0)
        self.assertEqual(testrun.Counts(passed=2), counts)
        self.assertIn('run again', log)
        shutil.rmtree(self.temp / 'project')
        counts, log = self.suite(text % (str(began), True), stall=6.0)
        self.assertTrue(counts.failed)


class StepTest(Case):

    def test_command(self):
        for code, wanted in ((0, testrun.Counts(passed=1)),
                             (3, testrun.Counts(failed=1))):
            counts, log = self.run_work(testrun.command(
                sys.executable, '-c', f'print("said"); exit({code})'))
            self.assertEqual(wanted, counts)
            self.assertIn('said', log)

    def test_failed_step_shows_its_end(self):
        output = io.StringIO()
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', output))
        counts = testrun.run_step(testrun.Step('doomed', testrun.command(
            sys.executable, '-c', 'print("[first]\\n" * 99 + "the end"); '
            'exit(1)')))
        self.assertEqual(testrun.Counts(failed=1), counts)
        self.assertIn('doomed: FAILED', output.getvalue())
        self.assertIn('the end', output.getvalue())
        self.assertTrue(output.getvalue().count('[first]') < 40)

    def test_step_that_raises(self):
        def work(log, tell):
            raise RuntimeError('broken')
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', io.StringIO()))
        self.assertEqual(1, testrun.run_step(
            testrun.Step('x', work)).failed)
        self.assertIn('broken', (self.logs / 'x.log').read_text())

    def _main(self, *steps: testrun.Step) -> tuple[int, list[str]]:
        output = io.StringIO()
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', output))
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.testrun.steps', lambda under, quick: steps))
        return testrun.main([]), output.getvalue().splitlines()

    def test_last_line(self):
        good = testrun.Step('a', lambda log, tell: testrun.Counts(5, 0, 2))
        bad = testrun.Step('b', lambda log, tell: testrun.Counts(1, 1, 0))
        code, lines = self._main(good)
        self.assertEqual((0, '5 passed, 0 failed, 2 skipped'),
                         (code, lines[-1]))
        code, lines = self._main(good, bad)
        self.assertEqual((1, '6 passed, 1 failed, 2 skipped'),
                         (code, lines[-1]))
        self.assertIn('failed: b;', lines[-2])

    def test_one_at_a_time(self):
        """A second run would remove what the first one writes."""
        (self.logs / 'earlier').mkdir()
        codes = []

        def work(log, tell):
            codes.append(self.assertRaises(testrun.RunError,
                                           self._main).message)
            return testrun.Counts(1)
        code, _ = self._main(testrun.Step('a', work))
        self.assertEqual((0, ['other tests run in this checkout; wait for '
                              'them to end']), (code, codes))
        self.assertEqual({'.lock', 'a.log'},
                         {path.name for path in self.logs.iterdir()})

    def test_ctrl_c_leaves_no_child(self):
        signals.heed_ctrl_c(self)
        pid_file = self.temp / 'pid'
        script = (f'import os, time; open({str(pid_file)!r}, "w").write('
                  f'str(os.getpid())); time.sleep(60)')
        process = subprocess.Popen([sys.executable, '-c', textwrap.dedent(f'''
            import sys
            from blockpath import testrun
            with open("/dev/null", "w") as log:
                testrun.call(log, testrun.paths.ROOT, sys.executable, "-c",
                             {script!r})
            ''')], stderr=subprocess.DEVNULL,
            cwd=pathlib.Path(__file__).parents[2])
        self.addCleanup(process.kill)
        for _ in range(200):
            if pid_file.exists() and pid_file.read_text():
                break
            time.sleep(0.05)
        child = int(pid_file.read_text())
        process.send_signal(signal.SIGINT)
        self.assertNotEqual(0, process.wait(20))
        self.assertRaises(ProcessLookupError, os.kill, child, 0)


class StepsTest(testtools.TestCase):

    def names(self, quick: bool, release: str = '') -> list[str]:
        series = model.Series(testrun.paths.ROOT)
        under = testrun.Trees(series, release or series.default)
        return [step.name for step in testrun.steps(under, quick)]

    def test_quick_is_the_beginning(self):
        quick, whole = self.names(True), self.names(False)
        self.assertEqual(quick, whole[:len(quick)])
        for name in ('style', 'shell', 'types', 'unit', 'series', 'docs'):
            self.assertIn(name, quick)
        for name in ('nova-libvirt', 'nova-functional', 'lab-demo'):
            self.assertNotIn(name, quick)
            self.assertIn(name, whole)
        for part in ('volumes', 'copying'):
            self.assertIn(part, scenarios.names())
            self.assertNotIn(f'lab-{part}', whole)

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

    def test_python_of_a_release(self):
        series = model.Series(testrun.paths.ROOT)
        self.assertEqual(sys.executable,
                         testrun.Trees(series, series.default).python)
        under = testrun.Trees(series, '2026.1')
        self.assertEqual(
            str(testrun.paths.ROOT / '.venv-2026.1/bin/python'), under.python)
        self.assertEqual(series.root / '.trees/2026.1/nova',
                         under.work('nova'))

    def test_arguments(self):
        series = model.Series(testrun.paths.ROOT)
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


class StyleTest(base.TestCase):

    def test_only_our_lines(self):
        repository = git.Git(self.temp)
        repository.run('init', '--quiet')
        (self.temp / 'a.py').write_text('1\n2\n3\n')
        repository.run('add', 'a.py')
        repository.run('commit', '--quiet', '-m', 'base')
        repository.run('tag', 'base')
        (self.temp / 'a.py').write_text('1\nnew\n2\n3\n')
        (self.temp / 'b.py').write_text('x\ny\n')
        (self.temp / 'c.txt').write_text('x\n')
        repository.run('add', '.')
        repository.run('commit', '--quiet', '-m', 'ours')
        changed = testrun.changed_lines(repository, 'base', 'HEAD')
        self.assertEqual({'a.py': {2}, 'b.py': {1, 2}, 'c.txt': {1}}, changed)
        for line, wanted in (('a.py:2:1: E1 x\n', True),
                             ('./a.py:2:1: E1 x\n', True),
                             ('a.py:3:1: E1 x\n', False),
                             ('b.py:2:80: E501 x\n', True),
                             ('c.txt:1: D001 x\n', True),
                             ('c.txt:2: D001 x\n', False),
                             ('There was a critical error\n', True),
                             ('\n', False)):
            self.assertEqual(wanted, testrun.is_ours(line, changed), line)


class ShellTest(testtools.TestCase):

    def test_what_is_shell(self):
        root = testrun.paths.ROOT
        self.assertTrue(testrun.is_shell(root / 'run'))
        self.assertTrue(testrun.is_shell(root / '.ci/run'))
        self.assertFalse(testrun.is_shell(root / 'blockpath/cli.py'))
        self.assertFalse(testrun.is_shell(root / 'missing'))
