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
"""A branch of the series in a clone of upstream's, as ``git review`` takes it.

The commits are made beside the work tree, so that a patch that does not fit
what upstream became leaves the clone as it was. The branch then moves to them
in one step. Made again, the commits before the first that changed stay, and
so do their patch sets in Gerrit.
"""

import dataclasses
import itertools
import pathlib

from blockpath import errors
from blockpath.series import find_target
from blockpath.series import footer
from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target
from blockpath.series import trees


class ReviewError(errors.BlockpathError):
    """The branch cannot be made; the clone is as it was."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was done, in one line, and what to know about it.

    ``merged`` are the files in which upstream had moved, ``missing`` says
    which dependencies have no URL.
    """

    message: str
    merged: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Review:
    """The branch of one tree in one clone.

    :raises target.TargetError: the folder holds no such tree
    :raises ReviewError: it is no clone
    """

    def __init__(self, series: model.Series, tree: str, release: str,
                 folder: pathlib.Path, branch: str) -> None:
        if not isinstance(find_target.find(series, tree, release, folder),
                          git_target.GitTarget):
            raise ReviewError(f'{folder} is no git repository; git review '
                              f'needs a clone of upstream')
        self.series = series
        self.tree = tree
        self.release = release
        self.branch = branch
        self.git = git.Git(folder)
        self._ref = f'refs/heads/{branch}'
        if not self.git.succeeds('check-ref-format', self._ref):
            raise ReviewError(f'{branch!r} is no name of a branch')

    @property
    def _record(self) -> pathlib.Path:
        return self.git.git_dir() / 'blockpath' / 'review.json'

    def make(self, onto: str | None, urls: footer.Urls) -> Result:
        """Make the branch, or bring it to the series as it is now.

        :param onto: what it begins at; without it the commit checked out,
            or where it began before when it is itself checked out
        :raises ReviewError: somebody committed to the branch, or there is
            nothing to send
        :raises plan.PlanError: a patch does not fit; nothing was changed
        """
        git_target.refuse_busy(self.git)
        who = footer.signer(self.git)
        base = self._base(onto)
        old = self._own_tip()
        planner = plan.Planner(self.series, self.tree, self.release)
        steps = planner.plan(git_target.reader_at(self.git, base))
        wanted = [footer.signed(self.series, self.git, step, who, urls)
                  for step in steps if step.effective]
        if not wanted:
            raise ReviewError(f'{base[:12]} in {self.git.folder} holds all '
                              f'patches of {self.tree} already')
        tip = self._commit(base, old, wanted)
        missing = tuple(footer.missing(
            (step.patch for step in wanted), urls))
        self._move(old, base, tip)
        if tip == old:
            return Result(f'{self.tree}: branch {self.branch} in '
                          f'{self.git.folder} is as it should be already',
                          missing=missing)
        return Result(f'{self.tree}: {len(wanted)} commits on {base[:12]}, '
                      f'branch {self.branch} in {self.git.folder}',
                      target.merged_in(steps), missing)

    def _base(self, onto: str | None) -> str:
        if onto:
            if not self.git.has(onto):
                raise ReviewError(f'{self.git.folder} has no commit {onto}')
            return self.git.commit_of(onto)
        if not self._checked_out():
            return self.git.commit_of('HEAD')
        known = self._records().get(self.branch)
        if not known:
            raise ReviewError(f'{self.branch} is checked out in '
                              f'{self.git.folder}; say with --onto what it '
                              f'begins at, or give another --branch')
        return str(known['base'])

    def _checked_out(self) -> bool:
        head = self.git.run('symbolic-ref', '--quiet', 'HEAD', ok=(0, 1))
        return head.decode().strip() == self._ref

    def _own_tip(self) -> str:
        """The branch's last commit, if it is ours; empty without a branch."""
        if not self.git.has(self._ref):
            return ''
        tip = self.git.commit_of(self._ref)
        if self._records().get(self.branch, {}).get('tip') != tip:
            raise ReviewError(f'{self.git.folder}: branch {self.branch} holds '
                              f'commits that were not made here; give '
                              f'another --branch, or rename it')
        return tip

    def _commit(self, base: str, old: str, wanted: list[plan.Step]) -> str:
        """Commit the steps; the first ones that are there already stay.

        Gerrit makes a patch set of every commit that has another id.
        """
        tip = git_target.commit(self.git, base, wanted,
                                committer_is_author=False)
        if not old or self._records()[self.branch]['base'] != base:
            return tip
        pairs = zip(trees.commits(self.git, old, base),
                    trees.commits(self.git, tip, base))
        same = sum(1 for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], pairs))
        kept = [base, *self.git.commits(base, old)][same]
        return git_target.commit(self.git, kept, wanted[same:],
                                 committer_is_author=False)

    def _move(self, old: str, base: str, tip: str) -> None:
        with git.uninterrupted():
            if tip != old:
                self._point(old, tip)
            target.write_json(self._record, self._records() | {
                self.branch: {'base': base, 'tip': tip}})

    def _point(self, old: str, tip: str) -> None:
        if old and self._checked_out():
            trees.move(self.git, tip)
        else:
            self.git.run('branch', '--force', '--no-track', self.branch, tip)

    def _records(self) -> dict[str, dict[str, str]]:
        return target.read_json(self._record)
