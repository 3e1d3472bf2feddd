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
"""git, called so that nobody's configuration changes what it answers."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import subprocess

from blockpath import errors

#: A user's diff.noprefix or core.autocrlf must not end in a patch.
ISOLATED = {'GIT_CONFIG_GLOBAL': os.devnull, 'GIT_CONFIG_NOSYSTEM': '1',
            'GIT_TERMINAL_PROMPT': '0', 'LC_ALL': 'C'}
#: Set while a git hook runs; they would point every call at its repository.
_INHERITED = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE', 'GIT_PREFIX',
              'GIT_OBJECT_DIRECTORY', 'GIT_COMMON_DIR')


class GitError(errors.BlockpathError):
    """git failed; the message holds its first line of complaint."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the work tree is whole again.

    git inherits the mask, so the terminal's signal does not stop it either.
    The mask is this thread's; what another thread is given, one that shows
    progress for instance, Python would still handle in this one, so the
    handlers only take note.
    """
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    noted: list[int] = []
    handlers = {number: signal.signal(
        number, lambda given, frame: noted.append(given))
        for number in signals}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for caught in noted:
            signal.raise_signal(caught)


class Git:
    """A repository, or a folder that is to become one."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def run(self, *args: str, data: bytes | None = None,
            env: dict[str, str] | None = None, isolated: bool = True,
            ok: tuple[int, ...] = (0,)) -> bytes:
        """Run one git command and return what it prints.

        :param data: its standard input
        :param isolated: False lets the user's own configuration count
        :param ok: exit codes that are no error
        :raises GitError: any other exit code
        """
        done = self._start(args, data, env, isolated)
        if done.returncode not in ok:
            raise GitError(f'git {args[0]} in {self.folder}: '
                           f'{_complaint(done.stderr)}')
        return done.stdout

    def text(self, *args: str, isolated: bool = True) -> str:
        return self.run(*args, isolated=isolated).decode(
            'utf-8', 'surrogateescape').strip('\n')

    def succeeds(self, *args: str) -> bool:
        return self._start(args, None, None, True).returncode == 0

    def _start(self, args: tuple[str, ...], data: bytes | None,
               env: dict[str, str] | None, isolated: bool
               ) -> subprocess.CompletedProcess[bytes]:
        full = {key: value for key, value in os.environ.items()
                if key not in _INHERITED}
        full |= (ISOLATED if isolated else {'LC_ALL': 'C'}) | (env or {})
        try:
            return subprocess.run(
                ['git', '-C', str(self.folder), '-c', 'core.quotePath=false',
                 '-c', 'core.autocrlf=false', '-c', 'core.hooksPath=/dev/null',
                 '-c', 'gc.auto=0', *args],
                input=data if data is not None else b'', env=full,
                capture_output=True)
        except FileNotFoundError:
            raise GitError('git is not installed; install the git package')

    def is_repository(self) -> bool:
        """Is this folder the top of a repository's work tree?"""
        if not (self.folder / '.git').exists():
            return False
        top = self.text('rev-parse', '--show-toplevel')
        return pathlib.Path(top).resolve() == self.folder.resolve()

    def git_dir(self) -> pathlib.Path:
        return (self.folder / self.text('rev-parse', '--git-dir')).resolve()

    def commit_of(self, name: str) -> str:
        return self.text('rev-parse', '--verify', '--quiet',
                         f'{name}^{{commit}}')

    def has(self, name: str) -> bool:
        return self.succeeds('rev-parse', '--verify', '--quiet',
                             f'{name}^{{commit}}')

    def commits(self, base: str, tip: str) -> list[str]:
        """The commits after ``base`` up to ``tip``, oldest first."""
        return self.text('rev-list', '--reverse', '--topo-order',
                         f'{base}..{tip}').split()

    def changed(self) -> list[str]:
        """Tracked files with changes that are not committed."""
        listing = self.run('status', '--porcelain', '-z', '--no-renames',
                           '--untracked-files=no')
        return [entry[3:] for entry in
                listing.decode('utf-8', 'surrogateescape').split('\0')
                if entry]


def _complaint(stderr: bytes) -> str:
    lines = [line for line in stderr.decode('utf-8', 'replace').splitlines()
             if line.strip() and not line.startswith(('hint:', 'warning:'))]
    return lines[0] if lines else 'failed without a word'
