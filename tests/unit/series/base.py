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
"""A small checkout with a real sdist, real git, and nothing of the host's."""

from collections.abc import Mapping
import hashlib
import io
import pathlib
import tarfile

import fixtures
import testtools

from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import model
from blockpath.series import refresh
from blockpath.series import trees

RELEASE = '2026.2'
#: Two functions alike but for their names: their bodies are one context.
DRIVER = '''\
import os


def attach(volume):
    connect(volume)
    return True


def swap(volume):
    connect(volume)
    return True


def detach(volume):
    disconnect(volume)
'''
PYPROJECT = '''\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "nova"
version = "34.0.0"

[tool.setuptools]
packages = ["nova"]
'''
FILES = {
    'PKG-INFO': 'Metadata-Version: 2.1\nName: nova\nVersion: 34.0.0\n',
    'pyproject.toml': PYPROJECT,
    '.gitignore': '*.cfg\n',
    'setup.cfg': '[flake8]\n',
    'nova/__init__.py': '',
    'nova/driver.py': DRIVER,
    'nova/conf.py': 'A = 1\nB = 2\n',
    'nova/tests/__init__.py': '',
    'nova/tests/test_driver.py': 'import nova\n',
    'releasenotes/notes/old.yaml': 'fixes: []\n',
}
TOML = '''\
# The series of a test.
default = "2026.2"

[releases."2026.2".nova]
project = "nova"
version = "34.0.0"
sha256 = "{sha256}"
'''
WHY = '''{subject}

Guests could not be moved before, because nobody had thought of it.

Implements: blueprint moving-guests
'''


def sdist(files: dict[str, str], top: str = 'nova-34.0.0') -> bytes:
    """A source distribution as the package index has it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w:gz') as archive:
        for path, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(f'{top}/{path}')
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder, less git's own."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob('*'))
            if path.is_file() and '.git' not in path.parts}


class TestCase(testtools.TestCase):
    """Isolated from the user's git, pip and home."""

    def setUp(self) -> None:
        super().setUp()
        self.temp = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.useFixture(fixtures.NestedTempfile())
        home = self.temp / 'home'
        home.mkdir()
        for name, value in {
                'HOME': str(home), 'XDG_CONFIG_HOME': str(home),
                'GIT_CONFIG_NOSYSTEM': '1', 'GIT_CONFIG_GLOBAL': None,
                'GIT_AUTHOR_NAME': 'Ann Author',
                'GIT_AUTHOR_EMAIL': 'ann@example.org',
                'GIT_COMMITTER_NAME': 'Carl Committer',
                'GIT_COMMITTER_EMAIL': 'carl@example.org',
                'PIP_CONFIG_FILE': '/dev/null'}.items():
            self.useFixture(fixtures.EnvironmentVariable(name, value))

    def assert_says(self, exc: type[Exception], words: str, call, *args,
                    **kwargs):
        """The call fails with one line that holds these words."""
        error = self.assertRaises(exc, call, *args, **kwargs)
        self.assertIn(words, error.message)
        self.assertNotIn('\n', error.message)
        return error


class CheckoutCase(TestCase):
    """With a checkout whose release is fetched and tree is made."""

    files = FILES

    def setUp(self) -> None:
        super().setUp()
        self.root = self.temp / 'checkout'
        (self.root / 'patches').mkdir(parents=True)
        data = sdist(self.files)
        self.write_toml(TOML.format(sha256=hashlib.sha256(data).hexdigest()))
        archive = self.series.sdist(self.series.pin('nova', RELEASE))
        archive.parent.mkdir(parents=True)
        archive.write_bytes(data)
        fetch.fetch(self.series, 'nova', RELEASE)
        trees.apply(self.series, 'nova', RELEASE)

    @property
    def series(self) -> model.Series:
        """The series as it stands on disk now."""
        return model.Series(self.root)

    @property
    def tree(self) -> pathlib.Path:
        return self.root / '.trees' / RELEASE / 'nova'

    @property
    def base(self) -> pathlib.Path:
        return self.root / '.trees' / RELEASE / 'base' / 'nova'

    def write_toml(self, text: str) -> None:
        (self.root / 'patches' / 'series.toml').write_text(text)

    def toml(self) -> str:
        return (self.root / 'patches' / 'series.toml').read_text()

    def add_release(self, name: str, version: str,
                    files: dict[str, str]) -> None:
        """List another release; its sdist is downloaded already."""
        data = sdist(files | {'PKG-INFO': FILES['PKG-INFO'].replace(
            '34.0.0', version)}, f'nova-{version}')
        self.write_toml(self.toml() + (
            f'\n[releases."{name}".nova]\nversion = "{version}"\n'
            f'sha256 = "{hashlib.sha256(data).hexdigest()}"\n'))
        self.series.sdist(self.series.pin('nova', name)).write_bytes(data)

    def commit(self, subject: str, edits: Mapping[str, str | None],
               message: str = WHY, folder: pathlib.Path | None = None) -> str:
        """Commit whole files; None removes one. Returns the id."""
        folder = folder or self.tree
        repository = git.Git(folder)
        for path, text in edits.items():
            file = folder / path
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        repository.run('add', '--all', '--force', '--', *edits)
        repository.run('commit', '--quiet', '--allow-empty', '-m',
                       message.format(subject=subject))
        return repository.commit_of('HEAD')

    def autosquash(self) -> None:
        """Melt commits called fixup! into those that they mend."""
        git.Git(self.tree).run('rebase', '--quiet', '--autosquash',
                               '--interactive', 'base',
                               env={'GIT_SEQUENCE_EDITOR': 'true'})

    def two_patches(self) -> None:
        """A series of two, the second editing what the first adds."""
        self.commit('libvirt: Move guests', {
            'nova/driver.py': DRIVER.replace(
                '    disconnect(volume)', '    forget(volume)'),
            'nova/moving.py': 'def forget(volume):\n    pass\n',
            'nova/tests/test_moving.py': 'import nova.moving\n',
            'releasenotes/notes/moving.yaml': 'features: []\n'})
        self.commit('libvirt: Move disks too', {
            'nova/driver.py': DRIVER.replace(
                '    disconnect(volume)', '    forget(volume)').replace(
                'import os\n', 'import os\nimport sys\n'),
            'nova/moving.py': 'def forget(volume):\n    del volume\n',
            'nova/disks.py': '#!/usr/bin/env python3\n',
            'releasenotes/notes/disks.yaml': 'features: []\n'})
        refresh.refresh(self.series, 'nova')

    def clone_upstream(self) -> pathlib.Path:
        """A repository with the release, as a clone of upstream is one."""
        folder = self.temp / 'clone'
        folder.mkdir()
        git.Git(folder).run('init', '--quiet')
        self.commit('Upstream', self.files, folder=folder)
        return folder

    def unpack(self) -> pathlib.Path:
        folder = self.temp / 'unpacked'
        for path, text in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return folder

    def install(self) -> pathlib.Path:
        """A site-packages folder with the package and another one."""
        folder = self.temp / 'site-packages'
        for path, text in self.files.items():
            if path.startswith('nova/'):
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        (folder / 'six.py').write_text('')
        return folder
