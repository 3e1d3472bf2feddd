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
"""A user-mode Linux kernel for the lab's hosts.

It comes from Debian and is unpacked in a cache, never installed. Whether a
kernel runs depends on the processor and on what the machine forbids, so each
candidate boots once before it is used.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from typing import Any
from typing import IO

from blockpath import errors

#: Debian's suites, in the order in which their kernels are tried.
SUITES = ('sid', 'forky', 'trixie', 'bookworm')
PACKAGE = 'user-mode-linux'
#: Hosts need these, as modules or built into the kernel.
MODULES = (
    'overlay', 'iscsi_tcp', 'sd_mod', 'sg', 'dm-multipath', 'dm-round-robin',
    'dm-service-time', 'dm-crypt', 'dm-thin-pool', 'dm-snapshot',
    'target_core_mod', 'target_core_iblock', 'target_core_file',
    'iscsi_target_mod', 'nbd', 'veth', 'bridge', 'tun', 'configfs',
    'nf_tables')
#: A trial takes 1 s, and 8 s at a load of ten for each processor.
TRIAL_S = 20.0
BUILD_OPTIONS = pathlib.Path(__file__).with_name('kernel-options.txt')

MARKER = 'kernel.json'
#: Names of the folders of candidates, one of them cached, begin with this.
PREFIX = 'uml-'
#: Debian's packages of programs, where the names differ.
_PACKAGES = {'apt-get': 'apt', 'busybox': 'busybox-static', 'depmod': 'kmod',
             'dpkg-deb': 'dpkg', 'gcc': 'gcc libc6-dev',
             'setpriv': 'util-linux', 'xz': 'xz-utils'}

Say = Callable[[str], None]


class KernelError(errors.BlockpathError):
    """No user-mode Linux kernel could be fetched or built that runs here."""


class _Unfit(Exception):
    """A candidate does not serve; the next one may."""


class _Absent(_Unfit):
    """A suite does not have the package."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A user-mode Linux kernel.

    :ivar binary: runs on this machine as it is
    :ivar release: as ``uname -r`` prints it
    :ivar modules: folder ``.../modules/<release>``
    """

    binary: pathlib.Path
    release: str
    modules: pathlib.Path


def prepare(cache: pathlib.Path, say: Say) -> Kernel:
    """Return a user-mode Linux kernel that runs on this machine.

    The first call fetches or builds it; later calls find it in the cache.

    :param cache: folder for the kernel, some 200 MB; a build needs 2.5 GB
    :param say: called with a line before each step that takes seconds
    :raises KernelError: none can be fetched or built, or none runs here
    """
    cache = cache.resolve()
    with _disk_errors(cache):
        kernel = _cached(cache)
        if kernel is None:
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(cache, say):
                kernel = _cached(cache) or _choose(cache, say)
        return kernel


def discard(cache: pathlib.Path) -> None:
    """Remove the cached kernel: the next ``prepare()`` tries all again.

    A kernel that booted on one machine may not boot on another, with another
    processor. No host may be running on it.

    :raises KernelError: the cache cannot be changed
    """
    with _disk_errors(cache):
        if cache.is_dir():
            with _lock(cache, lambda line: None):
                _clear(cache)


@contextlib.contextmanager
def _disk_errors(cache: pathlib.Path) -> Iterator[None]:
    """Report a full disk, or a folder of another user, in one line."""
    try:
        yield
    except OSError as error:
        raise KernelError(f'the kernel cache {cache} cannot be used: {error}'
                          ) from error


@contextlib.contextmanager
def _lock(cache: pathlib.Path, say: Say) -> Iterator[None]:
    with open(cache / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('kernel: waiting for another process that prepares it')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(cache: pathlib.Path) -> Kernel | None:
    """Return the kernel that the marker names, unless it has changed."""
    try:
        marker = json.loads((cache / MARKER).read_text())
        binary = pathlib.Path(marker['binary'])
        # The binary names its C library by an absolute path, so a cache
        # that was moved or copied is of no use.
        if (cache in binary.parents and
                _sha256(binary) == marker['sha256']):
            return Kernel(binary, marker['release'],
                          pathlib.Path(marker['modules']))
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return None


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _clear(cache: pathlib.Path) -> None:
    """Remove the cached kernel, and candidates whose process was killed."""
    (cache / MARKER).unlink(missing_ok=True)
    for folder in cache.glob(f'{PREFIX}*'):
        shutil.rmtree(folder)


def _choose(cache: pathlib.Path, say: Say) -> Kernel:
    """Cache and return the first candidate that serves."""
    _clear(cache)
    reasons = []
    for suite in SUITES:
        try:
            return _attempt(_fetch, cache, suite, say)
        except _Unfit as error:
            say(f'kernel: Debian {suite} has none that serves: {error}')
            reasons.append(f'{suite}: {error}')
    reason = 'no suite has the source'
    for suite in SUITES:
        try:
            return _attempt(_build, cache, suite, say)
        except _Absent:
            continue
        except (_Unfit, KernelError) as error:
            reason = str(error)
            break
    raise KernelError('no user-mode Linux of Debian\'s serves '
                      f'({"; ".join(reasons)}), nor does a build: {reason}')


def _attempt(make: Callable[[pathlib.Path, str, Say], tuple[Kernel, str]],
             cache: pathlib.Path, suite: str, say: Say) -> Kernel:
    """Make a candidate, try it, and cache it.

    :param make: makes it in a folder; returns it and its version
    :raises _Unfit: it does not serve
    :raises KernelError: no candidate can serve on this machine
    """
    # Its path is part of it, so it is made where it stays. The marker, last
    # and in one step, publishes it.
    folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
    try:
        folder.chmod(0o755)
        kernel, version = make(folder, suite, say)
        missing = _missing(kernel.modules)
        if missing:
            raise _Unfit(f'{version} lacks {", ".join(missing)}')
        say('kernel: trying it')
        _try(kernel, cache / 'trial.log')
        marker = folder / MARKER
        marker.write_text(json.dumps(
            {'version': version, 'suite': suite, 'release': kernel.release,
             'binary': str(kernel.binary), 'sha256': _sha256(kernel.binary),
             'modules': str(kernel.modules)}, indent=1) + '\n')
        marker.rename(cache / MARKER)
        return kernel
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _missing(modules: pathlib.Path) -> list[str]:
    """Name the modules that hosts need and that are not there."""
    lines = [line for name in ('modules.dep', 'modules.builtin')
             for line in (modules / name).read_text().splitlines()]
    there = {pathlib.Path(line.partition(':')[0]).name.partition('.')[0]
             .replace('-', '_') for line in lines}
    return [name for name in MODULES if name.replace('-', '_') not in there]


# Processes.

def _find(*names: str) -> list[str]:
    """Return the paths of programs.

    :raises KernelError: some are missing; names their packages
    """
    search = os.pathsep.join((os.environ.get('PATH', os.defpath),
                              '/usr/sbin', '/sbin'))
    paths = {name: shutil.which(name, path=search) for name in names}
    missing = [name for name, path in paths.items() if not path]
    if missing:
        packages = sorted({_PACKAGES.get(name, name) for name in missing})
        raise KernelError(f'{", ".join(missing)} not found: apt-get install '
                          f'{" ".join(packages)}')
    return [path for path in paths.values() if path]


@contextlib.contextmanager
def _started(args: Sequence[str | os.PathLike[str]], **options: Any
             ) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and kill all its processes when the block ends.

    Ctrl-C reaches this process only, as the program has its own session. If
    this process is killed, so is the program.
    """
    _find('setpriv')
    process = None
    # A Ctrl-C before Popen() returns would leave the program running.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', *args], text=True,
            errors='replace', stdin=subprocess.DEVNULL,
            start_new_session=True, **options)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _run(*args: str | os.PathLike[str]) -> str:
    """Return the output of a program.

    :raises KernelError: it fails; quotes its last line
    """
    _find(str(args[0]))
    with _started(args, env={**os.environ, 'LC_ALL': 'C'},
                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode:
        raise KernelError(f'{args[0]} failed: {_last_line(err or out)}')
    return out


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else 'it printed nothing'


# Debian's packages.

_APT_CONF = '''\
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{sources}";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Default-Release "";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
'''
#: apt's words when the mirror answers, but lacks the suite or the package.
_NOT_THERE = re.compile(
    r'404 |File not found|NO_PUBKEY|is not signed|is expired|'
    r'Unable to locate package')


class _Apt:
    """A suite of Debian, through apt with all its state in one folder.

    It uses the machine's mirror, keys and proxies, and leaves the machine's
    own package lists and cache alone.
    """

    def __init__(self, folder: pathlib.Path, suite: str) -> None:
        self._folder = folder
        self._suite = suite
        self._conf = folder / 'apt.conf'
        folder.mkdir()
        extension, text = _source_list(suite)
        sources = folder / f'debian{extension}'
        sources.write_text(text)
        self._conf.write_text(_APT_CONF.format(folder=folder,
                                               sources=sources))

    def update(self) -> None:
        """:raises _Absent: the mirror does not have the suite"""
        self._get('update')

    def download(self, *packages: str) -> list[pathlib.Path]:
        """Return the packages' files.

        :raises _Absent: the suite does not have them
        """
        self._get('download', *packages)
        return [next(self._folder.glob(f'{package}_*.deb'))
                for package in packages]

    def _get(self, *args: str) -> None:
        with _started(('apt-get', '-q', '-c', self._conf, *args),
                      cwd=self._folder, env={**os.environ, 'LC_ALL': 'C'},
                      stdout=subprocess.PIPE,
                      stderr=subprocess.STDOUT) as process:
            text, _ = process.communicate()
        if process.returncode == 0:
            return
        # The first failure is the cause, with the reason in the next line.
        cause = (re.search(r'^Err:.*\n\s+(\S.*)', text, re.M) or
                 re.search(r'^E: (.*)', text, re.M))
        reason = ' '.join((cause[1] if cause else _last_line(text)).split())
        if _NOT_THERE.search(text):
            raise _Absent(reason)
        raise KernelError(
            f'cannot download user-mode Linux from Debian {self._suite}: '
            f'{reason}; check this machine\'s network and "apt-get update"')


def _source_list(suite: str) -> tuple[str, str]:
    """Return apt's source of Debian on this machine, with another suite.

    :returns: the file's extension, on which its format depends, and its text
    """
    path, number = _debian_entry()
    text = path.read_text()
    native = _run('dpkg', '--print-architecture').strip()
    if path.suffix == '.sources':
        text = re.sub('^#.*\n', '', text, flags=re.M)
        stanza = re.split(r'\n(?:[ \t]*\n)+', text.strip())[number - 1]
        # Lines that begin with a space continue a field.
        stanza = re.sub(
            r'^(Types|Suites|Components|Architectures|Languages|Targets):'
            r'.*\n(?:[ \t].*\n)*', '', stanza + '\n', flags=re.M | re.I)
        return path.suffix, (
            f'{stanza}Types: deb\nSuites: {suite}\nComponents: main\n'
            f'Architectures: {native}\nLanguages: none\nTargets: Packages\n')
    _, _, entry = text.splitlines()[number - 1].partition('deb')
    bracketed, uri = re.findall(r'^\s*(?:\[(.*?)\]\s*)?(\S+)', entry)[0]
    options = [option for option in bracketed.split()
               if not option.startswith(('arch', 'lang', 'target'))]
    options += [f'arch={native}', 'lang=none', 'target=Packages']
    return path.suffix, f'deb [{" ".join(options)}] {uri} {suite} main\n'


def _debian_entry() -> tuple[pathlib.Path, int]:
    """Find the entry for Debian in the configuration of apt.

    :returns: the file; the number of a stanza if it is a .sources file, of a
              line if not
    :raises KernelError: there is none
    """
    # Package lists name their origin. On a machine without them, the name of
    # the suite must do.
    names = (platform.freedesktop_os_release().get('VERSION_CODENAME'),
             'oldstable', 'stable', 'testing', 'unstable', 'sid')
    for query in (('Origin: Debian', 'Label: Debian'),
                  ('--no-release-info',)):
        for line in _run('apt-get', 'indextargets', '--format',
                         '$(RELEASE) $(COMPONENT) $(SOURCESENTRY)',
                         'Created-By: Packages', *query).splitlines():
            release, component, entry = line.split(' ', 2)
            if component == 'main' and release in names:
                path, _, number = entry.rpartition(':')
                return pathlib.Path(path), int(number)
    raise KernelError('apt on this machine has no mirror of Debian: add one '
                      'to /etc/apt/sources.list.d')


def _fetch(folder: pathlib.Path, suite: str, say: Say) -> tuple[Kernel, str]:
    """Unpack Debian's kernel and the C library that it needs."""
    _find('apt-get', 'dpkg-deb', 'patchelf', 'busybox')
    say(f'kernel: fetching user-mode Linux from Debian {suite}')
    apt = _Apt(folder / 'apt', suite)
    apt.update()
    debs = apt.download(PACKAGE, 'libc6')
    for deb in debs:
        _run('dpkg-deb', '-x', deb, folder)
    version = _run('dpkg-deb', '-f', debs[0], 'Version').strip()
    shutil.rmtree(folder / 'apt')
    binary = folder / 'usr' / 'bin' / 'linux.uml'
    loader = pathlib.Path(_run('patchelf', '--print-interpreter',
                               binary).strip()).name
    # Its other names are links.
    libc = next(path for path in folder.rglob(loader)
                if not path.is_symlink())
    _run('patchelf', '--set-interpreter', libc, '--set-rpath', libc.parent,
         binary)
    return _kernel(binary, folder / 'usr' / 'lib' / 'uml' / 'modules'), version


def _kernel(binary: pathlib.Path, modules: pathlib.Path) -> Kernel:
    release = next(modules.iterdir())
    return Kernel(binary, release.name, release)


# A build from source, if none of Debian's kernels serves.

def _build(folder: pathlib.Path, suite: str, say: Say) -> tuple[Kernel, str]:
    """Build the kernel from Debian's source.

    :raises KernelError: tools are missing, or it fails; names the log
    """
    _find('gcc', 'make', 'flex', 'bison', 'bc', 'xz', 'depmod')
    say(f'kernel: fetching the source of Linux from Debian {suite}')
    apt = _Apt(folder / 'apt', suite)
    apt.update()
    # It names the package of the current version, and is empty.
    deb, = apt.download('linux-source')
    deb, = apt.download(_run('dpkg-deb', '-f', deb, 'Depends').split()[0])
    version = _run('dpkg-deb', '-f', deb, 'Version').strip()
    _run('dpkg-deb', '-x', deb, folder / 'apt')
    _run('tar', '-C', folder / 'apt', '-xf',
         next(folder.glob('apt/usr/src/linux-source-*.tar.xz')))
    source = next(folder.glob('apt/linux-source-*'))
    log = folder.parent / 'build.log'
    say(f'kernel: building it, 10 to 30 minutes; the log is {log}')
    with open(log, 'w') as output:
        _make(source, output, 'alldefconfig')
        _check_options(source / '.config')
        _make(source, output, 'linux', 'modules')
        _make(source, output, 'modules_install', f'INSTALL_MOD_PATH={folder}')
    binary = folder / 'linux'
    shutil.copy(source / 'linux', binary)
    shutil.rmtree(folder / 'apt')
    return _kernel(binary, folder / 'lib' / 'modules'), version


def _make(source: pathlib.Path, output: IO[str], *args: str) -> None:
    with _started(
            ('make', '-C', source, 'ARCH=um',
             f'-j{len(os.sched_getaffinity(0))}', *args),
            stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, 'KCONFIG_ALLCONFIG': str(BUILD_OPTIONS)}
            ) as process:
        if process.wait():
            raise KernelError('cannot build user-mode Linux; the log is '
                              f'{output.name}')


