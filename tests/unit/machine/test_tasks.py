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
"""Tasks wait for what they need, and for nothing else."""

import threading

import testtools

from blockpath.machine import tasks
from blockpath.machine import wait


class Recorder:
    def __init__(self) -> None:
        self.order: list[str] = []

    def started(self, name: str) -> None:
        self.order.append(f'+{name}')

    def done(self, name: str, seconds: float) -> None:
        self.order.append(f'-{name}')

    def failed(self, name: str, seconds: float) -> None:
        self.order.append(f'!{name}')


class TestRunAll(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(wait.cancelled.clear)
        self.report = Recorder()

    def run_all(self, *all_tasks: tasks.Task) -> None:
        tasks.run_all(all_tasks, self.report)

    def test_order(self) -> None:
        self.run_all(tasks.Task('b', lambda: None, ('a',)),
                     tasks.Task('a', lambda: None))
        self.assertEqual(['+a', '-a', '+b', '-b'], self.report.order)

    def test_side_by_side(self) -> None:
        meeting = threading.Barrier(2, timeout=10)

        def meet() -> None:
            meeting.wait()

        self.run_all(tasks.Task('a', meet), tasks.Task('b', meet))

    def test_a_failure_ends_the_others(self) -> None:
        def fail() -> None:
            raise KeyError('why')

        def linger() -> None:
            wait.until(lambda: None, 'nothing', 60)

        later: list[str] = []
        error = self.assertRaises(
            KeyError, self.run_all, tasks.Task('linger', linger),
            tasks.Task('fail', fail),
            tasks.Task('later', lambda: later.append('ran'), ('linger',)))
        self.assertEqual(('why',), error.args)
        self.assertEqual(['+linger', '+fail', '!fail'], self.report.order)
        self.assertEqual([], later)

    def test_unknown_need(self) -> None:
        error = self.assertRaises(ValueError, self.run_all,
                                  tasks.Task('a', lambda: None, ('z',)))
        self.assertEqual('no such tasks: z', str(error))

    def test_circle(self) -> None:
        error = self.assertRaises(
            ValueError, self.run_all,
            tasks.Task('a', lambda: None, ('b',)),
            tasks.Task('b', lambda: None, ('a',)))
        self.assertIn('a, b', str(error))
