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
"""Each commit of the series by itself, as upstream's gate sees a change.

A commit is checked out in a clone in ``.cache``, with the other trees as they
were released unless a patch says that it needs them. There it passes
upstream's style on what it changes, and every test that the series has by
then. What passed is noted by the commit's id, which its whole history and
content make, so an unchanged commit is not run again.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import sys
from typing import IO

from blockpath.console import progress
from blockpath.console import suite
from blockpath import errors
from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import model
from blockpath.series import target
from blockpath.series import tree_checks
from blockpath.series import trees

_TEST = re.compile(r'(?:^|/)test_[^/]+\.py$')
#: What upstream's pep8 jobs run besides flake8: the tree, the files that it
#: takes, and how. It prints ``path:line: …`` of what it finds.
_LINTERS = (
    ('nova', ('.py', '.rst', '.yaml'), (
        'codespell_lib', '--quiet-level=4',
        '--ignore-words=doc/dictionary.txt')),
    ('cinder', ('.rst',), ('doc8', '-q')),
    ('os-brick', ('.rst',), ('doc8', '-q')),
)


class EachError(errors.BlockpathError):
    """A commit does not pass by itself."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """One commit and what is to be run at it."""

    tree: str
    number: int
    id: str
    patches: tuple[model.Patch, ...]
    upstream: bool

    @property
    def patch(self) -> model.Patch:
        return self.patches[-1]

    @property
    def name(self) -> str:
        return f'{self.tree}-{self.number:02}-{self.patch.name}'

    @property
    def needs(self) -> set[str]:
        """The trees of which it needs the patched ones."""
        return {other.partition('/')[0] for patch in self.patches
                for other in patch.depends}


def check(series: model.Series, wanted: list[str], upstream: bool,
          fresh: bool) -> None:
    """Run every commit of the trees named, telling one line for each.

    :param upstream: run upstream's tests of the files that it hooks as well
    :param fresh: run what passed before, too
    :raises EachError: a commit failed
    """
    failed = []
    with suite.alone(), progress.report() as display:
        for tree in wanted:
            with _clone(series, tree) as clone:
                for commit in _commits(series, tree, upstream):
                    _add_needed(series, clone, commit)
                    if not _one(series, clone, commit, fresh, display):
                        failed.append(commit.name)
    if failed:
        raise EachError(f'{len(failed)} commits do not pass by themselves; '
                        f'the first: {failed[0]}, see '
                        f'{series.short(suite.LOGS)}/{failed[0]}.log')


def _commits(series: model.Series, tree: str,
             upstream: bool) -> Iterator[Commit]:
    repository = trees.open_tree(series, tree, series.default)
    tip = trees.build(series, tree, series.default, repository)
    patches = series.patches[tree]
    ids = repository.commits(trees.BASE, tip)
    for number, commit in enumerate(ids, 1):
        yield Commit(tree, number, commit, tuple(patches[:number]), upstream)


@contextlib.contextmanager
def _clone(series: model.Series, tree: str) -> Iterator[git.Git]:
    """A clone of the tree, to check commits out in; gone afterwards."""
    home = series.root / '.cache' / 'each'
    home.mkdir(parents=True, exist_ok=True)
    fetch.clear_partial(home, 'clone-')
    # tree_checks.functional takes the folder's name for the tree's.
    folder = home / f'clone-{os.getpid()}' / tree
    try:
        git.Git(home).run('clone', '--quiet', '--shared', '--no-checkout',
                          str(series.work(tree, series.default)),
                          str(folder))
        yield git.Git(folder)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _needed(clone: git.Git, tree: str) -> pathlib.Path:
    return clone.folder.parent / 'patched' / tree


def _add_needed(series: model.Series, clone: git.Git,
                commit: Commit) -> None:
    """The patched trees that a commit needs, beside its clone.

    They are made of the stored patches: what is in .trees may differ.
    """
    for tree in commit.needs:
        folder = _needed(clone, tree)
        if folder.exists():
            continue
        repository = trees.open_tree(series, tree, series.default)
        tip = trees.build(series, tree, series.default, repository)
        clone.run('clone', '--quiet', '--shared', '--no-checkout',
                  str(repository.folder), str(folder))
        git.Git(folder).run('checkout', '--quiet', '--detach', tip)


def _one(series: model.Series, clone: git.Git, commit: Commit,
         fresh: bool, display: progress.Display) -> bool:
    note = series.root / '.cache' / 'each' / commit.tree / f'{commit.id}.json'
    on = _on(series, commit)
    known = target.read_json(note)
    if not fresh and known.get('on') == on and (
            known['upstream'] or not commit.upstream):
        display.say(f'{commit.name}: {known["counts"]} (kept)')
        return True
    clone.run('checkout', '--quiet', '--force', '--detach', commit.id)
    clone.run('clean', '--quiet', '-d', '-x', '--force')
    counts = suite.run_step(
        suite.Step(commit.name, _work(series, clone, commit)), display)
    if counts.failed:
        return False
    target.write_json(note, {'on': on, 'upstream': commit.upstream,
                             'counts': str(counts)})
    return True


def _on(series: model.Series, commit: Commit) -> dict[str, str]:
    """What else than the commit a result depends on."""
    on = {other: series.pin(other, series.default).version
          for other in series.trees() if other != commit.tree}
    on |= {other: series.digest(other, series.default)
           for other in commit.needs}
    constraints = series.root / 'constraints.txt'
    if constraints.is_file():
        on['constraints'] = fetch.sha256(constraints)
    return on


def _path(series: model.Series, clone: git.Git, commit: Commit) -> str:
    """PYTHONPATH: the commit, and the other trees as Zuul would have them."""
    others = [
        _needed(clone, other) if other in commit.needs else
        series.base(other, series.default)
        for other in series.trees() if other != commit.tree]
    return os.pathsep.join(map(str, [clone.folder, *others]))


def _work(series: model.Series, clone: git.Git, commit: Commit) -> suite.Work:
    env = {'PYTHONPATH': _path(series, clone, commit),
           'PYTHONDONTWRITEBYTECODE': '1'}

    def work(log: IO[str], update: suite.Update) -> suite.Counts:
        total = suite.Counts()
        for run in (_imports(clone, commit, env), _style(clone, commit, env),
                    *_opts(clone, env), *_suites(series, clone, commit, env)):
            done = total
            total += run(log, lambda counts: update(done + counts))
        return total
    return work


def _imports(clone: git.Git, commit: Commit,
             env: dict[str, str]) -> suite.Work:
    """Not the tree in .trees, which .venv has on its path as well."""
    package = model.PACKAGES[commit.tree]
    return _passing(clone, env, sys.executable, '-c',
                    f'import {package}, os, sys; sys.exit(not os.path.'
                    f'samefile({package}.__path__[0], {package!r}))')


def _passing(clone: git.Git, env: dict[str, str],
             *arguments: str) -> suite.Work:
    """A command that is no test: it adds to the count when it fails."""
    def work(log: IO[str], update: suite.Update) -> suite.Counts:
        del update
        return suite.Counts(failed=not suite.call(
            log, clone.folder, *arguments, env=env))
    return work


def _opts(clone: git.Git, env: dict[str, str]) -> Iterator[suite.Work]:
    """Cinder's list of options is generated, and compared by its gate."""
    script = 'tools/config/check_uptodate.sh'
    if (clone.folder / script).is_file():
        path = f'{pathlib.Path(sys.executable).parent}{os.pathsep}'
        yield _passing(clone, env | {'PATH': path + os.environ['PATH']},
                       'bash', script)