def _check_options(config: pathlib.Path) -> None:
    """:raises KernelError: the source does not know some option"""
    wanted = [line for line in BUILD_OPTIONS.read_text().splitlines()
              if line.startswith('CONFIG_')]
    got = set(config.read_text().splitlines())
    missing = [line for line in wanted if line not in got]
    if missing:
        raise KernelError('cannot build user-mode Linux with '
                          f'{", ".join(missing)}')


# The trial.

_INIT = '''\
#!/bin/busybox sh
/bin/busybox uname -r >/booted
exec /bin/busybox poweroff -f
'''
#: The kernel's output when the machine forbids what each such kernel needs.
_FORBIDDEN = (
    (re.compile(r'failed to execute (.+): Permission denied'),
     '{} may not run: mount its file system with exec'),
    (re.compile(r'PROT_EXEC mmap in (.+?)\.\.\.(?!OK)'),
     '{} is mounted noexec, and user-mode Linux has its memory there: mount '
     'it with exec, or set TMPDIR to a tmpfs that is'),
    (re.compile(r'Checking if (.+?) is on tmpfs\.\.\..*\s*(?:Warning.*\s*)?'
                r'\Z'),
     'user-mode Linux cannot make the file of its memory in {}: make the '
     'folder writable, or set TMPDIR to a tmpfs'),
    (re.compile(r'mmap in (.+?)\.\.\.OK(?s:.*)Kernel mode signal 7'),
     '{} has no room for the memory of user-mode Linux: make some, or set '
     'TMPDIR to a larger tmpfs'),
    (re.compile('(check_ptrace)'),
     'this machine forbids ptrace and seccomp filters, and user-mode Linux '
     'needs either: allow them to the container (SYS_PTRACE), or lower '
     'kernel.yama.ptrace_scope'),
)


