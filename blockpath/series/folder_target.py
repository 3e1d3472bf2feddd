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
"""Apply the series to a folder of files, whole or not at all.

``.blockpath/<tree>/`` keeps the files as they were, first to roll back a
failure, then to reverse the series.
"""

import hashlib
import pathlib
import shutil
from typing import Any

from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target


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

    def status(self) -> target.Status:
        manifest = target.read_json(self._manifest)
        if not manifest:
            return target.by_content(self.planner, self._read)
        if manifest['state'] != 'applied':
            return target.Status('interrupted')
        if manifest['digest'] != self.series.digest(self.tree, self.release):
            return target.Status('other version')
        edited = self._edited(manifest)
        if edited:
            return target.Status('changed', edited[0])
        if any(fingerprint(self._read(path)) != entry['after']
               for path, entry in manifest['files'].items()):
            return target.Status('interrupted',
                                 'the release was installed over it')
        return target.Status('applied')

    def _edited(self, manifest: dict[str, Any]) -> list[str]:
        """List the files that differ from both the series and the release.

        pip restores the release's files when it installs the release again.
        """
        return [path for path, entry in manifest['files'].items()
                if fingerprint(self._read(path)) not in (entry['before'],
                                                         entry['after'])]

    def apply(self) -> target.Result:
        """Write the files that the series changes.

        :raises TargetError: another version is there, or it was edited
        :raises plan.PlanError: a patch does not fit; nothing was changed
        """
        status = self.status()
        if status.state == 'interrupted':
            self._restore(target.read_json(self._manifest))
            status = self.status()
        if status.state == 'applied':
            return target.Result(False, f'{self.tree}: all patches are in '
                                 f'{self.folder} already')
        target.refuse_other(status, self.folder)
        steps = self.planner.plan(self._read, status.done)
        before, after = target.squash(steps)
        if before == after:
            return target.Result(False, f'{self.tree}: all patches are in '
                                 f'{self.folder} already')
        manifest = self._prepare(before, after)
        try:
            for path, file in after.items():
                self._write(path, file)
            target.write_json(self._manifest, manifest | {'state': 'applied'})
        except BaseException:
            self._restore(manifest)
            raise
        return target.Result(
            True, f'{self.tree}: {len(after)} files changed in {self.folder}',
            target.merged_in(steps))

    def _prepare(self, before: dict[str, model.File | None],
                 after: dict[str, model.File | None]) -> dict[str, Any]:
        """Keep the files as they are; a later crash can be undone."""
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
            target.write_json(self._manifest, manifest)
        except BaseException:
            self._forget()
            raise
        return manifest

    def reverse(self) -> target.Result:
        """Restore the files as they were before the series.

        :raises TargetError: a file was edited since, or no record says how
            it was
        """
        manifest = target.read_json(self._manifest)
        if not manifest:
            return self._reverse_by_content()
        if manifest['state'] == 'applied' and (
                edited := self._edited(manifest)):
            raise target.TargetError(
                f'{self.folder / edited[0]} was edited since; undo that, or '
                f'it would be lost')
        target.write_json(self._manifest, manifest | {'state': 'reverting'})
        self._restore(manifest)
        return target.Result(
            True, f'{self.tree}: {len(manifest["files"])} files put back in '
            f'{self.folder}')

    def _reverse_by_content(self) -> target.Result:
        status = target.by_content(self.planner, self._read)
        if status.state == 'unknown':
            raise target.TargetError(
                f'{self.folder}: it is not known what was there before '
                f'({status.detail})')
        if not status.done:
            return target.Result(
                False, f'{self.tree}: not applied to {self.folder}')
        states = self.planner.prefixes()
        manifest = self._prepare(states[0], states[status.done])
        self._restore(manifest)
        return target.Result(
            True, f'{self.tree}: {len(states[0])} files put back in '
            f'{self.folder}')

    def _restore(self, manifest: dict[str, Any]) -> None:
        kept = plan.reader_of(self._home / 'before')
        for path, entry in manifest['files'].items():
            file = kept(path)
            if fingerprint(file) != entry['before']:
                raise target.TargetError(
                    f'{self._home / "before" / path} is not what it was; '
                    f'install {self.tree} anew')
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
        target.replace(destination, file)

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


def fingerprint(file: model.File | None) -> str | None:
    return None if file is None else hashlib.sha256(file.data).hexdigest()
