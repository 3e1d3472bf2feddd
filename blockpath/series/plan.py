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
"""What the series would change in a tree, worked out before it changes it.

A hook is applied by content. The blob id in its index line says which file it
was made on: if that is the file at hand it is applied exactly, otherwise the
difference is merged three ways (``git merge-file``) on that same file, taken
from the pristine release.
"""

import collections
from collections.abc import Callable
import dataclasses
import pathlib
import tempfile

from blockpath import errors
from blockpath.series import diff
from blockpath.series import git
from blockpath.series import mail
from blockpath.series import model

Reader = Callable[[str], model.File | None]


class PlanError(errors.BlockpathError):
    """A patch does not fit; names the patch, file, hunk and line."""


class NotFetched(errors.BlockpathError):
    """A pristine release is missing, so whether a patch fits is unknown."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One file before and after a patch; None: it is not there."""

    path: str
    before: model.File | None
    after: model.File | None
    merged: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """What one patch changes."""

    patch: model.Patch
    mail: mail.Mail
    changes: tuple[Change, ...]

    @property
    def effective(self) -> list[Change]:
        return [each for each in self.changes if each.before != each.after]


def reader_of(folder: pathlib.Path) -> Reader:
    """Read files below a folder."""
    def read(path: str) -> model.File | None:
        file = folder / path
        try:
            return model.File(file.read_bytes(),
                              bool(file.stat().st_mode & 0o100))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
    return read


def everything(path: str) -> bool:
    del path
    return True


class Planner:
    """Plans the patches of one tree for one release.

    :param keep: says which paths of the tree matter; an installed package
        has no release notes
    """

    def __init__(self, series: model.Series, tree: str, release: str,
                 keep: Callable[[str], bool] = everything) -> None:
        self.series = series
        self.tree = tree
        self.release = release
        self.keep = keep
        self.patches = series.patches[tree]
        self._references: dict[str, list[Step]] = {}

    def plan(self, read: Reader, done: int = 0) -> list[Step]:
        """The steps from what ``read`` gives to the patched tree.

        :param done: how many patches are there already
        :raises PlanError: the first thing that does not fit
        :raises NotFetched: the release to merge on is missing
        """
        overlay: dict[str, model.File | None] = {}

        def current(path: str) -> model.File | None:
            return overlay[path] if path in overlay else read(path)

        steps = []
        for index in range(done, len(self.patches)):
            step = self.step(index, current)
            overlay |= {each.path: each.after for each in step.changes}
            steps.append(step)
        return steps

    def reference(self, release: str) -> list[Step]:
        """The steps on the pristine release itself.

        :raises NotFetched: it is missing
        :raises PlanError: a patch drifted
        """
        if release not in self._references:
            pristine = Planner(self.series, self.tree, release)
            self._references[release] = pristine.plan(
                reader_of(self._base(release)))
        return self._references[release]

    def _base(self, release: str) -> pathlib.Path:
        base = self.series.base(self.tree, release)
        if not base.is_dir():
            raise NotFetched(
                f'{self.series.short(base)} is missing; run: blockpath '
                f'series fetch --release {release} {self.tree}')
        return base

    def prefixes(self) -> list[dict[str, model.File | None]]:
        """All files that the series touches, after 0, 1, … n patches."""
        steps = self.reference(self.release)
        state = {each.path: each.before for step in reversed(steps)
                 for each in reversed(step.changes) if self.keep(each.path)}
        states = [dict(state)]
        for step in steps:
            state |= {each.path: each.after for each in step.changes
                      if self.keep(each.path)}
            states.append(dict(state))
        return states

    def applied(self, read: Reader) -> int | None:
        """How many patches the tree holds, judged by its files.

        None when its files are neither those of the release nor those after
        any of the patches: another release, or edited since.
        """
        states = self.prefixes()
        now = {path: read(path) for path in states[0]}
        for count in reversed(range(len(states))):
            if states[count] == now:
                return count
        return None

    def step(self, index: int, current: Reader) -> Step:
        """What one patch makes of the tree that the ones before it left.

        :raises PlanError: it does not fit
        :raises NotFetched: the release to merge on is missing
        """
        patch = self.patches[index]
        letter = self.series.mail(patch, self.release)
        changes = [self._hook(index, each, current(each.path))
                   for each in letter.diffs if self.keep(each.path)]
        changes += [self._new_file(index, path, current(path))
                    for path in patch.files if self.keep(path)]
        twice = [path for path, count in collections.Counter(
            each.path for each in changes).items() if count > 1]
        if twice:
            raise PlanError(f'{patch.tree}/{patch.name}: {twice[0]} is both '
                            f'a hook and a new file')
        return Step(patch, letter, tuple(changes))

    def _new_file(self, index: int, path: str,
                  now: model.File | None) -> Change:
        patch = self.patches[index]
        new = self.series.new_file(patch, path)
        if now is None or now.data == new.data:
            return Change(path, now, new)
        if diff.blob_id(now.data) in self._later(index, path):
            return Change(path, now, now)
        raise PlanError(f'{patch.tree}/{patch.name}: the tree has another '
                        f'{path} already; move it away')

    def _later(self, index: int, path: str) -> set[str]:
        """The blobs that a file becomes by the patches after this one."""
        return {each.new for patch in self.patches[index + 1:]
                for each in self.series.mail(patch, self.release).diffs
                if each.path == path}

    def _hook(self, index: int, edit: diff.FileDiff,
              now: model.File | None) -> Change:
        where = f'{self.tree}/{self.patches[index].name}: {edit.path}'
        if edit.adds:
            raise PlanError(f'{where}: a new file belongs into '
                            f'{self.tree}/, not into a hook')
        if now is None:
            raise PlanError(f'{where}: the tree has no such file')
        mode = now.executable if edit.executable is None else edit.executable
        if not edit.old or diff.blob_id(now.data) == edit.old:
            data, merged = _exact(where, edit, now.data), False
        else:
            data, merged = self._merged(index, edit, now.data), True
        after = None if data is None else model.File(data, mode)
        return Change(edit.path, now, after, merged)

    def _merged(self, index: int, edit: diff.FileDiff,
                now: bytes) -> bytes | None:
        patch = self.patches[index]
        where = f'{self.tree}/{patch.name}: {edit.path}'
        _, made_on = self.series.hooks(patch, self.release)
        base = self._base(made_on)
        before = self._before(made_on, index, edit.path)
        if before is None or diff.blob_id(before) != edit.old:
            raise PlanError(
                f'{where}: its hook was made on another file than '
                f'{self.series.short(base)} and the patches before it give; '
                f'run: blockpath series refresh {self.tree}')
        if edit.deletes:
            raise PlanError(f'{where}: is to be deleted, but differs from '
                            f'that of {made_on}')
        after = _exact(where, edit, before)
        assert after is not None
        result, conflicts = merge(now, before, after)
        if conflicts:
            raise PlanError(f'{where}: {_conflicting(edit, now, before)}')
        return result

    def _before(self, release: str, index: int, path: str) -> bytes | None:
        """A file as the patches before this one leave it in a release."""
        pristine = reader_of(self.series.base(self.tree, release))
        earlier = Planner(self.series, self.tree, release,
                          keep=lambda each: each == path)
        earlier.patches = self.patches[:index]
        states = [pristine(path)] + [
            each.after for step in earlier.plan(pristine)
            for each in step.changes]
        return states[-1].data if states[-1] is not None else None