def _try(kernel: Kernel, console: pathlib.Path) -> None:
    """Boot a kernel that reports its release and powers off.

    :param console: file for its output
    :raises _Unfit: it does not
    :raises KernelError: this machine lets none boot
    """
    with tempfile.TemporaryDirectory(prefix='blockpath-') as name:
        root = pathlib.Path(name) / 'root'
        for folder in ('bin', 'dev', 'proc', 'sys'):
            (root / folder).mkdir(parents=True)
        busybox, = _find('busybox')
        shutil.copy(busybox, root / 'bin')
        (root / 'init').write_text(_INIT)
        (root / 'init').chmod(0o755)
        with open(console, 'w') as output, _started(
                (kernel.binary, 'mem=64M', 'rootfstype=hostfs',
                 f'rootflags={root}', 'rw', 'init=/init', 'seccomp=auto',
                 'con=null', 'con0=null,fd:1', f'uml_dir={name}/',
                 'umid=trial'),
                stdout=output, stderr=subprocess.STDOUT) as process:
            try:
                process.wait(TRIAL_S)
            except subprocess.TimeoutExpired:
                raise _Unfit(f'{kernel.release} did not boot and power off '
                             f'within {TRIAL_S:g} s')
        booted = root / 'booted'
        release = booted.read_text().strip() if booted.exists() else None
    if process.returncode == 0 and release == kernel.release:
        return
    text = console.read_text(errors='replace')
    for pattern, message in _FORBIDDEN:
        found = pattern.search(text)
        if found:
            raise KernelError(message.format(found[1]))
    panic = re.search(r'Kernel panic - not syncing: (.*)', text)
    raise _Unfit(f'{kernel.release} does not boot (exit code '
                 f'{process.returncode}): '
                 f'{panic[1] if panic else _last_line(text)}')
