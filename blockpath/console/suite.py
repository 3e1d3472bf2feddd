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
"""Run commands and test suites as steps, and count how their tests end.

A step that runs a test suite counts its tests; any other step counts as one.
The output of each step goes to ``build/tests/<step>.log``.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from typing import Any
from typing import IO

import subunit
import testtools
from testtools.testresult import real

from blockpath.console import progress
from blockpath import errors
from blockpath import paths

LOGS = paths.BUILD / 'tests'
_LOCK = '.lock'
#: How many lines of a failed step's log the terminal repeats.
TAIL = 30
#: As upstream's tox.ini sets them; C.UTF-8 is on every machine. Upstream runs
#: Nova with and without eventlet. Without is how nova-compute starts by
#: default; with it the functional tests hang on some machines.
_UPSTREAM = {'LANGUAGE': 'C', 'LC_ALL': 'C.UTF-8', 'OS_STDOUT_CAPTURE': '1',
             'OS_STDERR_CAPTURE': '1', 'OS_TEST_TIMEOUT': '160',
             'PYTHONDONTWRITEBYTECODE': '1',
             'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'True'}


@dataclasses.dataclass
class Counts:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: 'Counts') -> 'Counts':
        return Counts(self.passed + other.passed, self.failed + other.failed,
                      self.skipped + other.skipped)

    def __str__(self) -> str:
        return (f'{self.passed} passed, {self.failed} failed, '
                f'{self.skipped} skipped')


def count_one(passed: bool) -> Counts:
    """Count something other than a test suite."""
    return Counts(passed=1) if passed else Counts(failed=1)


#: Receives the counts so far.
Update = Callable[[Counts], None]
#: Does the work of a step: writes to its log and reports the counts so far.
Work = Callable[[IO[str], Update], Counts]


class RunError(errors.BlockpathError):
    """The tests cannot run now."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Something with a name that is run and counted."""

    name: str
    work: Work


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold build/tests against other runs in this checkout.

    :raises RunError: another one holds it
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / _LOCK).open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError('other tests run in this checkout; wait for them '
                           'to end') from None
        yield


def clear_logs() -> None:
    """Remove the logs of earlier runs, while build/tests is held."""
    for path in LOGS.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def run_step(step: Step, display: progress.Display) -> Counts:
    """Run one step and show how far it is. Raises on Ctrl-C only."""
    path = LOGS / f'{step.name}.log'
    display.started(step.name)
    began = time.monotonic()
    counts = Counts()

    def update(so_far: Counts) -> None:
        display.update(step.name, str(so_far))

    try:
        with path.open('w', encoding='utf-8', errors='replace') as log:
            try:
                counts = step.work(log, update)
            except Exception as exc:
                print(f'{type(exc).__name__}: {exc}', file=log)
                counts = Counts(failed=1)
    except BaseException:
        display.failed(step.name, time.monotonic() - began)
        raise
    seconds = time.monotonic() - began
    if not counts.failed:
        display.done(step.name, seconds, str(counts))
        return counts
    display.failed(step.name, seconds, str(counts))
    tail = path.read_text('utf-8').splitlines()[-TAIL:]
    display.say('\n'.join(f'    {line}' for line in tail))
    return counts


