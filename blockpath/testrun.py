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
"""``./run tests``: every step in turn, its output kept, one line of counts.

Steps that run a test suite count its tests, all others count as one. Each
step's output is in ``build/tests/<step>.log``.

The tools run in ``.venv``, with the default release. Another release's trees
and what they need are in a ``.venv-<release>`` of its own, whose Python runs
their suites.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterable
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

import rich.console
import rich.markup
import rich.status
import subunit
import testtools
from testtools.testresult import real

from blockpath import errors
from blockpath import paths
from blockpath import scenarios
from blockpath.series import git
from blockpath.series import model
from blockpath.series import trees

LOGS = paths.BUILD / 'tests'
_LOCK = '.lock'
#: How much of a failed step's output is repeated on the terminal.
TAIL = 30
#: Without a terminal a step says every so many seconds that it lives.
HEARTBEAT = 30.0
#: In Nova's functional tests, with native threads, readers of the fixture of
#: the cells' databases at times wait for one another for ever. More than the
#: OS_TEST_TIMEOUT below, and the imports before the first test.
STALL = 300.0
#: Releases whose suites upstream runs with eventlet, which is how nova-compute
#: starts there; some of the tests need it.
EVENTLET = ('2025.2', '2026.1')
#: Of Nova's functional tests those whose volumes move between hosts.
FUNCTIONAL = (r'nova\.tests\.functional\.(?:(?:libvirt\.|compute\.)?'
              r'test_(?:numa_)?(?:live_migration|evacuate|multiattach|'
              r'boot_from_volume)\.|regressions\..*live_migrat)')
#: Of Cinder's unit tests those about volumes, and of the drivers of vendors
#: those that the series changes. The copier's are among the new tests.
CINDER = (r'cinder\.tests\.unit\.(?:message|targets|'
          r'volume\.(?!drivers\.|copier\.)|'
          r'volume\.drivers\.test_(?:lvm|rbd|nfs)|'
          r'test_(?:cleanable|image_utils|interface|volume))')
#: As upstream's tox.ini sets them; C.UTF-8 is on every machine. Upstream runs
#: Nova with and without eventlet: without is how nova-compute starts by
#: default, and with it the functional tests hang on some machines.
_UPSTREAM = {'LANGUAGE': 'C', 'LC_ALL': 'C.UTF-8', 'OS_STDOUT_CAPTURE': '1',
             'OS_STDERR_CAPTURE': '1', 'OS_TEST_TIMEOUT': '160',
             'PYTHONDONTWRITEBYTECODE': '1',
             'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'True'}


@dataclasses.dataclass
class Counts:
    """How many tests came to which end."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: 'Counts') -> 'Counts':
        return Counts(self.passed + other.passed, self.failed + other.failed,
                      self.skipped + other.skipped)

    def __str__(self) -> str:
        return (f'{self.passed} passed, {self.failed} failed, '
                f'{self.skipped} skipped')


#: Does a step's work, writing to its log; tells how far it is by the call.
Work = Callable[[IO[str], Callable[[Counts], None]], Counts]


@dataclasses.dataclass(frozen=True)
class Trees:
    """The patched trees of a release, and the Python that they run in."""

    series: model.Series
    release: str

    @property
    def is_default(self) -> bool:
        return self.release == self.series.default

    @property
    def python(self) -> str:
        if self.is_default:
            return sys.executable
        return str(paths.ROOT / f'.venv-{self.release}' / 'bin' / 'python')

    @property
    def without_eventlet(self) -> str:
        """As upstream runs the release's suites: 'True' or 'False'."""
        return str(self.release not in EVENTLET)

    def work(self, tree: str) -> pathlib.Path:
        return self.series.work(tree, self.release)


class RunError(errors.BlockpathError):
    """The tests can not be run now."""


@dataclasses.dataclass(frozen=True)
class Step:
    name: str
    work: Work


def main(arguments: list[str]) -> int:
    """Run the steps; 0 when nothing failed."""
    series = model.Series(paths.ROOT)
    wanted = parser(series).parse_args(arguments)
    total = Counts()
    failures = []
    with alone():
        for path in LOGS.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        for step in steps(Trees(series, wanted.release), bool(wanted.quick)):
            counts = run_step(step)
            total += counts
            if counts.failed:
                failures.append(step.name)
    if failures:
        print(f'failed: {", ".join(failures)}; see build/tests/')
    print(total)
    return 1 if failures else 0


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


def parser(series: model.Series) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog='./run tests', description=(
        'Run the tests. Each step\'s output is in build/tests/<step>.log.'))
    result.add_argument('quick', nargs='?', choices=('quick',),
                        help='only those of a few minutes')
    result.add_argument('--release', metavar='R', choices=series.releases,
                        default=series.default, help=(
                            f'only those of the patched trees, on one of '
                            f'{", ".join(series.releases)}'))
    return result


