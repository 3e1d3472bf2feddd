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
"""Apply the series to a git repository.

The commits are made in the object database first. The work tree then moves
to the last of them in one step, so the series is applied whole or not at all.
"""

import os
import pathlib
from typing import Any

from blockpath.series import git
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target

#: Left behind by git while it is in the middle of something.
_BUSY = ('rebase-apply', 'rebase-merge', 'MERGE_HEAD', 'CHERRY_PICK_HEAD')


class GitTarget:
    """A clone of upstream: each patch becomes a commit."""

    def __init__(self, series: model.Series, tree: str, release: str,
                 folder: pathlib.Path) -> None:
        self.series = series
        self.tree = tree
        self.release = release
        self.git = git.Git(folder)
        self.planner = plan.Planner(series, tree, release)
        self._read = reader_at(self.git, 'HEAD')

    @property
    def _record(self) -> pathlib.Path:
        return self.git.git_dir() / 'blockpath' / f'{self.tree}.json'

    def record(self) -> dict[str, Any]:
        """Return the record of the series here; empty if it is not applied."""
        record = target.read_json(self._record)
        tip = record.get('tip')
        if tip and self.git.succeeds('merge-base', '--is-ancestor', tip,
                                     'HEAD'):
            return record
        return {}

    def status(self) -> target.Status:
        record = self.record()
        if record:
            if record['digest'] != self.series.digest(self.tree,
                                                      self.release):
                return target.Status('other version')
            return target.Status('applied',
                                 f'up to commit {record["tip"][:12]}')
        return target.by_content(self.planner, self._read)

    def apply(self) -> target.Result:
        """Commit the missing patches of the series onto HEAD.

        :raises TargetError: another version is there, or git is busy
        :raises plan.PlanError: a patch does not fit; nothing was changed
        """
        status = self.status()
        if status.state == 'applied':
            return target.Result(False, f'{self.tree}: all patches are in '
                                 f'{self.git.folder} already')
        target.refuse_other(status, self.git.folder)
        refuse_busy(self.git)
        refuse_anonymous(self.git)
        steps = self.planner.plan(self._read, status.done)
        base = self.git.commit_of('HEAD')
        tip = commit(self.git, base, steps, committer_is_author=False)
        with git.uninterrupted():
            self.git.run('merge', '--ff-only', '--quiet', tip)
            self._write_record(base, tip)
        count = len(self.git.commits(base, tip))
        return target.Result(
            tip != base, f'{self.tree}: {count} commits on {base[:12]} in '
            f'{self.git.folder}', target.merged_in(steps))

    def _write_record(self, base: str, tip: str) -> None:
        target.write_json(self._record, {
            'base': base, 'tip': tip, 'release': self.release,
            'digest': self.series.digest(self.tree, self.release)})

    def reverse(self) -> target.Result:
        """Remove the commits of the series.

        :raises TargetError: there are commits on top of them
        """
        record = self.record()
        if not record:
            if target.by_content(self.planner, self._read).done:
                raise target.TargetError(
                    f'{self.git.folder}: the commits were not made here, so '
                    f'it is not known where they begin; use git reset')
            return target.Result(False, f'{self.tree}: not applied to '
                                 f'{self.git.folder}')
        refuse_busy(self.git)
        if self.git.commit_of('HEAD') != record['tip']:
            raise target.TargetError(
                f'{self.git.folder}: there are commits on top of the series; '
                f'rebase them away first')
        with git.uninterrupted():
            self.git.run('reset', '--keep', '--quiet', record['base'])
            self._record.unlink(missing_ok=True)
        return target.Result(
            True, f'{self.tree}: {self.git.folder} is back at '
            f'{record["base"][:12]}')


def reader_at(repository: git.Git, commit: str) -> plan.Reader:
    """Read files as a commit has them."""
    def read(path: str) -> model.File | None:
        entry = repository.text('ls-tree', commit, '--', path)
        if not entry:
            return None
        mode, _, blob = entry.partition('\t')[0].split()
        if mode not in ('100644', '100755'):
            raise target.TargetError(
                f'{repository.folder / path} is not a file')
        return model.File(repository.run('cat-file', 'blob', blob),
                          mode == '100755')
    return read


def refuse_busy(repository: git.Git) -> None:
    """:raises TargetError: git is in the middle of a rebase or merge"""
    for name in _BUSY:
        if (repository.git_dir() / name).exists():
            raise target.TargetError(
                f'{repository.folder}: git is in the middle of a rebase or '
                f'merge; end it first')


def refuse_anonymous(repository: git.Git) -> None:
    """Check that git knows a committer; its own advice takes eight lines.

    :raises TargetError: git knows none
    """
    try:
        repository.run('var', 'GIT_COMMITTER_IDENT', isolated=False)
    except git.GitError:
        raise target.TargetError('git knows no committer; set user.name and '
                                 'user.email with git config')


def commit(repository: git.Git, parent: str, steps: list[plan.Step],
           committer_is_author: bool) -> str:
    """Make a commit of each step without the work tree; return the last.

    :param committer_is_author: the same commit ids on every machine
    """
    index = repository.git_dir() / f'blockpath-index-{os.getpid()}'
    env = {'GIT_INDEX_FILE': str(index)}
    try:
        repository.run('read-tree', parent, env=env)
        for step in steps:
            if step.effective:
                _stage(repository, step.effective, env)
                parent = _commit_one(repository, parent, step, env,
                                     committer_is_author)
    finally:
        index.unlink(missing_ok=True)
    return parent


def _stage(repository: git.Git, changes: list[plan.Change],
           env: dict[str, str]) -> None:
    lines = []
    for change in changes:
        if change.after is None:
            lines.append(f'0 {"0" * 40}\t{change.path}')
            continue
        blob = repository.run('hash-object', '-w', '--stdin',
                              data=change.after.data).decode().strip()
        mode = '100755' if change.after.executable else '100644'
        lines.append(f'{mode} {blob}\t{change.path}')
    repository.run('update-index', '-z', '--index-info', env=env,
                   data='\0'.join(lines + ['']).encode(
                       'utf-8', 'surrogateescape'))


def _commit_one(repository: git.Git, parent: str, step: plan.Step,
                env: dict[str, str], committer_is_author: bool) -> str:
    tree = repository.run('write-tree', env=env).decode().strip()
    letter = step.mail
    who = {'GIT_AUTHOR_NAME': letter.name,
           'GIT_AUTHOR_EMAIL': letter.address,
           'GIT_AUTHOR_DATE': letter.date}
    if committer_is_author:
        who |= {key.replace('AUTHOR', 'COMMITTER'): value
                for key, value in who.items()}
    return repository.run(
        'commit-tree', '-p', parent, '-F', '-', tree, env=who,
        data=letter.message.encode(),
        isolated=committer_is_author).decode().strip()
