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
"""The series as patches/series.toml tells it."""

import dataclasses
import hashlib
import pathlib
import re
import tomllib
import types
from typing import Any

from blockpath import errors
from blockpath.series import diff
from blockpath.series import mail

#: Lower-case words; a leading digit would look like an order.
NAME = re.compile(r'[a-z][a-z0-9]*(?:-[a-z0-9]+)*')
#: As Gerrit's commit-msg hook makes it.
CHANGE_ID = re.compile(r'I[0-9a-f]{40}')
#: The Python package that each tree installs.
PACKAGES = types.MappingProxyType(
    {'os-brick': 'os_brick', 'nova': 'nova', 'cinder': 'cinder'})


class SeriesError(errors.BlockpathError):
    """series.toml or a patch is not as it should be."""


@dataclasses.dataclass(frozen=True)
class Release:
    """One project's pinned sdist in one release of OpenStack."""

    release: str
    tree: str
    project: str
    version: str
    sha256: str

    @property
    def sdist(self) -> str:
        """The sdist's file name, as PEP 625 normalises it."""
        return f'{self.project.replace("-", "_")}-{self.version}.tar.gz'


@dataclasses.dataclass(frozen=True)
class Patch:
    """One patch: hooks in ``patches/<tree>/<name>.patch`` and new files."""

    tree: str
    name: str
    files: tuple[str, ...] = ()
    #: ``<tree>/<name>`` of patches in other trees that this one calls.
    depends: tuple[str, ...] = ()
    #: Why it has no release note although it changes code.
    no_release_note: str = ''
    #: Gerrit's, where it is not the one made of the patch's name.
    change_id: str = ''


@dataclasses.dataclass(frozen=True)
class File:
    """A file's bytes and whether it may be run."""

    data: bytes
    executable: bool = False


class Series:
    """The series of one checkout, and where its parts lie.

    :raises SeriesError: series.toml is missing or malformed
    """

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.file = root / 'patches' / 'series.toml'
        content = self._load()
        self.default: str = content.get('default', '')
        self.releases = self._releases(content)
        self.patches = self._patches(content)
        #: Tree -> how many lines its hooks may change, tests aside.
        self.limits: dict[str, int] = content.get('hook-lines', {})

    def _load(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.file.read_text('utf-8'))
        except FileNotFoundError:
            raise SeriesError(f'{self.file} is missing; run this in the '
                              f'folder of a checkout of blockpath')
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SeriesError(f'{self.file}: {exc}')

    def _releases(self, content: dict[str, Any]
                  ) -> dict[str, dict[str, Release]]:
        releases: dict[str, dict[str, Release]] = {}
        try:
            for name, trees in content['releases'].items():
                releases[name] = {
                    tree: Release(name, tree, pin.get('project', tree),
                                  pin['version'], pin['sha256'])
                    for tree, pin in trees.items()}
        except (KeyError, AttributeError) as exc:
            raise SeriesError(f'{self.file}: a release lacks {exc}')
        if self.default not in releases:
            raise SeriesError(f'{self.file}: default = {self.default!r} is '
                              f'not one of its releases')
        for tree in {t for trees in releases.values() for t in trees}:
            if tree not in PACKAGES:
                raise SeriesError(f'{self.file}: unknown tree {tree!r}')
        return releases

    def _patches(self, content: dict[str, Any]) -> dict[str, list[Patch]]:
        patches: dict[str, list[Patch]] = {tree: [] for tree in self.trees()}
        for tree, entries in content.get('patches', {}).items():
            if tree not in patches:
                raise SeriesError(f'{self.file}: patches for {tree!r}, which '
                                  f'is no tree of {self.default}')
            for entry in entries:
                if 'name' not in entry:
                    raise SeriesError(f'{self.file}: a patch of {tree} has '
                                      f'no name')
                patches[tree].append(Patch(
                    tree, entry['name'], tuple(entry.get('files', ())),
                    tuple(entry.get('depends', ())),
                    entry.get('no-release-note', ''),
                    self._change_id(entry)))
        return patches

    def _change_id(self, entry: dict[str, Any]) -> str:
        given = str(entry.get('change-id', ''))
        if given and not CHANGE_ID.fullmatch(given):
            raise SeriesError(f'{self.file}: {entry["name"]}: change-id = '
                              f'{given!r} is not I and 40 hex digits')
        return given

    def trees(self) -> list[str]:
        """The trees, each after those that it imports."""
        return [tree for tree in PACKAGES
                if tree in self.releases[self.default]]

    def pin(self, tree: str, release: str) -> Release:
        """The pinned sdist.

        :raises SeriesError: no such release, or it lacks the tree
        """
        trees = self.releases.get(release)
        if trees is None:
            raise SeriesError(f'no release {release}; there is '
                              f'{", ".join(self.releases)}')
        if tree not in trees:
            raise SeriesError(f'no tree {tree} in {release}; there is '
                              f'{", ".join(trees)}')
        return trees[tree]

    # Where things are.

    def sdist(self, pin: Release) -> pathlib.Path:
        return self.root / '.cache' / 'sdists' / pin.sdist

    def base(self, tree: str, release: str) -> pathlib.Path:
        return self.root / '.trees' / release / 'base' / tree

    def work(self, tree: str, release: str) -> pathlib.Path:
        return self.root / '.trees' / release / tree

    def stored(self, tree: str, path: str) -> pathlib.Path:
        """Where a new file of the tree is kept."""
        return self.root / tree / path

    def hooks(self, patch: Patch, release: str) -> tuple[pathlib.Path, str]:
        """The mail to use for a release, and the release it was made on."""
        folder = self.root / 'patches' / patch.tree
        own = folder / release / f'{patch.name}.patch'
        if release != self.default and own.exists():
            return own, release
        return folder / f'{patch.name}.patch', self.default

    def sources(self, tree: str, release: str) -> list[str]:
        """List the releases whose files applying the patches to one reads.

        A hook made on another release is merged on that release's file.
        """
        made_on = {self.hooks(patch, release)[1]
                   for patch in self.patches.get(tree, ())}
        return [release, *sorted(made_on - {release})]

    def mail(self, patch: Patch, release: str) -> mail.Mail:
        """The patch's mail for a release.

        :raises SeriesError: missing, or not a git mail
        """
        file, _ = self.hooks(patch, release)
        try:
            return mail.parse(file.read_bytes())
        except FileNotFoundError:
            raise SeriesError(f'{self.short(file)} is missing, but '
                              f'series.toml lists it')
        except (mail.MailError, diff.DiffError) as exc:
            raise SeriesError(f'{self.short(file)}: {exc}')

    def new_file(self, patch: Patch, path: str) -> File:
        """A file that the patch adds.

        :raises SeriesError: it is listed but not there
        """
        file = self.stored(patch.tree, path)
        try:
            return File(file.read_bytes(), bool(file.stat().st_mode & 0o100))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise SeriesError(f'{self.short(file)} is missing, but '
                              f'series.toml lists it under {patch.name}')

    def short(self, path: pathlib.Path) -> str:
        """A path as one would type it at the top of the checkout."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)

    def digest(self, tree: str, release: str) -> str:
        """A hash of all that applying the tree's patches depends on."""
        total = hashlib.sha256()

        def add(*parts: bytes) -> None:
            for part in parts:
                total.update(b'%d:' % len(part) + part)

        for patch in self.patches[tree]:
            file, _ = self.hooks(patch, release)
            add(patch.name.encode(), file.read_bytes())
            for path in patch.files:
                new = self.new_file(patch, path)
                add(path.encode(), b'x' if new.executable else b'', new.data)
        return total.hexdigest()
