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
"""Common parts of the targets of the series: states, results and records."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from blockpath import errors
from blockpath.series import model
from blockpath.series import plan


class TargetError(errors.BlockpathError):
    """The series cannot be applied there, or not be undone."""


@dataclasses.dataclass(frozen=True)
class Status:
    """How a target stands to the series.

    ``state`` is one of: ``applied``, ``pristine``, ``partly`` (the first of
    the patches), ``other version`` (of the series), ``changed`` (since it was
    applied), ``interrupted`` (a part of it is there, to be rolled back),
    ``unknown`` (neither the release nor any state of the series).
    """

    state: str
    detail: str = ''
    done: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What was done, in one line, and the files merged on the way."""

    changed: bool
    message: str
    merged: tuple[str, ...] = ()


def replace(destination: pathlib.Path, file: model.File) -> None:
    """Write a file beside its place, then move it there.

    Never in place: installers link the same file from a cache of theirs.
    """
    descriptor, name = tempfile.mkstemp(dir=destination.parent,
                                        prefix='.blockpath-')
    try:
        with os.fdopen(descriptor, 'wb') as stream:
            stream.write(file.data)
        os.chmod(name, 0o755 if file.executable else 0o644)
        if destination.exists() and file.executable == bool(
                destination.stat().st_mode & 0o100):
            shutil.copymode(destination, name)
        if os.geteuid() == 0:
            owner = (destination if destination.exists()
                     else destination.parent).stat()
            os.chown(name, owner.st_uid, owner.st_gid)
        os.replace(name, destination)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def by_content(planner: plan.Planner, read: plan.Reader) -> Status:
    """Tell the state from the files alone, when nobody noted it."""
    done = planner.applied(read)
    total = len(planner.patches)
    if done is None:
        try:
            steps = planner.plan(read)
        except plan.PlanError as exc:
            return Status('unknown', exc.message)
        if not any(step.effective for step in steps):
            return Status('applied', done=total)
        return Status('unknown', f'not the files of {planner.release}; they '
                                 f'can be merged')
    if done == 0:
        return Status('pristine')
    if done < total:
        return Status('partly', f'the first {done} of {total} patches', done)
    return Status('applied', done=done)


def refuse_other(status: Status, folder: pathlib.Path) -> None:
    """Stop where applying would mix two versions of the series."""
    if status.state == 'other version':
        raise TargetError(f'{folder} holds another version of the series; '
                          f'undo that first with --reverse')
    if status.state == 'changed':
        raise TargetError(f'{folder} holds the series, but '
                          f'{status.detail} was edited since')


def squash(steps: list[plan.Step]) -> tuple[dict[str, model.File | None],
                                            dict[str, model.File | None]]:
    """Every file before the first step and after the last."""
    before: dict[str, model.File | None] = {}
    after: dict[str, model.File | None] = {}
    for change in (each for step in steps for each in step.changes):
        before.setdefault(change.path, change.before)
        after[change.path] = change.after
    same = {path for path in after if before[path] == after[path]}
    return ({path: file for path, file in before.items() if path not in same},
            {path: file for path, file in after.items() if path not in same})


def merged_in(steps: list[plan.Step]) -> tuple[str, ...]:
    return tuple(sorted({each.path for step in steps
                         for each in step.effective if each.merged}))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A record of ours, empty if there is none."""
    try:
        return dict(json.loads(path.read_text('utf-8')))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise TargetError(f'{path}: {exc}')


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f'{path.name}.{os.getpid()}')
    staged.write_text(json.dumps(content, indent=1) + '\n', 'utf-8')
    staged.replace(path)
