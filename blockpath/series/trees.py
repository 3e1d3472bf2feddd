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
"""The patched trees that are developed in: ``.trees/<release>/<tree>``.

Commit 0 is the pristine release, tagged ``base``; then one commit a patch.
Committer and dates are those of the patch, so the ids are the same for all.
"""

import dataclasses
import os
import pathlib
import shutil

from blockpath.console import progress
from blockpath import errors
from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target

BASE = 'base'
_WHO = 'blockpath'
_EPOCH = '2026-01-01T00:00:00 +0000'
#: What builds and tests leave in a tree.
_IGNORED = ('*.egg-info/', '__pycache__/', '*.pyc', '.stestr/', '.tox/',
            '.mypy_cache/', '/instances/')


class TreeError(errors.BlockpathError):
    """A tree is not one that this tool can work on."""


class OwnWork(TreeError):
    """The tree holds commits that are in no patch; it was left alone."""

    exit_code = 3


@dataclasses.dataclass(frozen=True)
class Commit:
    """What makes a commit the same as another one, whoever made it."""

    author: str
    date: str
    message: str
    tree: str


def open_tree(series: model.Series, tree: str, release: str) -> git.Git:
    """The repository of a tree.

    :raises TreeError: it is not there, or not ours
    """
    work = series.work(tree, release)
    repository = git.Git(work)
    if not work.is_dir():
        raise TreeError(f'{series.short(work)} is missing; run: blockpath '
                        f'series apply {tree}')
    if not repository.is_repository() or not repository.has(BASE):
        raise TreeError(f'{series.short(work)} is no repository with a '
                        f'commit tagged {BASE}; move it away')
    for name in ('rebase-apply', 'rebase-merge'):
        if (repository.git_dir() / name).exists():
            raise TreeError(f'{series.short(work)}: a rebase is under way; '
                            f'end it with git rebase --continue or --abort')
    return repository


def record_file(repository: git.Git) -> pathlib.Path:
    return repository.git_dir() / 'blockpath' / 'tree.json'


def write_record(series: model.Series, tree: str, release: str,
                 repository: git.Git) -> None:
    """Note that the stored patches and the tree's commits are one."""
    target.write_json(record_file(repository), {
        'tip': repository.commit_of('HEAD'),
        'stored': stored_hashes(series, tree, release)})


def stored_hashes(series: model.Series, tree: str,
                  release: str) -> dict[str, str]:
    """The sha256 of every mail and new file of a tree."""
    files = []
    for patch in series.patches[tree]:
        files.append(series.hooks(patch, release)[0])
        files += [series.stored(tree, path) for path in patch.files]
    return {series.short(file): fetch.sha256(file) for file in files}


def commits(repository: git.Git, tip: str, base: str = BASE) -> list[Commit]:
    """The commits after ``base`` up to ``tip``, oldest first."""
    listing = repository.text('log', '-z', '--reverse', '--topo-order',
                              '--format=%an <%ae>%x01%aI%x01%B%x01%T',
                              f'{base}..{tip}')
    entries = [entry.split('\1') for entry in listing.split('\0') if entry]
    return [Commit(author, date, message.strip(), tree.strip())
            for author, date, message, tree in entries]


def build(series: model.Series, tree: str, release: str,
          repository: git.Git) -> str:
    """Make the series' commits on ``base``; returns the last one's id."""
    steps = plan.Planner(series, tree, release).plan(
        plan.reader_of(series.base(tree, release)))
    return git_target.commit(repository, repository.commit_of(BASE), steps,
                             committer_is_author=True)


def apply(series: model.Series, tree: str, release: str) -> target.Result:
    """Bring ``.trees/<release>/<tree>`` to the stored series.

    :raises OwnWork: it has commits that are in no patch
    :raises plan.PlanError: a patch does not fit; nothing was changed
    """
    _require_base(series, tree, release)
    work = series.work(tree, release)
    if not work.exists():
        return _make(series, tree, release)
    repository = open_tree(series, tree, release)
    tip = build(series, tree, release, repository)
    if commits(repository, 'HEAD') == commits(repository, tip):
        write_record(series, tree, release, repository)
        return target.Result(False, f'{tree}: all patches are in '
                                    f'{series.short(work)} already')
    _refuse_own_work(series, repository)
    move(repository, tip)
    write_record(series, tree, release, repository)
    return target.Result(True, f'{tree}: {series.short(work)} brought to the '
                               f'stored {len(series.patches[tree])} patches')


