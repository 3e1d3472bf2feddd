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
"""How a run on a lab, or without one, ends: exit code, page, terminal."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import signal
import types
from typing import Any
from unittest import mock

from click import testing
import lxml.html

from blockpath.bench import cli as bench_cli
from blockpath.bench import targets
from blockpath.cloud import lifecycle
from blockpath.cloud import session
from blockpath.cloud import start
from blockpath import lab_cli
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath import paths
from blockpath import scenarios
from tests.unit import lab_base
from tests.unit import signals

#: A run, with a report that expects 'one' and 'two'.
Play = Callable[[Any], None]


def passes(report: Any) -> None:
    with report.step('the first step'):
        report.check('one', True)
    report.check('two', True)


def one_fails(report: Any) -> None:
    report.check('one', True)
    report.check('two', False, 'seen')


def makes_fewer(report: Any) -> None:
    report.check('one', True)


def makes_another(report: Any) -> None:
    passes(report)
    report.check('three', True)


def raises(report: Any) -> None:
    passes(report)
    with report.step('migrating'):
        raise errors.LabError('0 of 100 records arrived')


def has_a_bug(report: Any) -> None:
    passes(report)
    raise KeyError('bug')


def is_interrupted(report: Any) -> None:
    passes(report)
    with report.step('migrating'):
        raise KeyboardInterrupt


def is_terminated(report: Any) -> None:
    passes(report)
    with report.step('migrating'):
        os.kill(os.getpid(), signal.SIGTERM)


#: Of what goes wrong: how it ends, and the terminal's last words about it.
FAILURES: dict[Play, tuple[str, str]] = {
    one_fails: ('failed', 'FAILED: 1 check failed; 1 of 2 expected checks '
                          'passed\nfailed: two\n'),
    makes_fewer: ('failed', 'FAILED: 1 check not made; 1 of 2 expected '
                            'checks passed\nnot made: two\n'),
    makes_another: ('failed', 'FAILED: 1 check not expected; 2 of 2 expected '
                              'checks passed\nnot expected: three\n'),
    raises: ('broken off', "FAILED: broken off in step 'migrating' after 0 "
                           's: 0 of 100 records arrived; 2 of 2 expected '
                           'checks passed\n'),
    has_a_bug: ('broken off', "FAILED: broken off after 0 s: KeyError: 'bug'"
                              '; 2 of 2 expected checks passed\n'),
    is_interrupted: ('broken off', "FAILED: broken off in step 'migrating' "
                                   'after 0 s: interrupted; 2 of 2 expected '
                                   'checks passed\n'),
    is_terminated: ('broken off', "FAILED: broken off in step 'migrating' "
                                  'after 0 s: interrupted; 2 of 2 expected '
                                  'checks passed\n'),
}


class EndTestCase(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        signals.heed_ctrl_c(self)
        self.patch(os, 'geteuid', lambda: 0)
        self.patch(topology, 'Site', lambda: self.site)
        self.build = self.folder / 'build'
        self.patch(paths, 'BUILD', self.build)
        self.patch(bench_cli, 'FOLDER', self.build)

    def patch(self, owner: object, name: str, value: object) -> None:
        patcher = mock.patch.object(owner, name, value)
        patcher.start()
        self.addCleanup(patcher.stop)

    def ended(self, name: str) -> tuple[str, str]:
        """What report.json says, and the colour of the page's verdict."""
        data = json.loads((self.build / name / 'report.json').read_text())
        page = lxml.html.parse(self.build / name / 'report.html')
        [verdict] = page.xpath('//*[@id="verdict"]')
        return data['ended'], verdict.get('class')

    def page(self, name: str) -> str:
        return f'page: file://{self.build / name / "report.html"}\n'


class FakeLab:
    """A guest's console is found, and copied, as long as the lab is up."""

    def __init__(self, console: pathlib.Path) -> None:
        self.servers = self.hosts = self
        self.logs: set[pathlib.Path] = set()
        self._console = console
        self.up = True

    def versions(self) -> dict[str, str]:
        return {'qemu': 'QEMU 10.0'}

    def keep_logs(self) -> None:
        if self.up:
            self.logs.add(self._console)


