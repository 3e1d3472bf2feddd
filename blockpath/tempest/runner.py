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
"""Run tests of tempest, and compare what was skipped with what is known."""

from collections.abc import Iterable
import os
import pathlib
import re
import subprocess
import time

import rich.console
import subunit
import testtools
from testtools.testresult import real

from blockpath.cloud import cloud
from blockpath.console import suite
from blockpath.machine import errors
from blockpath import paths
from blockpath.tempest import environment

_HERE = pathlib.Path(__file__).parent
#: What is run when nothing else is asked for: regular expressions.
INCLUDED = _HERE / 'include.txt'
#: Of these what can not pass here. Each line says why.
EXCLUDED = _HERE / 'exclude.txt'
#: What tempest or a plugin skips by itself. Each line says why.
SKIPPED = _HERE / 'skipped.txt'
FOLDER = paths.BUILD / 'tempest'
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def entries(path: pathlib.Path) -> dict[str, str]:
    """The lines of a list: regular expression -> the comment behind it."""
    found = {}
    for line in path.read_text('utf-8').splitlines():
        pattern, _, reason = line.partition('#')
        if pattern.strip():
            found[pattern.strip()] = reason.strip()
    return found


class Results(testtools.StreamToDict):
    """Prints each test as it ends, and keeps how.

    :param failures: a file that what the failed ones say is appended to
    :ivar failed: names of tests
    :ivar skipped: test, or class, -> why
    """

    def __init__(self, console: rich.console.Console,
                 failures: pathlib.Path) -> None:
        super().__init__(self._ended)
        self._failures = failures
        self.counts = suite.Counts()
        self.failed: list[str] = []
        self.skipped: dict[str, str] = {}
        self._console = console

    def _ended(self, test: real.TestDict) -> None:
        name, status = short(test['id']), test['status']
        if status == 'exists':
            # stestr tells beforehand what it will run.
            return
        seconds = duration(test)
        note = ''
        if status in ('success', 'xfail'):
            self.counts.passed += 1
        elif status == 'skip':
            self.counts.skipped += 1
            note = reason(test)
            self.skipped[name] = note
        else:
            self.counts.failed += 1
            self.failed.append(name)
            self._log(test)
        words = {'success': 'ok', 'xfail': 'ok', 'skip': 'skipped: '}
        self._console.print(
            f'{name} ({seconds:.0f} s) {words.get(status, "FAILED")}{note}',
            markup=False)

    def _log(self, test: real.TestDict) -> None:
        # Tests log what they send: keys of servers, and passwords.
        with open(os.open(self._failures, _APPEND, 0o600), 'a') as log:
            print(test['id'], file=log)
            for name, detail in test['details'].items():
                print(f'--- {name}\n{detail.as_text()}', file=log)


def short(name: str) -> str:
    """A test's name without its tags; a class's for its set-up."""
    inside = re.fullmatch(r'(?:setUpClass|tearDownClass) \((.*)\)', name)
    return inside[1] if inside else name.partition('[')[0]


def duration(test: real.TestDict) -> float:
    began, ended = test['timestamps']
    return (ended - began).total_seconds() if began and ended else 0


def reason(test: real.TestDict) -> str:
    detail = test['details'].get('reason')
    return ' '.join(detail.as_text().split()) if detail else 'no reason given'


def run(lab: cloud.Lab, folder: pathlib.Path, regex: str | None,
        console: rich.console.Console) -> Results:
    """Run tests; their logs are in :data:`FOLDER`.

    Must be called in the control host's network namespace. tempest has this
    machine's files, as its commands that kill and start services need them.

    :param folder: tempest.conf's
    :param regex: else what the lists say
    :raises LabError: there was nothing to run, or stestr failed
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    site = environment.site_packages()
    choice = [regex] if regex else [
        '--include-list', str(INCLUDED), '--exclude-list', str(EXCLUDED)]
    env = lab.daemons.env(TEMPEST_CONFIG_DIR=str(folder),
                          HOME=str(folder), TMPDIR=str(folder))
    argv = [str(environment.python()), '-W', 'ignore', '-m', 'stestr',
            '--top-dir', str(site),
            '--test-path', str(site / 'tempest' / 'test_discover'),
            '--repo-url', str(FOLDER / 'results'),
            'run', '--subunit', '--serial', *choice]
    failures = FOLDER / 'failures.log'
    failures.unlink(missing_ok=True)
    results = Results(console, failures)
    results.startTestRun()
    (FOLDER / 'results').mkdir(exist_ok=True)
    with (FOLDER / 'stderr.log').open('w') as stderr, suite.Child(
            argv, folder, env, subprocess.PIPE, stderr) as process:
        subunit.ByteStreamToStreamResult(
            process.stdout, non_subunit_name='output').run(results)
        code = process.wait()
    results.stopTestRun()
    if results.counts == suite.Counts():
        raise errors.LabError('tempest ran no test; '
                              f'{FOLDER}/stderr.log says why')
    if code and not results.failed:
        raise errors.LabError(f'tempest ended with exit code {code}; '
                              f'{FOLDER}/stderr.log says why')
    return results


def unexpected(skipped: Iterable[str]) -> list[str]:
    """Which of the tests that were skipped are in no line of the list."""
    known = [re.compile(pattern) for pattern in entries(SKIPPED)]
    return [name for name in skipped
            if not any(each.search(name) for each in known)]


def perform(lab: cloud.Lab, folder: pathlib.Path, regex: str | None) -> None:
    """Run tests and say what came of it.

    :raises LabError: a test failed, or was skipped for no known reason
    """
    console = rich.console.Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    results = run(lab, folder, regex, console)
    console.print(f'{results.counts} in {time.monotonic() - began:.0f} s',
                  markup=False)
    if results.failed:
        raise errors.LabError(
            f'{len(results.failed)} tests failed; {FOLDER}/failures.log says '
            f'how: {", ".join(results.failed)}')
    if strange := unexpected(results.skipped):
        raise errors.LabError(f'skipped, and not in {SKIPPED.name}: '
                              f'{", ".join(strange)}')
