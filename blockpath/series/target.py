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
"""Where the series is applied: a git repository, or a folder of files.

Both are all or nothing. In a repository the commits are made beside the work
tree, which then moves to the last of them in one step. In a folder what was
there before is kept in ``.blockpath/<tree>/``, first to roll back with, then
to reverse with.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from blockpath import errors
from blockpath.series import git
from blockpath.series import model
from blockpath.series import plan

#: Left behind by git while it is in the middle of something.
_BUSY = ('rebase-apply', 'rebase-merge', 'MERGE_HEAD', 'CHERRY_PICK_HEAD')


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


def open_target(series: model.Series, tree: str, release: str,
                folder: pathlib.Path) -> 'GitTarget | FolderTarget':
    """Find out what a folder is.

    :raises TargetError: it holds no such tree
    """
    package = model.PACKAGES[tree]
    if not folder.is_dir():
        raise TargetError(f'{folder} is not a folder')
    if not (folder / package / '__init__.py').is_file():
        raise TargetError(
            f'{folder} holds no {tree} ({package}/__init__.py); give a '
            f'clone, an unpacked sdist, or a site-packages folder')
    if git.Git(folder).is_repository():
        return GitTarget(series, tree, release, folder)
    is_sdist = any((folder / name).exists() for name in
                   ('setup.py', 'setup.cfg', 'pyproject.toml', 'PKG-INFO'))
    return FolderTarget(series, tree, release, folder, whole=is_sdist)


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
        """What we noted when the series was applied here, if it still is."""
        record = read_json(self._record)
        tip = record.get('tip')
        if tip and self.git.succeeds('merge-base', '--is-ancestor', tip,
                                     'HEAD'):
            return record
        return {}

    def status(self) -> Status:
        record = self.record()
        if record:
            if record['digest'] != self.series.digest(self.tree,
                                                      self.release):
                return Status('other version')
            return Status('applied', f'up to commit {record["tip"][:12]}')
        return by_content(self.planner, self._read)

    def apply(self) -> Result:
        """Commit what is missing of the series onto HEAD.

        :raises TargetError: another version is there, or git is busy
        :raises plan.PlanError: a patch does not fit; nothing was changed
        """
        status = self.status()
        if status.state == 'applied':
            return Result(False, f'{self.tree}: all patches are in '
                                 f'{self.git.folder} already')
        refuse_other(status, self.git.folder)
        refuse_busy(self.git)
        refuse_anonymous(self.git)
        steps = self.planner.plan(self._read, status.done)
        base = self.git.commit_of('HEAD')
        tip = commit(self.git, base, steps, committer_is_author=False)
        with git.uninterrupted():
            self.git.run('merge', '--ff-only', '--quiet', tip)
            self._write_record(base, tip)
        count = len(self.git.commits(base, tip))
        return Result(tip != base, f'{self.tree}: {count} commits on '
                      f'{base[:12]} in {self.git.folder}', merged_in(steps))

    def _write_record(self, base: str, tip: str) -> None:
        write_json(self._record, {
            'base': base, 'tip': tip, 'release': self.release,
            'digest': self.series.digest(self.tree, self.release)})

    def reverse(self) -> Result:
        """Take the commits away again.

        :raises TargetError: there are commits on top of them
        """
        record = self.record()
        if not record:
            if by_content(self.planner, self._read).done:
                raise TargetError(
                    f'{self.git.folder}: the commits were not made here, so '
                    f'it is not known where they begin; use git reset')
            return Result(False, f'{self.tree}: not applied to '
                                 f'{self.git.folder}')
        refuse_busy(self.git)
        if self.git.commit_of('HEAD') != record['tip']:
            raise TargetError(f'{self.git.folder}: there are commits on top '
                              f'of the series; rebase them away first')
        with git.uninterrupted():
            self.git.run('reset', '--keep', '--quiet', record['base'])
            self._record.unlink(missing_ok=True)
        return Result(True, f'{self.tree}: {self.git.folder} is back at '
                            f'{record["base"][:12]}')


class FolderTarget:
    """Plain files: an unpacked sdist, or an installed package.

    :param whole: False for site-packages, which hold the package alone
    """

    def __init__(self, series: model.Series, tree: str, release: str,
                 folder: pathlib.Path, whole: bool) -> None:
        self.series = series
        self.tree = tree
        self.release = release
        self.folder = folder
        self.whole = whole
        self.planner = plan.Planner(series, tree, release, self._keeps)
        self._home = folder / '.blockpath' / tree
        self._manifest = self._home / 'manifest.json'
        self._read = plan.reader_of(folder)

    def _keeps(self, path: str) -> bool:
        if self.whole:
            return True
        package = model.PACKAGES[self.tree]
        tests = f'{package}/tests/'
        if path.startswith(tests) and not (self.folder / tests).is_dir():
            # Distributions leave a package's tests out.
            return False
        return path.startswith(f'{package}/')

    def status(self) -> Status:
        manifest = read_json(self._manifest)
        if not manifest:
            return by_content(self.planner, self._read)
        if manifest['state'] != 'applied':
            return Status('interrupted')
        if manifest['digest'] != self.series.digest(self.tree, self.release):
            return Status('other version')
        edited = self._edited(manifest)
        if edited:
            return Status('changed', edited[0])
        if any(fingerprint(self._read(path)) != entry['after']
               for path, entry in manifest['files'].items()):
            return Status('interrupted', 'the release was installed over it')
        return Status('applied')

    def _edited(self, manifest: dict[str, Any]) -> list[str]:
        """Files that are neither as we left them nor as we found them.

        pip, when it installs the release again, puts back what it brought.
        """
        return [path for path, entry in manifest['files'].items()
                if fingerprint(self._read(path)) not in (entry['before'],
                                                         entry['after'])]

    def apply(self) -> Result:
        """Write what is missing of the series.

        :raises TargetError: another version is there, or it was edited
        :raises plan.PlanError: a patch does not fit; nothing was changed
        """
        status = self.status()
        if status.state == 'interrupted':
            self._restore(read_json(self._manifest))
            status = self.status()
        if status.state == 'applied':
            return Result(False, f'{self.tree}: all patches are in '
                                 f'{self.folder} already')
        refuse_other(status, self.folder)
        steps = self.planner.plan(self._read, status.done)
        before, after = squash(steps)
        if before == after:
            return Result(False, f'{self.tree}: all patches are in '
                                 f'{self.folder} already')
        manifest = self._prepare(before, after)
        try:
            for path, file in after.items():
                self._write(path, file)
            write_json(self._manifest, manifest | {'state': 'applied'})
        except BaseException:
            self._restore(manifest)
            raise
        return Result(True, f'{self.tree}: {len(after)} files changed in '
                            f'{self.folder}', merged_in(steps))

    def _prepare(self, before: dict[str, model.File | None],
                 after: dict[str, model.File | None]) -> dict[str, Any]:
        """Keep what is there now; from here on a crash can be undone."""
        manifest: dict[str, Any] = {
            'state': 'applying', 'release': self.release,
            'digest': self.series.digest(self.tree, self.release),
            'patches': [each.name for each in self.planner.patches],
            'files': {path: {'before': fingerprint(before[path]),
                             'after': fingerprint(file)}
                      for path, file in after.items()}}
        try:
            for path, file in before.items():
                if file is not None:
                    kept = self._home / 'before' / path
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(file.data)
                    kept.chmod(0o755 if file.executable else 0o644)
            write_json(self._manifest, manifest)
        except BaseException:
            self._forget()
            raise
        return manifest

    def reverse(self) -> Result:
        """Put back what was there before.

        :raises TargetError: a file was edited since, or nobody knows what
            was there
        """
        manifest = read_json(self._manifest)
        if not manifest:
            return self._reverse_by_content()
        if manifest['state'] == 'applied' and (
                edited := self._edited(manifest)):
            raise TargetError(f'{self.folder / edited[0]} was edited since; '
                              f'undo that, or it would be lost')
        write_json(self._manifest, manifest | {'state': 'reverting'})
        self._restore(manifest)
        return Result(True, f'{self.tree}: {len(manifest["files"])} files '
                            f'put back in {self.folder}')

    def _reverse_by_content(self) -> Result:
        status = by_content(self.planner, self._read)
        if status.state == 'unknown':
            raise TargetError(f'{self.folder}: it is not known what was there '
                              f'before ({status.detail})')
        if not status.done:
            return Result(False, f'{self.tree}: not applied to {self.folder}')
        states = self.planner.prefixes()
        manifest = self._prepare(states[0], states[status.done])
        self._restore(manifest)
        return Result(True, f'{self.tree}: {len(states[0])} files put back '
                            f'in {self.folder}')

    def _restore(self, manifest: dict[str, Any]) -> None:
        kept = plan.reader_of(self._home / 'before')
        for path, entry in manifest['files'].items():
            file = kept(path)
            if fingerprint(file) != entry['before']:
                raise TargetError(f'{self._home / "before" / path} is not '
                                  f'what it was; install {self.tree} anew')
            if fingerprint(self._read(path)) != entry['before']:
                self._write(path, file)
        self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        try:
            self._home.parent.rmdir()
        except OSError:
            # Another tree in the same site-packages has its record there.
            pass

    def _write(self, path: str, file: model.File | None) -> None:
        destination = self.folder / path
        if file is None:
            destination.unlink(missing_ok=True)
            self._prune(destination)
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        replace(destination, file)

    def _prune(self, gone: pathlib.Path) -> None:
        """Remove its bytecode and the folders that it leaves empty."""
        cached = gone.parent / '__pycache__'
        for bytecode in cached.glob(f'{gone.stem}.*.pyc'):
            bytecode.unlink(missing_ok=True)
        for folder in (cached, *gone.parents):
            if folder == self.folder:
                break
            try:
                folder.rmdir()
            except OSError:
                if folder != cached:
                    break


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


def reader_at(repository: git.Git, commit: str) -> plan.Reader:
    """Read files as a commit has them."""
    def read(path: str) -> model.File | None:
        entry = repository.text('ls-tree', commit, '--', path)
        if not entry:
            return None
        mode, _, blob = entry.partition('\t')[0].split()
        if mode not in ('100644', '100755'):
            raise TargetError(f'{repository.folder / path} is not a file')
        return model.File(repository.run('cat-file', 'blob', blob),
                          mode == '100755')
    return read


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


def refuse_busy(repository: git.Git) -> None:
    for name in _BUSY:
        if (repository.git_dir() / name).exists():
            raise TargetError(f'{repository.folder}: git is in the middle '
                              f'of a rebase or merge; end it first')


def refuse_anonymous(repository: git.Git) -> None:
    """Commits need a committer; git's own advice takes eight lines."""
    try:
        repository.run('var', 'GIT_COMMITTER_IDENT', isolated=False)
    except git.GitError:
        raise TargetError('git knows no committer; set user.name and '
                          'user.email with git config')


def commit(repository: git.Git, parent: str, steps: list[plan.Step],
           committer_is_author: bool) -> str:
    """Make a commit of each step, beside the work tree; returns the last.

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


def fingerprint(file: model.File | None) -> str | None:
    return None if file is None else hashlib.sha256(file.data).hexdigest()


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
