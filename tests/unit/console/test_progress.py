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
"""Progress on a terminal, and as lines elsewhere."""

import io
import time
from unittest import mock

import rich.console
import testtools

from blockpath.console import progress


class PlainTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        patcher = mock.patch.object(progress, 'SLOW_S', 0.05)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.out = io.StringIO()

    def lines(self) -> list[str]:
        """What was printed, without the times in front."""
        return [line.partition(' s  ')[2]
                for line in self.out.getvalue().splitlines()]

    def test_a_slow_step_is_announced_before_it_ends(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('slow')
            time.sleep(0.5)
            self.assertEqual(['slow ...'], self.lines())
            plain.done('slow', 0.5)
        self.assertEqual(['slow ...', 'slow (0.5 s)'], self.lines())

    def test_a_quick_step_has_one_line(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('quick')
            plain.done('quick', 0.01)
            time.sleep(0.3)
        self.assertEqual(['quick (0.0 s)'], self.lines())

    def test_a_step_that_fails_is_named(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('quick')
            plain.failed('quick', 3.0)
        self.assertEqual(["FAILED in step 'quick' after 3.0 s"],
                         self.lines())

    def test_steps_of_one_name(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('boot')
            plain.started('boot')
            plain.done('boot', 0.01)
            time.sleep(0.5)
            plain.done('boot', 0.5)
        self.assertEqual(['boot (0.0 s)', 'boot ...', 'boot (0.5 s)'],
                         self.lines())

    def test_a_long_step_has_a_line_now_and_then(self) -> None:
        with mock.patch.object(progress, 'HEARTBEAT_S', 0.1), \
                progress.Plain(self.out) as plain:
            plain.started('long')
            time.sleep(0.1)
            plain.update('long', '5 of 9')
            time.sleep(0.5)
            plain.done('long', 0.6, '9 of 9')
        first, *middle, last = self.lines()
        self.assertEqual(('long ...', 'long: 9 of 9 (0.6 s)'), (first, last))
        self.assertRegex(middle[-1], r'^long: 5 of 9 \.\.\. \(\d+ s\)$')

    def test_a_failure_has_its_detail(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('unit')
            plain.failed('unit', 3.0, '1 failed')
        self.assertEqual(["FAILED in step 'unit' after 3.0 s: 1 failed"],
                         self.lines())

    def test_nothing_after_the_end(self) -> None:
        with progress.Plain(self.out) as plain:
            plain.started('broken off')
        time.sleep(0.3)
        self.assertEqual([], self.lines())


class LiveTest(testtools.TestCase):

    def test_a_step_that_fails_is_named(self) -> None:
        out = io.StringIO()
        console = rich.console.Console(file=out, force_terminal=True,
                                       width=80, color_system=None)
        with progress.Live(console) as live:
            live.started('booting')
            live.failed('booting', 3.0)
            live.started('another')
            live.done('another', 1.0)
        self.assertIn("FAILED in step 'booting' after 3.0 s", out.getvalue())
        self.assertIn('another  1.0 s', out.getvalue())

    def test_how_far_a_step_is(self) -> None:
        out = io.StringIO()
        console = rich.console.Console(file=out, force_terminal=True,
                                       width=80, color_system=None)
        with mock.patch.object(progress, 'SLOW_S', 0.1), \
                progress.Live(console) as live:
            live.started('one')
            live.started('two')
            live.update('two', '5 of 9')
            time.sleep(0.6)
            self.assertRegex(out.getvalue(),
                             r'one \(\d+ s\), two: 5 of 9 \(\d+ s\)')

    def test_a_step_that_has_ended_is_shown_no_more(self) -> None:
        out = io.StringIO()
        console = rich.console.Console(file=out, force_terminal=True,
                                       width=80, color_system=None)
        with progress.Live(console) as live:
            live.started('one')
            live.done('one', 1.0)
            live.say('after it')
        # The line of the spinner comes after each line that is printed.
        self.assertNotIn('one', out.getvalue().partition('after it')[2])


class WorkingTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.err = io.StringIO()
        patcher = mock.patch.object(progress.sys, 'stderr', self.err)
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_a_step(self) -> None:
        with progress.working('unpacking'):
            pass
        self.assertEqual('unpacking (0.0 s)\n', self.err.getvalue())

    def test_what_fails_or_is_interrupted_is_not_done(self) -> None:
        for error in (OSError, KeyboardInterrupt):
            def work() -> None:
                with progress.working('unpacking'):
                    raise error
            self.assertRaises(error, work)
        self.assertEqual("FAILED in step 'unpacking' after 0.0 s\n" * 2,
                         self.err.getvalue())
