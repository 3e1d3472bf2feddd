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
"""What is seen of a guest's writes through an agent on another host."""

from collections.abc import Iterator
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import testtools

from blockpath import errors
from blockpath.observe import remote_watcher
from blockpath.observe import write_ring
from blockpath.observe import write_watcher
from blockpath import paths
from tests.unit.observe import test_write_watcher

Kind = write_ring.Kind
#: Without site-packages: the hosts lack some that blockpath requires.
PYTHON = ('env', f'PYTHONPATH={paths.ROOT}', sys.executable, '-S')
#: Runs the agent with a change to it.
CHANGED = '''
import os, sys, time
from blockpath.observe import write_agent
%s
sys.exit(write_agent.main())
'''
AHEAD = '''
monotonic = time.monotonic
time.monotonic = lambda: monotonic() + 3
'''
#: Begins as an agent does, and goes on otherwise.
FAKE = '''
import json, os, sys, time
def say(message):
    print(json.dumps(message), flush=True)
def report(ended=False):
    say({'started': 0.0, 'looked': 0.0, 'times': [], 'blind': [],
         'problems': [], 'runs': [], 'ended': ended})
report()
for _ in range(10):
    sys.stdin.readline()
    say({'clock': time.monotonic()})
time.sleep(0.5)
%s
'''
#: No test waits so long unless it fails.
LONG_S = 20