def reverse(series: model.Series, tree: str, release: str) -> target.Result:
    """Back to the pristine release, or make its tree to start from.

    :raises OwnWork: it has commits that are in no patch
    """
    if not series.work(tree, release).exists():
        return _make(series, tree, release, pristine=True)
    repository = open_tree(series, tree, release)
    work = series.short(repository.folder)
    if repository.commit_of('HEAD') == repository.commit_of(BASE):
        return target.Result(False, f'{tree}: not applied to {work}')
    tip = build(series, tree, release, repository)
    if commits(repository, 'HEAD') != commits(repository, tip):
        _refuse_own_work(series, repository)
    move(repository, repository.commit_of(BASE))
    write_record(series, tree, release, repository)
    return target.Result(True, f'{tree}: {work} is pristine again')


def status(series: model.Series, tree: str, release: str) -> target.Status:
    """How the tree's commits stand to the stored patches."""
    repository = open_tree(series, tree, release)
    tip = build(series, tree, release, repository)
    now = commits(repository, 'HEAD')
    wanted = commits(repository, tip)
    if now == wanted:
        return target.Status('applied', f'{len(now)} patches', len(now))
    if not now:
        return target.Status('pristine')
    same = 0
    while same < min(len(now), len(wanted)) and now[same] == wanted[same]:
        same += 1
    return target.Status('other version', f'{len(now)} commits, the first '
                         f'{same} as stored', same)


def _refuse_own_work(series: model.Series, repository: git.Git) -> None:
    head = repository.commit_of('HEAD')
    recorded = target.read_json(record_file(repository)).get('tip')
    if head in (recorded, repository.commit_of(BASE)):
        return
    work = series.short(repository.folder)
    raise OwnWork(f'{work} holds commits that are in no patch and was left '
                  f'as it is; keep them with: blockpath series refresh '
                  f'{repository.folder.name}')


def move(repository: git.Git, tip: str) -> None:
    """Move branch and files; git refuses if that would lose an edit."""
    with git.uninterrupted():
        try:
            repository.run('reset', '--keep', '--quiet', tip)
        except git.GitError as exc:
            changed = ', '.join(repository.changed()[:3])
            raise TreeError(f'{repository.folder}: commit or undo the '
                            f'changes in {changed} first'
                            if changed else exc.message)


def _require_base(series: model.Series, tree: str, release: str) -> None:
    pin = series.pin(tree, release)
    if fetch.version_of(series.base(tree, release)) != pin.version:
        raise TreeError(f'{tree} {pin.version} has not been fetched; run: '
                        f'blockpath series fetch --release {release} {tree}')


def _make(series: model.Series, tree: str, release: str,
          pristine: bool = False) -> target.Result:
    _require_base(series, tree, release)
    work = series.work(tree, release)
    with progress.working(f'{tree}: making {series.short(work)}'):
        _create(series, tree, release, work, pristine)
    count = 0 if pristine else len(series.patches[tree])
    return target.Result(True, f'{tree}: {count} patches on '
                         f'{series.pin(tree, release).version} in '
                         f'{series.short(work)}')


def _create(series: model.Series, tree: str, release: str,
            work: pathlib.Path, pristine: bool) -> None:
    prefix = f'.{tree}.partial-'
    fetch.clear_partial(work.parent, prefix)
    staged = work.parent / f'{prefix}{os.getpid()}'
    try:
        shutil.copytree(series.base(tree, release), staged, symlinks=True)
        repository = git.Git(staged)
        repository.run('init', '--quiet', '--initial-branch', 'series')
        exclude = repository.git_dir() / 'info' / 'exclude'
        exclude.parent.mkdir(exist_ok=True)
        exclude.write_text('\n'.join(_IGNORED) + '\n')
        _commit_base(repository, tree, series.pin(tree, release).version)
        if not pristine:
            repository.run('reset', '--hard', '--quiet',
                           build(series, tree, release, repository))
        write_record(series, tree, release, repository)
        staged.rename(work)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _commit_base(repository: git.Git, tree: str, version: str) -> None:
    # Upstream's .gitignore must not keep a part of the release out.
    repository.run('add', '--all', '--force', '--', '.', ':!*.egg-info')
    who = {f'GIT_{role}_{key}': value
           for role in ('AUTHOR', 'COMMITTER')
           for key, value in (('NAME', _WHO), ('EMAIL', f'{_WHO}@localhost'),
                              ('DATE', _EPOCH))}
    repository.run('commit', '--quiet', '--no-verify', '-m',
                   f'{tree} {version}', env=who)
    repository.run('tag', BASE)