def _exact(where: str, edit: diff.FileDiff, data: bytes) -> bytes | None:
    """Apply a file's hunks to the very file that they were made on."""
    try:
        result = diff.apply_hunks(edit.hunks, data)
    except diff.HunkError as exc:
        raise PlanError(f'{where}: hunk {exc.hunk} of {len(edit.hunks)} does '
                        f'not fit at line {exc.line}')
    if edit.deletes:
        return None
    if edit.new and diff.blob_id(result) != edit.new:
        raise PlanError(f'{where}: the hunks give another file than their '
                        f'index line says; the patch was edited by hand')
    return result


def merge(now: bytes, before: bytes, after: bytes) -> tuple[bytes, bool]:
    """Carry the step from ``before`` to ``after`` over to ``now``.

    Returns the merged bytes and whether there were conflicts.
    """
    with tempfile.TemporaryDirectory(prefix='blockpath-') as name:
        folder = pathlib.Path(name)
        for part, data in (('now', now), ('before', before),
                           ('after', after)):
            (folder / part).write_bytes(data)
        # The exit code is the number of conflicts; errors are above 127.
        result = git.Git(folder).run(
            'merge-file', '-p', '--diff3', 'now', 'before', 'after',
            ok=tuple(range(128)))
    return result, b'<<<<<<< now\n' in result


def _conflicting(edit: diff.FileDiff, now: bytes, before: bytes) -> str:
    """Which hunk conflicts: each is tried by itself."""
    for number, hunk in enumerate(edit.hunks, 1):
        after = diff.apply_hunks((hunk,), before)
        result, conflicts = merge(now, before, after)
        if conflicts:
            at = diff.split_lines(result).index(b'<<<<<<< now\n') + 1
            return (f'hunk {number} of {len(edit.hunks)} (line {hunk.start} '
                    f'of the release) conflicts with line {at} of the tree')
    return f'its {len(edit.hunks)} hunks conflict with the tree'
