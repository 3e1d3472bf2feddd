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
"""Steps on real processes, and on a real stestr's stream."""

import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import fixtures

from blockpath.console import progress
from blockpath.console import suite
from tests.unit.series import base
from tests.unit import signals


class Case(base.TestCase):

    def setUp(self):
        super().setUp()
        self.logs = self.temp / 'logs'
        self.logs.mkdir()
        self.useFixture(fixtures.MonkeyPatch('blockpath.console.suite.LOGS',
                                             self.logs))

    def run_work(self, work: suite.Work) -> tuple[suite.Counts, str]:
        path = self.logs / 'x.log'
        with path.open('w') as log:
            counts = work(log, lambda counts: None)
        return counts, path.read_text()


class SuiteTest(Case):
    """Counts come from a real stestr's stream."""

    def suite(self, text: str, stall: float | None = None
              ) -> tuple[suite.Counts, str]:
        package = self.temp / 'project' / 'pkg'
        package.mkdir(parents=True)
        (package / '__init__.py').write_text('')
        (package / 'test_it.py').write_text(textwrap.dedent(text))
        (package.parent / '.stestr.conf').write_text(
            '[DEFAULT]\ntest_path=./pkg\ntop_dir=./\n')
        return self.run_work(suite.stestr(package.parent, 'x',
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
        self.assertEqual(suite.Counts(3, 2, 1), counts)
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
        self.assertEqual(suite.Counts(passed=2), counts)
        self.assertIn('run again', log)
        shutil.rmtree(self.temp / 'project')
        counts, log = self.suite(text % (str(began), True), stall=6.0)
        self.assertTrue(counts.failed)


class StepTest(Case):

    def setUp(self):
        super().setUp()
        self.output = io.StringIO()

    def run_step(self, name: str, work: suite.Work) -> suite.Counts:
        with progress.Plain(self.output, clock=False) as display:
            return suite.run_step(suite.Step(name, work), display)

    def test_command(self):
        for code, wanted in ((0, suite.Counts(passed=1)),
                             (3, suite.Counts(failed=1))):
            counts, log = self.run_work(suite.command(
                sys.executable, '-c', f'print("said"); exit({code})'))
            self.assertEqual(wanted, counts)
            self.assertIn('said', log)

    def test_failed_step_shows_its_end(self):
        counts = self.run_step('doomed', suite.command(
            sys.executable, '-c', 'print("[first]\\n" * 99 + "the end"); '
            'exit(1)'))
        self.assertEqual(suite.Counts(failed=1), counts)
        output = self.output.getvalue()
        self.assertRegex(output, r"FAILED in step 'doomed' after \S+ s: 0 "
                                 'passed, 1 failed')
        self.assertNotIn('doomed: ', output)
        self.assertIn('    the end\n', output)
        self.assertTrue(output.count('[first]') < 40)

    def test_passed_step_shows_its_counts(self):
        self.run_step('good', lambda log, update: suite.Counts(5, 0, 2))
        self.assertRegex(self.output.getvalue(), r'^good: 5 passed, 0 failed, '
                                                 r'2 skipped \(0\.\d s\)\n$')

    def test_counts_so_far_are_shown(self):
        def work(log, update):
            update(suite.Counts(5))
            time.sleep(0.5)
            return suite.Counts(6)
        with mock.patch.object(progress, 'SLOW_S', 0.1):
            self.run_step('slow', work)
        self.assertIn('slow: 5 passed, 0 failed, 0 skipped ...\n',
                      self.output.getvalue())

    def test_interrupted_step_has_failed(self):
        def work(log, update):
            raise KeyboardInterrupt
        self.assertRaises(KeyboardInterrupt, self.run_step, 'broken', work)
        self.assertRegex(self.output.getvalue(),
                         r"^FAILED in step 'broken' after 0\.\d s\n$")

    def test_step_that_raises(self):
        def work(log, update):
            raise RuntimeError('broken')
        self.assertEqual(1, self.run_step('x', work).failed)
        self.assertIn('broken', (self.logs / 'x.log').read_text())

    def test_ctrl_c_leaves_no_child(self):
        signals.heed_ctrl_c(self)
        pid_file = self.temp / 'pid'
        script = (f'import os, time; open({str(pid_file)!r}, "w").write('
                  f'str(os.getpid())); time.sleep(60)')
        process = subprocess.Popen([sys.executable, '-c', textwrap.dedent(f'''
            import sys
            from blockpath.console import suite
            with open("/dev/null", "w") as log:
                suite.call(log, suite.paths.ROOT, sys.executable, "-c",
                           {script!r})
            ''')], stderr=subprocess.DEVNULL,
            cwd=pathlib.Path(__file__).parents[3])
        self.addCleanup(process.kill)
        for _ in range(200):
            if pid_file.exists() and pid_file.read_text():
                break
            time.sleep(0.05)
        child = int(pid_file.read_text())
        process.send_signal(signal.SIGINT)
        self.assertNotEqual(0, process.wait(20))
        self.assertRaises(ProcessLookupError, os.kill, child, 0)


class LintTest(base.TestCase):

    def test_only_changed_lines(self):
        changed = {'a.py': {2}, 'b.py': {1, 2}, 'c.txt': {1}}
        for line, wanted in (('a.py:2:1: E1 x\n', True),
                             ('./a.py:2:1: E1 x\n', True),
                             ('a.py:3:1: E1 x\n', False),
                             ('b.py:2:80: E501 x\n', True),
                             ('c.txt:1: D001 x\n', True),
                             ('c.txt:2: D001 x\n', False),
                             ('There was a critical error\n', True),
                             ('\n', False)):
            self.assertEqual(wanted, suite.concerns(line, changed), line)