def steps(under: Trees, quick: bool) -> Iterable[Step]:
    """All steps, the quick ones first."""
    if under.is_default:
        yield from tool_steps()
    yield Step('series', command(sys.executable, '-m', 'blockpath', 'series',
                                 'check', '--release', under.release))
    if under.is_default:
        yield Step('docs', command(sys.executable, '-m', 'blockpath.docs'))
    yield from tree_steps(under)
    if not under.is_default:
        yield Step('mixed', suite(
            paths.ROOT, 'mixed', test_path='./tests/releases', workers=1,
            BLOCKPATH_RELEASE=under.release))
    if quick:
        return
    if under.is_default:
        yield from machine_tests()
    yield from suites(under)
    if under.is_default:
        for name in scenarios.whole():
            yield Step(f'lab-{name}', command(
                sys.executable, '-m', 'blockpath', 'lab', 'run', name))
        # All that 'blockpath lab tempest' runs would take an hour more.
        yield Step('lab-tempest', command(
            sys.executable, '-m', 'blockpath', 'lab', 'tempest', '--regex',
            r'^blockpath\.tempest'))


def tool_steps() -> Iterable[Step]:
    """The tools' own checks."""
    python = sys.executable
    yield Step('style', command(python, '-m', 'flake8', 'blockpath', 'doc',
                                'tests'))
    yield Step('shell', shell_lint)
    yield Step('types', command(python, '-m', 'mypy', 'blockpath', 'tests'))
    yield Step('unit', suite(paths.ROOT, 'unit'))


def tree_steps(under: Trees) -> Iterable[Step]:
    """What the series brings to the trees, and os-brick's short suite."""
    for tree in under.series.trees():
        if under.series.patches[tree]:
            yield Step(f'style-{tree}', tree_style(under, tree))
            yield from new_tests(under, tree)
    yield Step('os-brick', suite(under.work('os-brick'), 'os-brick',
                                 python=under.python))


def suites(under: Trees) -> Iterable[Step]:
    """Upstream's long suites about volumes, in the patched trees."""
    yield Step('nova-libvirt', suite(
        under.work('nova'), 'nova-libvirt',
        r'nova\.tests\.unit\.virt\.libvirt', python=under.python,
        OS_NOVA_DISABLE_EVENTLET_PATCHING=under.without_eventlet))
    yield Step('nova-functional', functional(
        under.work('nova'), 'nova-functional', FUNCTIONAL,
        python=under.python,
        OS_NOVA_DISABLE_EVENTLET_PATCHING=under.without_eventlet))
    yield Step('cinder-volume', suite(under.work('cinder'), 'cinder-volume',
                                      CINDER, python=under.python))


def machine_tests() -> Iterable[Step]:
    """Our tests that start guests and daemons: one at a time, for figures.

    But for those that only patch trees.
    """
    for folder in sorted((paths.ROOT / 'tests').iterdir()):
        if (folder.name not in ('unit', 'releases') and
                (folder / '__init__.py').exists()):
            yield Step(folder.name, suite(
                paths.ROOT, folder.name, test_path=f'./tests/{folder.name}',
                workers=2 if folder.name == 'devstack' else 1))


def new_tests(under: Trees, tree: str) -> Iterable[Step]:
    """The tests that the series adds to a tree, run in the patched tree."""
    added = [path for patch in under.series.patches[tree]
             for path in patch.files if re.search(r'/test_[^/]+\.py$', path)]
    work = under.work(tree)
    for kind, run in (('unit', suite), ('functional', functional)):
        modules = [path.removesuffix('.py').replace('/', r'\.')
                   for path in added if f'/tests/{kind}/' in path]
        if modules:
            name = f'{tree}-new-{kind}'
            pattern = f'^(?:{"|".join(modules)})\\.'
            without = under.without_eventlet if run is functional else 'True'
            yield Step(name, run(work, name, pattern, python=under.python,
                                 OS_NOVA_DISABLE_EVENTLET_PATCHING=without))
            if name == 'nova-new-unit':
                # nova-compute may still be run with it.
                yield Step('nova-eventlet', suite(
                    work, 'nova-eventlet', pattern, python=under.python,
                    OS_NOVA_DISABLE_EVENTLET_PATCHING='False'))


def functional(folder: pathlib.Path, name: str, pattern: str,
               python: str = sys.executable, **env: Any) -> Work:
    package = model.PACKAGES[folder.name]
    return suite(folder, name, pattern, f'./{package}/tests/functional',
                 stall=STALL, python=python, **env)


# Running a step.

