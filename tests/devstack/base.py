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
"""A node that devstack.sh stacks: real trees, the real tool, real files."""

import atexit
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import fixtures
import testtools

from blockpath import paths
from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import model
from blockpath.series import plan

HERE = pathlib.Path(__file__).resolve().parent
PLUGIN = paths.ROOT / 'devstack'
SAMPLES = PLUGIN / 'samples'
SERIES = model.Series(paths.ROOT)
#: What of the plugin's checkout its tool needs.
CHECKOUT = ('blockpath', 'patches', 'nova', 'cinder', 'os-brick', 'devstack',
            'constraints.txt', 'requirements.txt')
WHO = {f'GIT_{role}_{key}': value for role in ('AUTHOR', 'COMMITTER')
       for key, value in (('NAME', 'Ursula Upstream'),
                          ('EMAIL', 'ursula@example.org'))}


@functools.cache
def upstream(whole: bool) -> pathlib.Path:
    """A folder of repositories, as upstream's: the releases, as master.

    Their branch stable/2026.2 is the same, and so is the tag that is their
    version. Made once for all tests of a process.

    :param whole: else of each tree only what the series changes, so that
        a clone takes no time
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix='blockpath-upstream-'))
    # It outlives each test.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for tree in SERIES.trees():
        fetch.fetch(SERIES, tree, SERIES.default)
        release = SERIES.base(tree, SERIES.default)
        if whole:
            shutil.copytree(release, folder / tree, symlinks=True)
        else:
            copy_hooked(tree, SERIES.default, folder / tree)
        repository = git.Git(folder / tree)
        repository.run('init', '--quiet', '--initial-branch', 'master')
        commit(folder / tree, 'Release')
        repository.run('branch', f'stable/{SERIES.default}')
        repository.run('tag', SERIES.pin(tree, SERIES.default).version)
    return folder


def copy_hooked(tree: str, release: str, folder: pathlib.Path) -> None:
    [before, *_] = plan.Planner(SERIES, tree, release).prefixes()
    hooked = [path for path, file in before.items() if file is not None]
    for path in [*hooked, f'{model.PACKAGES[tree]}/__init__.py']:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SERIES.base(tree, release) / path, folder / path)


def commit(folder: pathlib.Path, subject: str) -> str:
    repository = git.Git(folder)
    repository.run('add', '--all', '--force')
    repository.run('commit', '--quiet', '--no-verify', '-m', subject, env=WHO)
    return repository.commit_of('HEAD')


@functools.cache
def tool() -> pathlib.Path:
    """The plugin's state with the venv that the plugin itself made in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='blockpath-tool-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(
        ['bash', '-c', 'die() { echo "$*" >&2; exit 1; }\n'
         f'BLOCKPATH_DIR={paths.ROOT} BLOCKPATH_STATE={folder}\n'
         f'source {PLUGIN}/lib/tool.sh; install_blockpath_tool'],
        check=True, capture_output=True)
    return folder


class Node(fixtures.Fixture):
    """A machine's folders, and the scripts that one runs on it."""

    def __init__(self, sample: str, whole: bool,
                 settings: dict[str, str]) -> None:
        super().__init__()
        self.sample = sample
        self.whole = whole
        self.settings = settings
        self.plugin = PLUGIN

    def _setUp(self) -> None:
        self.top = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.dest = self.top / 'stack'
        self.etc = self.top / 'etc'
        self.calls_file = self.top / 'calls'
        self.state = self.dest / 'data' / 'blockpath'
        self.upstream = upstream(self.whole)
        self.calls_file.touch()
        self.state.parent.mkdir(parents=True)
        shutil.copytree(tool(), self.state, symlinks=True)
        self._install_os_brick()
        self.write_conf()

    def _install_os_brick(self) -> None:
        """As pip does, into devstack's venv, where no LIBS_FROM_GIT asks."""
        venv = self.dest / 'data' / 'venv'
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv],
                       check=True)
        [self.site] = venv.glob('lib/python3*/site-packages')
        shutil.copytree(
            SERIES.base('os-brick', SERIES.default) / 'os_brick',
            self.site / 'os_brick')

    def write_conf(self) -> None:
        """local.conf: the sample, and what the test sets beside it."""
        extra = ''.join(f'{key}={value}\n'
                        for key, value in self.settings.items())
        text = (SAMPLES / self.sample).read_text()
        (self.top / 'local.conf').write_text(text + extra)

    def run(self, script: str, *prefix: str, ok: bool = True,
            **env: str) -> str:
        """stack, unstack or clean; returns what it said."""
        done = subprocess.run(
            [*prefix, 'bash', HERE / 'devstack.sh', script],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, cwd=self.top,
            env={'PATH': os.environ['PATH'], 'HOME': str(self.top),
                 'LOCAL_CONF': str(self.top / 'local.conf'),
                 'PLUGIN': str(self.plugin), 'DEST': str(self.dest),
                 'UPSTREAM': str(self.upstream), 'ETC': str(self.etc),
                 'CALLS': str(self.calls_file), 'DISTRO': 'bookworm',
                 'HARNESS_PYTHON': sys.executable} | env)
        if ok != (done.returncode == 0):
            raise AssertionError(f'{script} ended with {done.returncode}:\n'
                                 f'{done.stdout}')
        return done.stdout

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def tree(self, name: str) -> git.Git:
        return git.Git(self.dest / name)

    def notes(self, name: str) -> list[str]:
        file = self.state / name
        return file.read_text().splitlines() if file.exists() else []

    def own_upstream(self) -> pathlib.Path:
        """Upstream's repositories, to commit to."""
        self.upstream = self.top / 'upstream'
        self.upstream.mkdir()
        for tree in SERIES.trees():
            git.Git(self.top).run('clone', '--quiet',
                                  str(upstream(self.whole) / tree),
                                  str(self.upstream / tree))
        return self.upstream

    def add_stable_branch(self, release: str) -> None:
        """Add another release's branch to upstream's repositories."""
        folder = self.own_upstream()
        for tree in SERIES.trees():
            fetch.fetch(SERIES, tree, release)
            repository = git.Git(folder / tree)
            repository.run('switch', '--quiet', '--orphan',
                           f'stable/{release}')
            copy_hooked(tree, release, folder / tree)
            commit(folder / tree, 'Release')

    def own_checkout(self, fetched: bool = True) -> pathlib.Path:
        """A copy of blockpath's checkout, to edit.

        :param fetched: else it has no tree, but what was downloaded
        """
        checkout = self.dest / 'blockpath'
        for name in CHECKOUT:
            source = paths.ROOT / name
            if source.is_dir():
                shutil.copytree(source, checkout / name)
            else:
                shutil.copy(source, checkout / name)
        shared = '.trees' if fetched else '.cache/sdists'
        (checkout / shared).parent.mkdir(exist_ok=True)
        (checkout / shared).symlink_to(paths.ROOT / shared)
        self.plugin = checkout / 'devstack'
        return checkout


class TestCase(testtools.TestCase):

    #: Whether trees are whole, so that services can be imported from them.
    whole = False

    def node(self, sample: str = 'all-in-one.conf',
             **settings: str) -> Node:
        node: Node = self.useFixture(Node(sample, self.whole, settings))
        return node
