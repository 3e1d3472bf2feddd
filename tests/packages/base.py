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
"""Real releases, and the series exported for the tools that build from it."""

import functools
import hashlib
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest

from blockpath import paths
from blockpath.series import export
from blockpath.series import git
from blockpath.series import model
from blockpath.series import trees

#: What pip downloads, once; the index is asked for these versions alone.
CACHE = paths.ROOT / '.cache' / 'packages'
SERIES = model.Series(paths.ROOT)
PINS = {tree: SERIES.pin(tree, SERIES.default) for tree in SERIES.trees()}


def run(*arguments: str | pathlib.Path, cwd: pathlib.Path | None = None,
        env: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)) -> str:
    """Run a command and return what it says, on both of its outputs.

    :raises AssertionError: another exit code than those, with its words
    """
    done = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env=env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    if done.returncode not in ok:
        raise AssertionError(f'{arguments[0]} ended with {done.returncode}:\n'
                             f'{done.stdout}')
    return done.stdout


def pip(*arguments: str | pathlib.Path) -> str:
    return run(sys.executable, '-m', 'pip', '--disable-pip-version-check',
               *arguments)


def wheels(*wanted: str) -> pathlib.Path:
    """The folder that holds wheels of these, ``name==version`` each."""
    key = hashlib.sha256(' '.join(sorted(wanted)).encode()).hexdigest()[:16]
    folder = CACHE / f'wheels-{key}'
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix='.partial-'
                                         ) as name:
            staged = pathlib.Path(name) / 'wheels'
            pip('download', '--quiet', '--no-deps', '--only-binary', ':all:',
                '--dest', staged, *wanted)
            staged.rename(folder)
    return folder


def make_venv(folder: pathlib.Path, *wanted: str) -> pathlib.Path:
    """A venv with these installed by pip; returns its site-packages.

    All that they import comes from the venv that runs this, where the pinned
    versions are; its editable trees are not among that.
    """
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    packages = folder / pathlib.Path(sysconfig.get_path('purelib')
                                     ).relative_to(sys.prefix)
    pip('--python', folder / 'bin/python', 'install', '--quiet', '--no-deps',
        '--no-index', '--no-compile', '--find-links', wheels(*wanted),
        *wanted)
    # Not before it: pip would take the editable trees for what is wanted.
    (packages / 'zz-dependencies.pth').write_text(
        f'{sysconfig.get_path("purelib")}\n')
    return packages


def releases() -> list[str]:
    return [f'{pin.project}=={pin.version}' for pin in PINS.values()]


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """The sha256 of every file below a folder, less bytecode and git's."""
    return {str(path.relative_to(folder)):
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*'))
            if path.is_file() and not {'__pycache__', '.git'} & {*path.parts}}


class PackagesTestCase(unittest.TestCase):
    """With an export of the series, and a folder to build in."""

    folder: pathlib.Path
    exported: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix='blockpath-')
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.exported = cls.folder / 'exported'
        export.export(SERIES, SERIES.trees(), SERIES.default,
                      ('kolla', 'numbered', 'quilt'), cls.exported, {})

    def scratch(self) -> pathlib.Path:
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder))

    @classmethod
    def unpacked(cls, tree: str) -> pathlib.Path:
        """The release as its sdist has it, and a git repository of that."""
        folder = cls.folder / 'unpacked' / tree
        repository = git.Git(folder)
        if folder.exists():
            repository.run('reset', '--quiet', '--hard')
            repository.run('clean', '--quiet', '-d', '-x', '--force')
            return folder
        shutil.copytree(SERIES.base(tree, SERIES.default), folder)
        repository.run('init', '--quiet')
        repository.run('add', '--all', '--force')
        who = {f'GIT_{role}_{key}': 'upstream' for key in ('NAME', 'EMAIL')
               for role in ('AUTHOR', 'COMMITTER')}
        repository.run('commit', '--quiet', '-m', 'upstream', env=who)
        return folder

    @staticmethod
    @functools.cache
    def patched(tree: str) -> dict[str, str]:
        """The sha256 of every file of the tree with the series applied."""
        repository = trees.open_tree(SERIES, tree, SERIES.default)
        tip = trees.build(SERIES, tree, SERIES.default, repository)
        with tempfile.TemporaryDirectory(prefix='blockpath-') as name:
            index = {'GIT_INDEX_FILE': f'{name}/index'}
            repository.run('read-tree', tip, env=index)
            repository.run('checkout-index', '--all', f'--prefix={name}/out/',
                           env=index)
            return snapshot(pathlib.Path(name) / 'out')

    def assert_same(self, wanted: dict[str, str],
                    found: dict[str, str]) -> None:
        """Name what differs; two trees in full would be no help."""
        self.assertEqual([], sorted(
            path for path in wanted.keys() | found.keys()
            if wanted.get(path) != found.get(path)))

    def assert_patched(self, packages: pathlib.Path) -> None:
        """Code in site-packages is byte for byte that of the trees."""
        for tree in SERIES.trees():
            package = model.PACKAGES[tree]
            tests = f'{package}/tests/'
            wanted = {path: digest for path, digest
                      in self.patched(tree).items()
                      if path.startswith(f'{package}/') and
                      not path.startswith(tests)}
            found = {f'{package}/{path}': digest for path, digest
                     in snapshot(packages / package).items()}
            code = {path: digest for path, digest in found.items()
                    if not path.startswith(tests)}
            # A wheel leaves out what is no part of the package.
            self.assert_same({path: wanted.get(path, '') for path in code},
                             code)
            new = {path for patch in SERIES.patches[tree]
                   for path in patch.files
                   if path in wanted and not path.startswith(tests)}
            self.assertTrue(new)
            self.assertLessEqual(new, code.keys())


def new_modules(tree: str) -> list[str]:
    """The modules that the series adds to a tree, tests aside."""
    package = model.PACKAGES[tree]
    return [path.removesuffix('.py').removesuffix('/__init__').replace(
        '/', '.') for patch in SERIES.patches[tree] for path in patch.files
        if path.startswith(f'{package}/') and path.endswith('.py') and
        not path.startswith(f'{package}/tests/')]
