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
"""Calls through a server that runs on this machine."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import testtools

from blockpath.machine import errors
from blockpath.testbed import agent

_SERVER = '''
import pathlib, sys
from blockpath.testbed import server
server.FOLDER = pathlib.Path(sys.argv[1])
server.main([])
'''
HERE = 'tests.unit.testbed.test_agent'


def answer(size: int) -> str:
    print('printed')
    return 'x' * size


def leave() -> None:
    sys.exit(3)


def linger(mark: str) -> None:
    with subprocess.Popen(['sleep', '60']) as child:
        pathlib.Path(mark).write_text(f'{os.getpid()} {child.pid}')


def end_the_server() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


class TestAgent(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.mark = pathlib.Path(folder.name) / 'mark'
        self.server = subprocess.Popen(
            [sys.executable, '-c', _SERVER, folder.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)
        self.agent = agent.Agent(self.server, lambda: 'the host has gone')

    def start(self, name: str, *args: object,
              timeout: float = 60) -> agent.Call:
        return self.agent.start(f'{HERE}:{name}', args, {}, timeout)

    def failure(self, call: agent.Call) -> agent.CallFailed:
        return self.assertRaises(agent.CallFailed, call.wait)

    def lingering(self, timeout: float = 60) -> agent.Call:
        """Return a call that has a program of its own, and runs."""
        call = self.start('linger', str(self.mark), timeout=timeout)
        while not (self.mark.exists() and self.mark.read_text()):
            time.sleep(0.02)
        return call

    def assert_killed(self) -> None:
        for pid in self.mark.read_text().split():
            for _ in range(500):
                try:
                    state = pathlib.Path(f'/proc/{pid}/stat').read_text()
                except FileNotFoundError:
                    break
                if state.rpartition(')')[2].split()[0] == 'Z':
                    break
                time.sleep(0.02)
            else:
                self.fail(f'process {pid} runs')

    def test_results_of_any_size(self) -> None:
        for size in (0, 1, 1 << 20):
            call = self.start('answer', size)
            self.assertEqual('x' * size, call.wait())
            self.assertEqual('printed\n', call.log)

    def test_exceptions(self) -> None:
        error = self.failure(self.start('answer', 'no number'))
        self.assertEqual('TypeError', error.kind)
        self.assertIn('printed', error.log)
        # A call that ends its process was not killed.
        self.assertEqual('SystemExit', self.failure(self.start('leave')).kind)
        self.assertEqual('AttributeError',
                         self.failure(self.start('no_such')).kind)

    def test_killed_with_its_programs(self) -> None:
        call = self.lingering()
        self.assertTrue(call.running)
        call.kill()
        self.assertEqual('', self.failure(call).kind)
        self.assert_killed()
        self.assertEqual('x', self.start('answer', 1).wait())

    def test_killed_at_any_time(self) -> None:
        for delay in (0, 0.001, 0.01, 0.1):
            call = self.start('answer', 1 << 20)
            time.sleep(delay)
            call.kill()
            try:
                self.assertEqual(1 << 20, len(call.wait()))
            except agent.CallFailed as error:
                self.assertEqual('', error.kind)
            call.kill()
        self.assertEqual('x', self.start('answer', 1).wait())

    def test_a_call_that_takes_too_long_is_killed(self) -> None:
        call = self.lingering(timeout=0.1)
        self.assertRaises(errors.TimedOut, call.wait)
        self.assert_killed()

    def test_calls_do_not_wait_for_one_another(self) -> None:
        lingering = self.lingering()
        self.assertEqual('x', self.start('answer', 1).wait())
        self.assertTrue(lingering.running)
        lingering.kill()

    def test_the_host_goes(self) -> None:
        error = self.failure(self.start('end_the_server'))
        self.assertIn('the host has gone', str(error))
        self.assertIn('the host has gone',
                      str(self.failure(self.start('answer', 1))))