class TestRemoteWatcher(test_write_watcher.TestWatcher):
    """The tests of a watcher of a file, and what an agent adds."""

    def watcher(self) -> remote_watcher.RemoteWatcher:
        return self.remote('-m', 'blockpath.observe.write_agent')

    def changed(self, change: str) -> remote_watcher.RemoteWatcher:
        return self.remote('-c', CHANGED % change)

    def fake(self, rest: str) -> remote_watcher.RemoteWatcher:
        return self.remote('-c', FAKE % rest)

    def remote(self, *argv: str) -> remote_watcher.RemoteWatcher:
        watcher = remote_watcher.RemoteWatcher(
            [*PYTHON, *argv, str(self.writer.path)], 'data')
        self.addCleanup(watcher.stop)
        return watcher

    def kill(self, watcher: remote_watcher.RemoteWatcher,
             number: signal.Signals) -> None:
        assert watcher._agent
        watcher._agent._child.send_signal(number)

    def settle(self, watcher: write_watcher.BaseWatcher) -> None:
        """Wait until all that has been written was seen."""
        watcher.longest_stall()

    def refusal(self, watcher: remote_watcher.RemoteWatcher) -> str:
        """Start it, in vain; see that no agent is left."""
        error = self.assertRaises(errors.BlockpathError, watcher.start)
        assert watcher._agent
        self.assertIsNotNone(watcher._agent._child.returncode)
        return str(error)

    def failure(self, watcher: remote_watcher.RemoteWatcher) -> str:
        """Return why it fails, for which it need not wait."""
        began = time.monotonic()
        waiting = self.assertRaises(errors.BlockpathError, watcher.wait,
                                    1, timeout=LONG_S)
        self.assertLess(time.monotonic() - began, LONG_S / 2)
        for function in (watcher.result, watcher.longest_stall):
            error = self.assertRaises(errors.BlockpathError, function)
            self.assertEqual(str(waiting), str(error))
        return str(waiting)

    def test_problems(self) -> None:
        self.writer.write(3)
        with self.watcher() as watcher:
            start = time.monotonic()
            self.writer.write(4)
            self.writer.lose()
            self.writer.write(2)
            self.settle(watcher)
            self.assertEqual([(Kind.MISSING, 7, 7)],
                             self.kinds(watcher.result()))
            self.writer.put(self.writer.compose()[:2000] + bytes(2096))
            self.writer.advance(self.writer.compose())
            time.sleep(0.8)
            self.settle(watcher)
            end = time.monotonic()
        result = watcher.result()
        self.assertEqual([(Kind.MISSING, 7, 7), (Kind.BAD, 10, 10)],
                         self.kinds(result))
        self.assertFalse(result.ok)
        for problem in result.problems:
            assert problem.at is not None
            self.assertTrue(start < problem.at < end, str(problem.at))
        self.assertEqual(7, result.records)

    def test_runs(self) -> None:
        self.writer.io_errors = 2
        with self.watcher() as watcher:
            self.writer.write(3)
            self.settle(watcher)
            self.writer.stop()
            self.writer.start()
            self.writer.write(2)
        result = watcher.result()
        self.assertTrue(result.ok)
        self.assertEqual(6, result.records)
        self.assertEqual([(0, 3, True), (4, 5, False)],
                         [(run.first, run.last, run.stopped)
                          for run in result.runs])
        self.assertEqual(write_ring.verify(self.writer.path).runs,
                         result.runs)

    def test_the_last_record_before_the_end_counts(self) -> None:
        with self.changed('write_agent.REPORT_S = 60') as watcher:
            self.writer.write(5)
        self.assertEqual(5, watcher.result().records)
        watcher.stop()

    def test_what_is_not_reported_yet_is_waited_for(self) -> None:
        with self.changed('write_agent.REPORT_S = 1.5') as watcher:
            self.start_writing()
            watcher.wait(100, timeout=LONG_S)
            # A report has just come.
            start = time.monotonic()
            time.sleep(0.6)
            end = time.monotonic()
            stalls = [watcher.longest_stall(start, end)]
            stalls.append(watcher.longest_stall(start))
            points = watcher.series(start, end)
            blind = watcher.longest_blind(start)
        for stall in stalls:
            self.assertLess(stall.seconds, 0.2 + blind)
        self.assertGreater(points[-1][0], end - 0.2 - blind)

    def test_an_agent_that_is_held_up_is_blind(self) -> None:
        with self.watcher() as watcher:
            self.start_writing()
            watcher.wait(5, timeout=LONG_S)
            start = time.monotonic()
            self.kill(watcher, signal.SIGSTOP)
            time.sleep(0.4)
            with mock.patch.object(write_watcher, 'CATCH_UP_S', 0.1):
                error = self.assertRaises(errors.BlockpathError,
                                          watcher.longest_stall)
            self.assertIn('nobody looked', str(error))
            resumed = time.monotonic()
            self.kill(watcher, signal.SIGCONT)
            blind = watcher.longest_blind(start)
            self.assertGreater(blind, resumed - start - 0.1)
            self.assertLess(blind, time.monotonic() - start + 0.2)

    def test_a_clock_that_is_ahead(self) -> None:
        margin = remote_watcher.CLOCK_S
        before = time.monotonic()
        with self.changed(AHEAD) as watcher:
            start = time.monotonic()
            self.assertTrue(
                before - margin < watcher._seen.started < start + margin)
            self.writer.write(2)
            self.writer.lose()
            self.writer.write(2)
            self.settle(watcher)
            self.kill(watcher, signal.SIGSTOP)
            time.sleep(0.2)
            self.kill(watcher, signal.SIGCONT)
            self.settle(watcher)
            end = time.monotonic()
        [problem] = watcher.result().problems
        times = [at for at, _ in watcher.series()]
        blind = watcher._seen.blind
        self.assertEqual(len(set(blind)), len(blind))
        late = max(blind, key=lambda one: one.seconds)
        assert problem.at is not None
        for at in (*times, problem.at, late.at):
            self.assertTrue(start - margin < at < end + margin,
                            f'{start} {at} {end}')

    def test_a_clock_that_nobody_knows(self) -> None:
        change = '''
said = write_agent._print
def late(message):
    time.sleep(0.05 if 'clock' in message else 0)
    said(message)
write_agent._print = late
'''
        error = self.refusal(self.changed(change))
        self.assertIn('clock', error)
        self.assertIn('none of 50 answers', error)

    def test_an_agent_that_dies(self) -> None:
        with self.watcher() as watcher:
            self.start_writing()
            watcher.wait(5, timeout=LONG_S)
            self.kill(watcher, signal.SIGKILL)
            self.assertIn('data failed: the agent ended with exit status -9',
                          self.failure(watcher))
        self.assertRaises(errors.BlockpathError, watcher.result)

    def test_a_failure_of_its_own_is_told(self) -> None:
        with self.changed('''
from blockpath.observe import write_follower
polls = iter(range(1000))
def poll(self, now):
    self.looked = now
    if next(polls) > 200:
        raise OSError('the disk is on fire')
write_follower.Follower.poll = poll
''') as watcher:
            self.assertIn('data failed: OSError: the disk is on fire',
                          self.failure(watcher))

    def test_last_words(self) -> None:
        with self.fake('''
print('no disk', file=sys.stderr)
sys.stdout.write('{"start')
sys.exit(3)
''') as watcher:
            self.assertIn('exit status 3: no disk', self.failure(watcher))

    def test_last_words_before_the_clock_is_known(self) -> None:
        # It reads nothing: to ask for its clock fails.
        agent = (FAKE % '').replace('report()\n', '''
os.close(0)
report()
print('no clock', file=sys.stderr)
sys.exit(4)
''')
        self.assertIn('exit status 4: no clock',
                      self.refusal(self.remote('-c', agent)))

    def test_an_agent_that_ends_too_early(self) -> None:
        with self.fake('report(ended=True)') as watcher:
            self.assertIn('ended before it was stopped', self.failure(watcher))

    def test_an_agent_that_has_nothing_to_say_at_the_end(self) -> None:
        with self.fake('sys.stdin.read()') as watcher:
            pass
        self.assertIn('exit status 0', str(self.assertRaises(
            errors.BlockpathError, watcher.result)))

    def test_an_agent_that_does_not_end(self) -> None:
        with mock.patch.object(remote_watcher, 'END_S', 0.3):
            with self.fake('time.sleep(60)') as watcher:
                pass
        self.assertIn('exit status -9', self.failure(watcher))

    def test_an_agent_that_does_not_start(self) -> None:
        with mock.patch.multiple(remote_watcher, START_S=0.5, END_S=0.3):
            self.assertIn('did not start', self.refusal(
                self.remote('-c', 'import time; time.sleep(60)')))

    def test_an_agent_that_says_something_else(self) -> None:
        self.assertIn("the agent printed b'Welcome", self.refusal(
            self.remote('-c', 'print("Welcome to storage")')))

    def test_no_such_file(self) -> None:
        self.writer.path.unlink()
        error = self.refusal(self.watcher())
        self.assertIn('data failed: FileNotFoundError', error)
        self.assertIn(str(self.writer.path), error)

    def test_no_such_command(self) -> None:
        watcher = remote_watcher.RemoteWatcher(['/no/such'], 'data')
        self.assertIn('/no/such', str(self.assertRaises(
            errors.BlockpathError, watcher.start)))