class ScenarioTest(EndTestCase):
    """``blockpath lab run``, with a stand-in for the lab."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(session, 'running', self.running)
        self.console = self.site.log / 'guest-1-cmp1.log'
        self.lab = FakeLab(self.console)
        self.torn_down: BaseException | None = None

    @contextlib.contextmanager
    def running(self, output: object, keep: bool) -> Iterator[object]:
        self.lab = FakeLab(self.console)
        try:
            yield self.lab
        finally:
            self.lab.up = False
        if self.torn_down:
            raise self.torn_down

    def run_scenario(self, play: Play) -> testing.Result:
        def run(lab: object, report: Any) -> None:
            self.assertIs(self.lab, lab)
            play(report)

        module = types.SimpleNamespace(
            __doc__='', run=run, expected=lambda: ['one', 'two'])
        with mock.patch.object(scenarios, 'load', lambda name: module):
            return testing.CliRunner().invoke(lab_cli.group, ['run', 'smoke'])

    def test_passed(self) -> None:
        result = self.run_scenario(passes)
        self.assertEqual(0, result.exit_code, result.output)
        self.assertEqual(('passed', 'ok'), self.ended('smoke'))
        self.assertTrue(result.output.startswith(self.page('smoke')))
        self.assertTrue(result.output.endswith(
            'PASSED; 2 of 2 expected checks passed\n' + self.page('smoke')))
        # The hosts' versions count, not the machine's.
        data = json.loads((self.build / 'smoke/report.json').read_text())
        self.assertEqual('QEMU 10.0', data['versions']['qemu'])

    def test_not_passed(self) -> None:
        for play, (ended, words) in FAILURES.items():
            result = self.run_scenario(play)
            self.assertEqual(1, result.exit_code, words)
            self.assertEqual((ended, 'failed'), self.ended('smoke'))
            self.assertTrue(result.output.startswith(self.page('smoke')))
            self.assertTrue(result.output.endswith(
                f'Error: {words}log: {self.site.log}\n'
                f'log: {self.console}\n' +
                self.page('smoke')), result.output)
            self.assertIn('FAILED', result.output.partition('Error:')[0])

    def test_a_bug_leaves_its_traceback(self) -> None:
        self.assertIn('in has_a_bug', self.run_scenario(has_a_bug).output)
        self.assertNotIn('Traceback', self.run_scenario(raises).output)

    def test_the_lab_cannot_be_stopped(self) -> None:
        self.torn_down = errors.LabError('it cannot be killed')
        result = self.run_scenario(passes)
        self.assertEqual(1, result.exit_code)
        self.assertEqual(('broken off', 'failed'), self.ended('smoke'))

    def test_no_green_page_is_left_of_an_earlier_run(self) -> None:
        def looks(report: Any) -> None:
            self.assertEqual(('broken off', 'failed'), self.ended('smoke'))
            passes(report)

        self.run_scenario(passes)
        self.assertEqual(0, self.run_scenario(looks).exit_code)


class BenchTest(EndTestCase):
    """``blockpath bench``, with a stand-in for what is measured."""

    def run_bench(self, play: Play) -> testing.Result:
        def run(report: Any, volumes: int) -> None:
            self.assertEqual(20, volumes)
            play(report)

        with mock.patch.object(targets, 'run', run), mock.patch.object(
                targets, 'expected', lambda volumes: ['one', 'two']):
            return testing.CliRunner().invoke(
                bench_cli.group, ['targets', '--volumes', '20'])

    def test_passed(self) -> None:
        result = self.run_bench(passes)
        self.assertEqual(0, result.exit_code, result.output)
        self.assertEqual(('passed', 'ok'), self.ended('targets'))

    def test_not_passed(self) -> None:
        for play, (ended, words) in FAILURES.items():
            result = self.run_bench(play)
            self.assertEqual(1, result.exit_code, words)
            self.assertEqual((ended, 'failed'), self.ended('targets'))
            self.assertTrue(result.output.endswith(
                f'Error: {words}{self.page("targets")}'), result.output)

    def test_root_is_needed(self) -> None:
        self.patch(os, 'geteuid', lambda: 1000)
        self.assertEqual(1, self.run_bench(passes).exit_code)
        self.assertFalse(self.build.exists())


class RunningTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.started: list[topology.Site] = []
        self.patch(session.topology, 'Site', lambda: self.site)
        self.patch(start, 'up', lambda site, output: self.start(site))

    def start(self, site: topology.Site) -> bool:
        self.started.append(site)
        raise errors.LabError('no memory')

    def test_a_second_scenario_is_refused_before_it_starts_a_lab(self) -> None:
        output: Any = None
        with lifecycle.playing(self.site):
            error = self.assertRaises(errors.LabError,
                                      session.running(output).__enter__)
        self.assertIn('another scenario or bench runs', error.message)
        self.assertEqual([], self.started)

    def test_a_start_that_fails_leaves_the_lab_to_others(self) -> None:
        output: Any = None
        error = self.assertRaises(errors.LabError,
                                  session.running(output).__enter__)
        self.assertEqual('no memory', error.message)
        with lifecycle.playing(self.site):
            pass
