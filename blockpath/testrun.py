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
from collections.abc import Iterable
import contextlib
import pathlib
import re
import signal
import subprocess
import sys
from typing import IO

from blockpath.console import progress
from blockpath.console import suite
from blockpath import paths
from blockpath import scenarios
from blockpath.series import git
from blockpath.series import model
from blockpath.series import tree_checks

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
#: Folders of tests that do not measure, of which two run at a time.
_AT_ONCE = ('devstack', 'kernel')
#: The steps that start and stop the lab of the steps between them.
LAB_UP, LAB_DOWN = 'lab-up', 'lab-down'


def main(arguments: list[str]) -> int:
    """Run the steps; 0 when nothing failed."""
    series = model.Series(paths.ROOT)
    wanted = parser(series).parse_args(arguments)
    under = tree_checks.Trees(series, wanted.release)
    total = suite.Counts()
    failures = []
    with (suite.alone(), progress.report() as display,
          contextlib.ExitStack() as cleanup):
        suite.clear_logs()
        for step in steps(under, bool(wanted.quick)):
            if step.name == LAB_UP:
                cleanup.callback(stop_lab)
            counts = suite.run_step(step, display)
            total += counts
            if counts.failed:
                failures.append(step.name)
    if failures:
        print(f'failed: {", ".join(failures)}; see build/tests/')
    print(total)
    return 1 if failures else 0


def stop_lab() -> None:
    """Leave no lab behind, however the run ended."""
    subprocess.run([sys.executable, '-m', 'blockpath', 'lab', 'down'],
                   cwd=paths.ROOT, capture_output=True)


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


def steps(under: tree_checks.Trees, quick: bool) -> Iterable[suite.Step]:
    """All steps, the quick ones first."""
    if under.is_default:
        yield from tool_steps()
    yield suite.Step('series', suite.command(
        sys.executable, '-m', 'blockpath', 'series', 'check', '--release',
        under.release))
    if under.is_default:
        yield suite.Step('docs', suite.command(
            sys.executable, '-m', 'blockpath.docs'))
    yield from tree_steps(under)
    if not under.is_default:
        yield suite.Step('mixed', suite.stestr(
            paths.ROOT, 'mixed', test_path='./tests/releases', workers=1,
            BLOCKPATH_RELEASE=under.release))
    if quick:
        return
    if under.is_default:
        yield from machine_tests()
    yield from suites(under)
    if under.is_default:
        yield from lab_steps()


def lab_steps() -> Iterable[suite.Step]:
    """Play every scenario on one lab."""
    def lab(name: str, *arguments: str) -> suite.Step:
        return suite.Step(name, suite.command(
            sys.executable, '-m', 'blockpath', 'lab', *arguments))

    yield lab(LAB_UP, 'up')
    for scenario in scenarios.whole():
        yield lab(f'lab-{scenario}', 'run', scenario)
    yield lab(LAB_DOWN, 'down')


def tool_steps() -> Iterable[suite.Step]:
    """The tools' own checks."""
    python = sys.executable
    yield suite.Step('style', suite.command(
        python, '-m', 'flake8', 'blockpath', 'doc', 'tests'))
    yield suite.Step('shell', shell_lint)
    yield suite.Step('types', suite.command(
        python, '-m', 'mypy', 'blockpath', 'tests'))
    yield suite.Step('unit', suite.stestr(paths.ROOT, 'unit'))


def tree_steps(under: tree_checks.Trees) -> Iterable[suite.Step]:
    """The style and tests of the series' files, and os-brick's short suite."""
    for tree in under.series.trees():
        if under.series.patches[tree]:
            yield suite.Step(f'style-{tree}',
                             tree_checks.check_style(under, tree))
            yield from new_tests(under, tree)
    yield suite.Step('os-brick', suite.stestr(
        under.work('os-brick'), 'os-brick', python=under.python))


def suites(under: tree_checks.Trees) -> Iterable[suite.Step]:
    """Upstream's long suites about volumes, in the patched trees."""
    yield suite.Step('nova-libvirt', suite.stestr(
        under.work('nova'), 'nova-libvirt',
        r'nova\.tests\.unit\.virt\.libvirt', python=under.python,
        OS_NOVA_DISABLE_EVENTLET_PATCHING=under.without_eventlet))
    yield suite.Step('nova-functional', tree_checks.functional(
        under.work('nova'), 'nova-functional', FUNCTIONAL,
        python=under.python,
        OS_NOVA_DISABLE_EVENTLET_PATCHING=under.without_eventlet))
    yield suite.Step('cinder-volume', suite.stestr(
        under.work('cinder'), 'cinder-volume', CINDER, python=under.python))


def machine_tests() -> Iterable[suite.Step]:
    """Our tests that start guests and daemons: one at a time, for figures.

    Those that do not measure run two at a time.
    """
    for folder in sorted((paths.ROOT / 'tests').iterdir()):
        if (folder.name not in ('unit', 'releases') and
                (folder / '__init__.py').exists()):
            yield suite.Step(folder.name, suite.stestr(
                paths.ROOT, folder.name, test_path=f'./tests/{folder.name}',
                workers=2 if folder.name in _AT_ONCE else 1))


def new_tests(under: tree_checks.Trees, tree: str) -> Iterable[suite.Step]:
    """The tests that the series adds to a tree, run in the patched tree."""
    added = [path for patch in under.series.patches[tree]
             for path in patch.files if re.search(r'/test_[^/]+\.py$', path)]
    work = under.work(tree)
    for kind, run, without in (
            ('unit', suite.stestr, 'True'),
            ('functional', tree_checks.functional, under.without_eventlet)):
        modules = [path.removesuffix('.py').replace('/', r'\.')
                   for path in added if f'/tests/{kind}/' in path]
        if modules:
            name = f'{tree}-new-{kind}'
            pattern = f'^(?:{"|".join(modules)})\\.'
            yield suite.Step(name, run(
                work, name, pattern, python=under.python,
                OS_NOVA_DISABLE_EVENTLET_PATCHING=without))
            if name == 'nova-new-unit':
                # nova-compute may still be run with it.
                yield suite.Step('nova-eventlet', suite.stestr(
                    work, 'nova-eventlet', pattern, python=under.python,
                    OS_NOVA_DISABLE_EVENTLET_PATCHING='False'))


def shell_lint(log: IO[str], update: suite.Update) -> suite.Counts:
    """bashate and shellcheck on every shell script of ours."""
    del update
    scripts = [path for path in git.Git(paths.ROOT).text(
        'ls-files', '--cached', '--others', '--exclude-standard').split('\n')
        if is_shell(paths.ROOT / path)]
    # E006: long lines; a command's long options say more than a wrap.
    styled = suite.call(log, paths.ROOT, sys.executable, '-m',
                        'bashate.bashate', '--ignore=E006', *scripts)
    checked = suite.call(log, paths.ROOT, 'shellcheck', *scripts)
    return suite.count_one(styled and checked)


def is_shell(path: pathlib.Path) -> bool:
    if path.suffix in ('.sh', '.bash'):
        return True
    try:
        with path.open('rb') as stream:
            return re.match(rb'#!.*\b(?:ba)?sh\b',
                            stream.readline(100)) is not None
    except (FileNotFoundError, IsADirectoryError):
        return False


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except suite.RunError as error:
        sys.exit(f'Error: {error.message}')
    except KeyboardInterrupt:
        sys.exit(130)