class Child:
    """Run a process; neither it nor its children outlive the block."""

    def __init__(self, arguments: list[str], folder: pathlib.Path,
                 env: dict[str, str], stdout: int | IO[str],
                 stderr: int | IO[str]) -> None:
        self.process = subprocess.Popen(
            arguments, cwd=folder, env=os.environ | env,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            start_new_session=True)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *exc: object) -> None:
        if exc[0] is not None:
            self._end()
        self.process.wait()

    def _end(self) -> None:
        # The lab takes itself down on SIGINT, which may take a while.
        for number, patience in ((signal.SIGINT, 60), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(patience)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def command(*arguments: str, folder: pathlib.Path = paths.ROOT) -> Work:
    """Return the work of a step that is one command."""
    def work(log: IO[str], update: Update) -> Counts:
        del update
        return count_one(call(log, folder, *arguments))
    return work


def call(log: IO[str], folder: pathlib.Path, *arguments: str,
         env: Mapping[str, str] = types.MappingProxyType({})) -> bool:
    """Run a command; return whether its exit code is 0."""
    log.write(f'$ {" ".join(arguments)}\n')
    log.flush()
    with Child(list(arguments), folder, {'PYTHONUNBUFFERED': '1', **env},
               log, subprocess.STDOUT) as process:
        return process.wait() == 0


def stestr(folder: pathlib.Path, name: str, pattern: str = '',
           test_path: str = '', workers: int = 2,
           stall: float | None = None, python: str = sys.executable,
           **env: str) -> Work:
    """Return the work of a step that is a test suite, run by stestr.

    :param workers: number of processes
    :param stall: seconds; if no test ends for so long, the suite runs again,
        once
    :param python: interpreter that runs the suite
    :param env: variables; upstream's own are set already
    """
    results = LOGS / f'{name}.stestr'
    arguments = [python, '-m', 'stestr', '--repo-url', str(results)]
    arguments += ['--test-path', test_path] if test_path else []
    arguments += ['run', '--subunit', '--concurrency', str(workers)]
    arguments += [pattern] if pattern else []

    def work(log: IO[str], update: Update) -> Counts:
        results.mkdir(exist_ok=True)
        # Services under test log there at length; it would bury the results.
        with (LOGS / f'{name}.stderr.log').open('w+') as stderr:
            result, code = run(log, update, stderr)
            if stall and result.stuck:
                note = (f'no test ended in {stall:.0f} s, after '
                        f'{result.counts}; run again')
                log.write(f'{note}\n')
                print(f'{name}: {note}', flush=True)
                result, code = run(log, update, stderr)
            if code or result.counts == Counts():
                stderr.seek(0)
                log.writelines(stderr.readlines()[-TAIL:])
                log.write(f'stestr ended with exit code {code} '
                          f'after {result.counts}\n')
                result.counts.failed = result.counts.failed or 1
        log.writelines(f'failed: {each}\n' for each in result.failed)
        return result.counts

    def run(log: IO[str], update: Update,
            stderr: IO[str]) -> tuple['Counting', int]:
        result = Counting(log, update)
        result.startTestRun()
        with Child(arguments, folder,
                   _UPSTREAM | {'PYTHON': python} | env,
                   subprocess.PIPE, stderr) as process, \
                result.watched(process, stall):
            subunit.ByteStreamToStreamResult(
                process.stdout, non_subunit_name='output').run(result)
            code = process.wait()
        result.stopTestRun()
        return result, code
    return work


class Counting(testtools.StreamToDict):
    """Counts tests as they end, and logs the output of those that fail."""

    def __init__(self, log: IO[str], update: Update) -> None:
        super().__init__(self._ended)
        self.counts = Counts()
        self.failed: list[str] = []
        self.stuck = False
        self._log = log
        self._update = update
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watched(self, process: subprocess.Popen[bytes],
                stall: float | None) -> Iterator[None]:
        """Kill the processes if no test ends for `stall` seconds."""
        ended = threading.Event()

        def watch() -> None:
            while stall and not ended.wait(0.5):
                if time.monotonic() - self._last > stall:
                    self.stuck = True
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _ended(self, test: real.TestDict) -> None:
        status = test['status']
        self._last = time.monotonic()
        if status in ('success', 'xfail'):
            self.counts.passed += 1
        elif status == 'skip':
            self.counts.skipped += 1
        elif status in ('fail', 'uxsuccess', 'inprogress', 'unknown'):
            self._failed(test)
        self._update(self.counts)

    def status(self, *args: Any, **kwargs: Any) -> None:
        super().status(*args, **kwargs)
        printed = kwargs.get('file_bytes')
        if printed and not kwargs.get('test_id'):
            # stestr prints there why it failed to list the tests.
            self._log.write(bytes(printed).decode('utf-8', 'replace'))

    def _failed(self, test: real.TestDict) -> None:
        self.counts.failed += 1
        self.failed.append(test['id'])
        state = ('never ended' if test['status'] == 'inprogress'
                 else test['status'])
        self._log.write(f'\n{test["id"]}: {state}\n')
        # The traceback comes last: the terminal shows the end of the log.
        for name, detail in sorted(test['details'].items(),
                                   key=lambda item: 'traceback' in item[0]):
            if detail.content_type.type == 'text':
                self._log.write(f'{name}:\n{detail.as_text()}\n')


def lint(log: IO[str], folder: pathlib.Path, env: dict[str, str],
         changed: dict[str, set[int]], *arguments: str,
         python: str = sys.executable) -> list[str]:
    """Run a linter, a Python module; return its lines about changed lines.

    :param changed: file -> numbers of the lines that changed
    """
    log.write(f'$ {" ".join(arguments)}\n')
    log.flush()
    with tempfile.TemporaryFile('w+') as found:
        with Child([python, '-m', *arguments], folder, env, found,
                   subprocess.STDOUT) as process:
            if process.wait() == 0:
                return []
        found.seek(0)
        return [line for line in found if concerns(line, changed)]


def concerns(line: str, changed: dict[str, set[int]]) -> bool:
    """Return whether a linter's line is about a changed one, or its error."""
    match = re.match(r'(?:\./)?([^:]+):(\d+):(?:\d+:)? ', line)
    if not match:
        return bool(line.strip())
    return int(match[2]) in changed.get(match[1], set())