def _style(clone: git.Git, commit: Commit,
           env: dict[str, str]) -> suite.Work:
    """Upstream's linters, on the lines that the commit changes."""
    def work(log: IO[str], update: suite.Update) -> suite.Counts:
        del update
        changed = tree_checks.changed_lines(clone, f'{commit.id}^', commit.id)
        code = sorted(path for path in changed if path.endswith('.py'))
        found = suite.lint(log, clone.folder, env, changed,
                           *tree_checks.flake8(clone.folder), *code
                           ) if code else []
        for tree, ends, arguments in _LINTERS:
            files = sorted(path for path in changed if path.endswith(ends))
            if tree == commit.tree and files:
                found += suite.lint(log, clone.folder, env, changed,
                                    *arguments, *files)
        log.writelines(found)
        return suite.Counts(failed=len(found))
    return work


def _suites(series: model.Series, clone: git.Git, commit: Commit,
            env: dict[str, str]) -> Iterator[suite.Work]:
    """The new tests of this commit and those before it, and upstream's."""
    modules = {path for patch in commit.patches for path in patch.files
               if _TEST.search(path)}
    if commit.upstream:
        modules |= upstreams(clone, commit)
    on_path = env['PYTHONPATH']
    unit, functional = _split(modules)
    if unit:
        yield suite.stestr(clone.folder, f'each-{commit.tree}-unit', unit,
                           PYTHONPATH=on_path)
    if functional:
        yield tree_checks.functional(
            clone.folder, f'each-{commit.tree}-functional', functional,
            PYTHONPATH=on_path)


def _split(modules: Iterable[str]) -> tuple[str, str]:
    """Patterns of the unit tests and of the functional ones; may be empty."""
    kinds: dict[bool, list[str]] = {False: [], True: []}
    for path in sorted(modules):
        kinds['/tests/functional/' in path].append(
            path.removesuffix('.py').replace('/', r'\.'))
    unit, functional = (f'^(?:{"|".join(names)})\\.' if names else ''
                        for names in kinds.values())
    return unit, functional


def upstreams(clone: git.Git, commit: Commit) -> set[str]:
    """Upstream's test modules of the files that the commit hooks.

    A file's are those of its name, or its and its folder's, in the place
    that mirrors its own or above; and those that the commit itself changes.
    """
    package = model.PACKAGES[commit.tree]
    hooked = [pathlib.PurePosixPath(path) for path in clone.text(
        'diff', '--name-only', '--diff-filter=M', f'{commit.id}^',
        commit.id).split('\n') if path.startswith(f'{package}/')]
    tests = [pathlib.PurePosixPath(path) for path in clone.text(
        'ls-files', f'{package}/tests').split('\n') if _TEST.search(path)]
    found = {str(path) for path in hooked if path in tests}
    for path in hooked:
        names = {f'test_{path.stem}.py', f'test_{path.stem}_driver.py',
                 f'test_{path.parent.name}_{path.stem}.py'}
        found |= {str(test) for test in tests if test.name in names and
                  _mirrored(test) in path.parents}
    return {path for path in found if '/tests/functional/' not in path}


def _mirrored(test: pathlib.PurePosixPath) -> pathlib.PurePosixPath:
    """The folder of what a test is about."""
    parts = list(test.parent.parts)
    del parts[1:3 if parts[2:3] == ['unit'] else 2]
    return pathlib.PurePosixPath(*parts)
