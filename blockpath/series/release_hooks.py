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
"""Hooks of a release's own, from the commits in that release's tree.

Most hooks reach a release by a three-way merge of those made on the default
one. New files are the same on all releases: where a release lacks what they
call, its own hook brings that.
"""

import pathlib

from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import refresh as refreshing
from blockpath.series import trees


class _Common(model.Series):
    """The series without the releases' own hooks."""

    def hooks(self, patch: model.Patch, release: str
              ) -> tuple[pathlib.Path, str]:
        del release
        return super().hooks(patch, self.default)


def refresh(series: model.Series, tree: str, release: str) -> list[str]:
    """Store what a release's commits have of their own.

    :returns: a line for each file changed
    :raises RefreshError: the commits are others than the series' patches, or
        a new file differs
    """
    repository = trees.open_tree(series, tree, release)
    rendered = refreshing.render(series, tree, repository)
    _refuse_others(series, tree, release, rendered)
    planner = plan.Planner(_Common(series.root), tree, release)
    commits = repository.commits(trees.BASE, 'HEAD')
    lines = []
    for index, (one, commit) in enumerate(zip(rendered, commits)):
        file = (series.root / 'patches' / tree / release /
                f'{one.patch.name}.patch')
        if _is_merged(planner, index, one, repository, commit):
            if file.exists():
                file.unlink()
                refreshing.prune(series.root, file)
                lines.append(f'removed {series.short(file)}')
        elif not file.exists() or file.read_bytes() != one.data:
            refreshing.write(file, model.File(one.data))
            lines.append(f'wrote {series.short(file)}')
    trees.write_record(series, tree, release, repository)
    return lines


def _refuse_others(series: model.Series, tree: str, release: str,
                   rendered: list[refreshing.Rendered]) -> None:
    work = series.short(series.work(tree, release))
    names = [one.patch.name for one in rendered]
    if names != [patch.name for patch in series.patches[tree]]:
        raise refreshing.RefreshError(
            f'{work} must have one commit for each patch of series.toml, in '
            f'its order; add, reword and reorder in '
            f'{series.short(series.work(tree, series.default))}')
    for one, patch in zip(rendered, series.patches[tree]):
        stored = {path: series.new_file(patch, path) for path in patch.files}
        for path in sorted(one.files.keys() | stored.keys()):
            if one.files.get(path) != stored.get(path):
                raise refreshing.RefreshError(
                    f'{work}: {path} is not the stored one, and new files '
                    f'are the same on all releases; hook what it calls')


def _is_merged(planner: plan.Planner, index: int, one: refreshing.Rendered,
               repository: git.Git, commit: str) -> bool:
    """Does the common hook give this very commit?"""
    before = git_target.reader_at(repository, f'{commit}^')
    after = git_target.reader_at(repository, commit)
    try:
        step = planner.step(index, before)
    except plan.PlanError:
        return False
    hooked = {each.path for each in one.letter.diffs} | {
        each.path for each in step.mail.diffs}
    merged = {each.path: each.after for each in step.changes}
    return step.mail.head == one.letter.head and all(
        merged.get(path) == after(path) for path in hooked)