def run_step(step: Step) -> Counts:
    """Run one step, telling how far it is; never raises but for Ctrl-C."""
    console = rich.console.Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    progress = Progress(console, step.name)
    path = LOGS / f'{step.name}.log'
    with progress, path.open('w', encoding='utf-8', errors='replace') as log:
        try:
            counts = step.work(log, progress.tell)
        except Exception as exc:
            print(f'{type(exc).__name__}: {exc}', file=log)
            counts = Counts(failed=1)
    outcome = 'FAILED' if counts.failed else 'ok'
    console.print(f'{step.name}: {outcome}, {counts} '
                  f'({time.monotonic() - began:.0f} s)', markup=False)
    if counts.failed:
        for line in path.read_text('utf-8').splitlines()[-TAIL:]:
            console.print(f'    {line}', markup=False)
    return counts


class Progress:
    """A live line on a terminal, a line now and then elsewhere."""

    def __init__(self, console: rich.console.Console, name: str) -> None:
        self._console = console
        self._name = name
        self._text = f'{name} ...'
        self._began = time.monotonic()
        self._status: rich.status.Status | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> 'Progress':
        if self._console.is_terminal:
            self._status = self._console.status(self._text)
            self._status.start()
        else:
            self._console.print(self._text, markup=False)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._status:
            self._status.stop()

    def tell(self, counts: Counts) -> None:
        self._text = f'{self._name}: {counts}'

    def _beat(self) -> None:
        interval = 0.5 if self._status else HEARTBEAT
        while not self._ended.wait(interval):
            text = f'{self._text} ({time.monotonic() - self._began:.0f} s)'
            if self._status:
                self._status.update(rich.markup.escape(text))
            else:
                self._console.print(text, markup=False)


class Child:
    """A process and its children, none of which outlives the block."""

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


# Kinds of steps.

def command(*arguments: str, folder: pathlib.Path = paths.ROOT) -> Work:
    """A step that is one command; its exit code says how it went."""
    def work(log: IO[str], tell: Callable[[Counts], None]) -> Counts:
        del tell
        return Counts(passed=1) if call(log, folder, *arguments) else Counts(
            failed=1)
    return work


def call(log: IO[str], folder: pathlib.Path, *arguments: str,
         env: Mapping[str, str] = types.MappingProxyType({})) -> bool:
    log.write(f'$ {" ".join(arguments)}\n')
    log.flush()
    with Child(list(arguments), folder, {'PYTHONUNBUFFERED': '1', **env},
               log, subprocess.STDOUT) as process:
        return process.wait() == 0


def suite(folder: pathlib.Path, name: str, pattern: str = '',
          test_path: str = '', workers: int = 2,
          stall: float | None = None, python: str = sys.executable,
          **env: str) -> Work:
    """A step that is a test suite, run by stestr in so many processes.

    :param stall: after so many seconds in which no test ended it is run again,
        once
    :param python: which runs it
    :param env: of these processes, beside what upstream's own runs have
    """
    results = LOGS / f'{name}.stestr'
    arguments = [python, '-m', 'stestr', '--repo-url', str(results)]
    arguments += ['--test-path', test_path] if test_path else []
    arguments += ['run', '--subunit', '--concurrency', str(workers)]
    arguments += [pattern] if pattern else []

    def work(log: IO[str], tell: Callable[[Counts], None]) -> Counts:
        results.mkdir(exist_ok=True)
        # Services under test log there at length; it would bury the results.
        with (LOGS / f'{name}.stderr.log').open('w+') as stderr:
            result, code = run(log, tell, stderr)
            if stall and result.stuck:
                note = (f'no test ended in {stall:.0f} s, after '
                        f'{result.counts}; run again')
                log.write(f'{note}\n')
                print(f'{name}: {note}', flush=True)
                result, code = run(log, tell, stderr)
            if code or result.counts == Counts():
                stderr.seek(0)
                log.writelines(stderr.readlines()[-TAIL:])
                log.write(f'stestr ended with exit code {code} '
                          f'after {result.counts}\n')
                result.counts.failed = result.counts.failed or 1
        log.writelines(f'failed: {each}\n' for each in result.failed)
        return result.counts

    def run(log: IO[str], tell: Callable[[Counts], None],
            stderr: IO[str]) -> tuple['Counting', int]:
        result = Counting(log, tell)
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
    """Counts tests as they end, and writes what the failed ones said."""

    def __init__(self, log: IO[str],
                 tell: Callable[[Counts], None]) -> None:
        super().__init__(self._ended)
        self.counts = Counts()
        self.failed: list[str] = []
        self.stuck = False
        self._log = log
        self._tell = tell
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watched(self, process: subprocess.Popen[bytes],
                stall: float | None) -> Iterator[None]:
        """Kill the processes when no test has ended for so many seconds."""
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
        self._tell(self.counts)

    def status(self, *args: Any, **kwargs: Any) -> None:
        super().status(*args, **kwargs)
        printed = kwargs.get('file_bytes')
        if printed and not kwargs.get('test_id'):
            # What was printed beside the results: why listing them failed.
            self._log.write(bytes(printed).decode('utf-8', 'replace'))

    def _failed(self, test: real.TestDict) -> None:
        self.counts.failed += 1
        self.failed.append(test['id'])
        state = ('never ended' if test['status'] == 'inprogress'
                 else test['status'])
        self._log.write(f'\n{test["id"]}: {state}\n')
        # The traceback last: the end of the log is what is shown.
        for name, detail in sorted(test['details'].items(),
                                   key=lambda item: 'traceback' in item[0]):
            if detail.content_type.type == 'text':
                self._log.write(f'{name}:\n{detail.as_text()}\n')