class TestMeasureOffset(testtools.TestCase):

    def measure(self, *readings: tuple[float, float, float]) -> float:
        """Measure by readings: when asked, answer, when answered."""
        self.early: list[dict[str, Any]] = []
        self.answers: Iterator[dict[str, Any]] = iter(
            [{'report': 1}, *({'clock': clock} for _, clock, _ in readings)])
        times = [at for asked, _, answered in readings
                 for at in (asked, answered)]
        with mock.patch.object(time, 'monotonic', side_effect=times):
            return remote_watcher._measure_offset(
                mock.Mock(), self.answers, self.early)

    def test_the_soonest_answer_counts(self) -> None:
        slow = (10.0, 30.0, 10.5)
        offset = self.measure(*[slow] * 4, (11.0, 31.255, 11.01),
                              *[slow] * 6)
        self.assertAlmostEqual(20.25, offset)
        self.assertEqual([{'clock': 30.0}], list(self.answers))
        self.assertEqual([{'report': 1}], self.early)

    def test_more_answers_if_none_is_soon_enough(self) -> None:
        slow = (10.0, 30.0, 10.05)
        offset = self.measure(*[slow] * 20, (11.0, 31.26, 11.03), slow)
        self.assertAlmostEqual(20.245, offset)
        self.assertEqual([{'clock': 30.0}], list(self.answers))


class TestVerify(test_write_watcher.RingTestCase):

    def command(self, path: pathlib.Path) -> list[str]:
        return [*PYTHON, '-m', 'blockpath.observe.write_agent', '--verify',
                str(path)]

    def verify(self, path: pathlib.Path) -> write_ring.Result:
        return remote_watcher.verify(self.command(path))

    def test_right(self) -> None:
        self.writer.write(4)
        self.writer.stop()
        self.writer.start()
        self.writer.write(3)
        result = self.verify(self.path)
        self.assertTrue(result.ok)
        self.assertEqual(write_ring.verify(self.path), result)

    def test_wrong(self) -> None:
        self.writer.write(4)
        self.writer.lose()
        self.writer.write(3)
        result = self.verify(self.path)
        self.assertEqual([(Kind.MISSING, 4, 4)], self.kinds(result))
        self.assertEqual(write_ring.verify(self.path), result)

    def test_blank(self) -> None:
        self.assertEqual('no record', str(self.verify(self.path)))

    def test_no_such_file(self) -> None:
        missing = self.path.with_name('none')
        error = self.assertRaises(errors.BlockpathError, self.verify, missing)
        self.assertIn(str(missing), str(error))
        done = subprocess.run(self.command(missing), capture_output=True)
        self.assertEqual(1, done.returncode)

    def test_an_agent_that_dies(self) -> None:
        error = self.assertRaises(
            errors.BlockpathError, remote_watcher.verify,
            ['sh', '-c', 'printf "{"; echo lost the connection >&2; exit 255'])
        self.assertIn('exit status 255: lost the connection', str(error))

    def test_no_such_command(self) -> None:
        error = self.assertRaises(errors.BlockpathError,
                                  remote_watcher.verify, ['/no/such'])
        self.assertIn('/no/such', str(error))