def shell_lint(log: IO[str], tell: Callable[[Counts], None]) -> Counts:
    """bashate and shellcheck on every shell script of ours."""
    del tell
    scripts = [path for path in git.Git(paths.ROOT).text(
        'ls-files', '--cached', '--others', '--exclude-standard').split('\n')
        if is_shell(paths.ROOT / path)]
    # E006: long lines; a command's long options say more than a wrap.
    styled = call(log, paths.ROOT, sys.executable, '-m', 'bashate.bashate',
                  '--ignore=E006', *scripts)
    checked = call(log, paths.ROOT, 'shellcheck', *scripts)
    return Counts(passed=1) if styled and checked else Counts(failed=1)


def is_shell(path: pathlib.Path) -> bool:
    if path.suffix in ('.sh', '.bash'):
        return True
    try:
        with path.open('rb') as stream:
            return re.match(rb'#!.*\b(?:ba)?sh\b',
                            stream.readline(100)) is not None
    except (FileNotFoundError, IsADirectoryError):
        return False


def tree_style(under: Trees, tree: str) -> Work:
    """Upstream's own flake8 set-up on what the series brings to a tree.

    New files are checked whole, hooked ones on the lines that changed.
    """
    def work(log: IO[str], tell: Callable[[Counts], None]) -> Counts:
        del tell
        repository = trees.open_tree(under.series, tree, under.release)
        changed = {path: lines for path, lines in changed_lines(
            repository, trees.BASE, 'HEAD').items() if path.endswith('.py')}
        ours = found_by(log, repository.folder, {}, changed,
                        *flake8(repository.folder), *sorted(changed),
                        python=under.python)
        log.writelines(ours)
        return Counts(failed=1) if ours else Counts(passed=1)
    return work


def flake8(folder: pathlib.Path) -> list[str]:
    """The module and its arguments that check a tree as upstream does."""
    # N5xx come with neutron-lib, which is installed beside; they are
    # Neutron's habits. I come with the order of imports, which Cinder's
    # tox.ini alone asks for.
    orders = 'import-order-style' in (folder / 'tox.ini').read_text('utf-8')
    return ['flake8', f'--extend-ignore=N5{"" if orders else ",I"}']


def found_by(log: IO[str], folder: pathlib.Path, env: dict[str, str],
             changed: dict[str, set[int]], *arguments: str,
             python: str = sys.executable) -> list[str]:
    """What a linter, a Python module, finds on the lines that changed."""
    log.write(f'$ {" ".join(arguments)}\n')
    log.flush()
    with tempfile.TemporaryFile('w+') as found:
        with Child([python, '-m', *arguments], folder, env, found,
                   subprocess.STDOUT) as process:
            if process.wait() == 0:
                return []
        found.seek(0)
        return [line for line in found if is_ours(line, changed)]


def changed_lines(repository: git.Git, before: str,
                  after: str) -> dict[str, set[int]]:
    """Files changed between two commits -> the numbers of new lines."""
    text = repository.run('diff', '--unified=0', '--no-renames', '--no-color',
                          '--diff-filter=AM', '--src-prefix=a/',
                          '--dst-prefix=b/', before, after).decode(
                              'utf-8', 'replace')
    changed: dict[str, set[int]] = {}
    path = ''
    for line in text.split('\n'):
        if line.startswith('+++ b/'):
            path = line.removeprefix('+++ b/').rstrip('\t')
            changed[path] = set()
        elif match := re.match(r'@@ -\S+ \+(\d+)(?:,(\d+))? @@', line):
            first, count = int(match[1]), int(match[2] or 1)
            changed[path] |= set(range(first, first + count))
    return changed


def is_ours(line: str, changed: dict[str, set[int]]) -> bool:
    """Is a linter's line about one of ours? Its own errors always are."""
    match = re.match(r'(?:\./)?([^:]+):(\d+):(?:\d+:)? ', line)
    if not match:
        return bool(line.strip())
    return int(match[2]) in changed.get(match[1], set())


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except RunError as error:
        sys.exit(f'Error: {error.message}')
    except KeyboardInterrupt:
        sys.exit(130)
