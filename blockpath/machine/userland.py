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
"""Debian systems for the lab's hosts, each in a folder of the cache.

A host does not depend on the programs that the machine has or lacks: its
root is made of packages of one Debian suite, and nothing of them is installed
on the machine.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import configparser
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

from blockpath.machine import errors
from blockpath import paths

#: Holds the systems.
CACHE = paths.CACHE / 'userland'
Say = Callable[[str], None]

#: Of every host.
_PACKAGES = (
    'systemd-sysv', 'udev', 'dbus', 'openssh-server', 'iproute2', 'kmod',
    'procps', 'open-iscsi', 'multipath-tools', 'lvm2',
    'thin-provisioning-tools', 'cryptsetup-bin', 'libvirt-daemon-system',
    'libvirt-daemon-driver-qemu', 'libvirt-clients', 'qemu-system-x86',
    'qemu-utils', 'qemu-block-extra', 'libiscsi-bin', 'libnbd-bin',
    'python3-venv', 'python3-rbd', 'python3-rados', 'python3-libvirt',
    'python3-libnbd', 'targetcli-fb', 'ceph-common', 'sudo', 'tgt',
    'lsscsi', 'ca-certificates', 'sg3-utils', 'genisoimage', 'dosfstools')
#: Not needed by a host that lives for minutes: they cost time at its start.
_MASKED = (
    'apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer',
    'e2scrub_all.timer', 'e2scrub_reap.service', 'fstrim.timer',
    'logrotate.timer', 'man-db.timer', 'systemd-tmpfiles-clean.timer',
    'getty@.service', 'serial-getty@.service', 'console-getty.service',
    'systemd-networkd.service', 'systemd-networkd.socket',
    'systemd-logind.service', 'systemd-timesyncd.service',
    'systemd-binfmt.service', 'proc-sys-fs-binfmt_misc.automount',
    'systemd-pstore.service', 'polkit.service', 'ldconfig.service',
    'systemd-journal-catalog-update.service', 'sys-kernel-debug.mount',
    'sys-kernel-tracing.mount', 'modprobe@drm.service',
    'modprobe@efi_pstore.service', 'modprobe@fuse.service',
    'dev-hugepages.mount', 'dev-mqueue.mount', 'libvirt-guests.service',
    'open-iscsi.service', 'virtlockd.socket', 'virtlockd-admin.socket',
    'tgt.service')
#: With a watch, udev opens a device that was closed after a write. A host
#: takes most of a second for that, multipath -f refuses the map meanwhile,
#: and os-brick waits for a minute before it tries again.
_UDEV_RULE = 'ACTION!="remove", SUBSYSTEM=="block", OPTIONS:="nowatch"\n'
#: Documentation is a third of what would be unpacked.
_LEFT_OUT = ('/usr/share/man/*', '/usr/share/doc/*', '/usr/share/locale/*',
             '/usr/share/info/*')
_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
_MARKER = '.blockpath.json'
_INIT = pathlib.Path(__file__).parent / 'files' / 'init.sh'
#: Where the host's kernel finds its first process.
INIT = '/sbin/lab-init'


@dataclasses.dataclass(frozen=True)
class Suite:
    """A Debian release.

    :ivar newer: a further suite, whose packages come first where it has any
    :ivar python: version of its python3, as ``3.13``
    """

    name: str
    python: str
    newer: str = ''


#: QEMU 10.0 and libvirt 11.3 in both.
SUITES = {suite.name: suite for suite in (
    Suite('bookworm', '3.11', newer='bookworm-backports'),
    Suite('trixie', '3.13'))}

#: Package -> the oldest version that serves. QEMU before 9.0 loses memory of
#: guests that it emulates when they are migrated, and the lab's are emulated.
_OLDEST = {'qemu-system-x86': (9, 0), 'libvirt-daemon-system': (10, 0)}


@dataclasses.dataclass(frozen=True)
class Userland:
    """A Debian system that hosts boot from.

    :ivar venv: a virtual environment with the services, for its Python
    """

    suite: Suite
    root: pathlib.Path
    venv: pathlib.Path


def mirror() -> str:
    """Return the address of Debian's archive that this machine uses.

    :raises LabError: apt knows none
    """
    found = subprocess.run(
        ['apt-get', 'indextargets', '--format', '$(ORIGIN) $(LABEL) $(SITE)',
         'Created-By: Packages'], capture_output=True, text=True)
    for line in found.stdout.splitlines():
        words = line.split()
        if words[:2] == ['Debian', 'Debian'] and words[2:]:
            return words[2]
    raise errors.LabError(
        'apt knows no mirror of Debian; add one to /etc/apt/sources.list.d '
        'and run: apt-get update')


def prepare(suite: Suite, cache: pathlib.Path,
            modules: pathlib.Path, say: Say) -> pathlib.Path:
    """Return the root of a Debian system; make it on the first call.

    :param cache: folder of the systems
    :param modules: folder of the modules of the kernel that will boot it
    :param say: is called with a line before each step that takes long
    :raises LabError: it cannot be made, naming the log, or its QEMU or
        libvirt is too old
    """
    made = {'suite': suite.name, 'modules': modules.name,
            'recipe': _digest(_PACKAGES, _MASKED, _LEFT_OUT, suite.newer,
                              _INIT.read_text(), _UDEV_RULE)}
    root = cache / suite.name
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f'{suite.name}.lock'):
        if _is_made(root, made):
            return root
        say(f'making a Debian {suite.name} for the hosts, a minute')
        staged = cache / f'{suite.name}.new'
        _remove(staged)
        _remove(root)
        try:
            _unpack(suite, staged, cache / f'{suite.name}.log')
            _check_versions(suite, staged)
            _customize(staged, modules)
            (staged / _MARKER).write_text(json.dumps(made))
            staged.rename(root)
        except BaseException:
            _remove(staged)
            raise
    return root


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _is_made(root: pathlib.Path, made: dict[str, str]) -> bool:
    try:
        return json.loads((root / _MARKER).read_text()) == made
    except (FileNotFoundError, ValueError):
        return False


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(folder: pathlib.Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _unpack(suite: Suite, root: pathlib.Path, log: pathlib.Path) -> None:
    address = mirror()
    sources = [f'deb [signed-by={_KEYRING}] {address} {name} main'
               for name in (suite.name, suite.newer) if name]
    command = ['mmdebstrap', '--mode=root', '--format=directory',
               '--variant=minbase', f'--include={",".join(_PACKAGES)}']
    if suite.newer:
        command.append(
            f'--aptopt=APT::Default-Release "{suite.newer}"')
    command += [f'--dpkgopt=path-exclude={pattern}' for pattern in _LEFT_OUT]
    _run([*command, suite.name, str(root), *sources], log,
         f'a Debian {suite.name} for the hosts cannot be made')


def _run(argv: Sequence[str], log: pathlib.Path, failure: str) -> None:
    with open(log, 'wb') as output:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output,
                              stderr=subprocess.STDOUT)
    if done.returncode:
        lines = [line.strip() for line in log.read_text(
            errors='replace').splitlines() if line.strip()]
        said = [line for line in lines if line.startswith('E:')] or lines
        raise errors.LabError(f'{failure}: {(said or [""])[0][:300]}; its '
                              f'log is {log}')


def _check_versions(suite: Suite, root: pathlib.Path) -> None:
    """:raises LabError: a package is too old, or is not there"""
    for package, oldest in _OLDEST.items():
        version = _version(root, package)
        found = re.match(r'(?:\d+:)?(\d+)\.(\d+)', version)
        if not found or tuple(map(int, found.groups())) < oldest:
            raise errors.LabError(
                f'the hosts need {package} {".".join(map(str, oldest))} or '
                f'newer; Debian {suite.name} has {version or "none"}')


def _version(root: pathlib.Path, package: str) -> str:
    """Return the version of a package of a userland, or '' for none."""
    return subprocess.run(
        ['dpkg-query', f'--admindir={root}/var/lib/dpkg', '--show',
         '--showformat=${Version}', package],
        capture_output=True, text=True).stdout


def _customize(root: pathlib.Path, modules: pathlib.Path) -> None:
    shutil.copytree(modules, root / 'lib' / 'modules' / modules.name,
                    copy_function=_link, symlinks=True)
    shutil.copy(_INIT, root / INIT.lstrip('/'))
    os.chmod(root / INIT.lstrip('/'), 0o755)
    units = root / 'etc' / 'systemd' / 'system'
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to('/dev/null')
    rules = root / 'etc' / 'udev' / 'rules.d'
    rules.mkdir(parents=True, exist_ok=True)
    (rules / '99-nowatch.rules').write_text(_UDEV_RULE)
    # Else systemd takes each start for the first after an upgrade.
    for folder in ('etc', 'var'):
        (root / folder / '.updated').touch()
    (root / 'etc' / 'machine-id').unlink(missing_ok=True)
    # Its network is the lab's; it would look for dnsmasq.
    (root / 'etc/libvirt/qemu/networks/autostart/default.xml').unlink(
        missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def environment(suite: Suite, cache: pathlib.Path, root: pathlib.Path,
                requirements: Sequence[pathlib.Path],
                packages: Sequence[str],
                folders: Sequence[pathlib.Path], say: Say) -> pathlib.Path:
    """Return a virtual environment for a suite's Python.

    .venv serves where it is of the same version; else one is made, by the
    suite's own Python on this machine's files.

    :param requirements: files of requirements
    :param packages: further requirements
    :param folders: source trees that it imports from, none of which is
        installed as well
    :raises LabError: it cannot be made; names the log
    """
    venv = venv_of(suite, cache)
    if venv == paths.VENV:
        return venv
    constraints = paths.ROOT / 'constraints.txt'
    trees = _distributions(folders)
    made = {'recipe': _digest(*(path.read_text() for path in
                                (constraints, *requirements)),
                              packages, [str(folder) for folder in folders],
                              trees)}
    with _locked(cache / f'{suite.name}.lock'):
        if _is_made(venv, made):
            return venv
        say(f'installing the services for Python {suite.python}')
        _remove(venv)
        log = cache / f'{suite.name}.venv.log'
        # libvirt's, librbd's and libnbd's bindings are Debian's own.
        _in_userland(root, ['/usr/bin/python3', '-m', 'venv', '--without-pip',
                            '--system-site-packages', str(venv)], log)
        listed = [word for path in requirements for word in ('-r', str(path))]
        # Nova requires os-brick: an installed one would hide the tree's.
        excludes = venv / 'excludes.txt'
        excludes.write_text(''.join(f'{name}\n' for name in trees))
        # A tenth of the time that pip takes.
        _in_userland(root, [str(paths.VENV / 'bin' / 'uv'), 'pip', 'install',
                            '--python', str(venv / 'bin' / 'python'),
                            '-c', str(constraints), '--excludes',
                            str(excludes), *listed, *packages], log)
        [site] = venv.glob('lib/python*/site-packages')
        for module in trees.values():
            if (site / module).exists():
                raise errors.LabError(
                    f'{site / module} hides {module} of the patched trees; '
                    f'the log of its installation is {log}')
        (site / 'blockpath-trees.pth').write_text(
            ''.join(f'{folder}\n' for folder in folders))
        _add_scripts(venv, folders)
        (venv / _MARKER).write_text(json.dumps(made))
    return venv


def _distributions(folders: Sequence[pathlib.Path]) -> dict[str, str]:
    """Map the names of source trees' distributions to their packages."""
    return {info.stem: (info / 'top_level.txt').read_text().strip()
            for folder in folders
            for info in sorted(folder.glob('*.egg-info'))}


def _add_scripts(venv: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """Make the commands that the source trees have, as pip would."""
    for folder in folders:
        for listed in folder.glob('*.egg-info/entry_points.txt'):
            found = configparser.ConfigParser(delimiters='=')
            found.read(listed)
            scripts = (found.items('console_scripts')
                       if found.has_section('console_scripts') else ())
            for name, place in scripts:
                module, function = place.split(':')
                script = venv / 'bin' / name
                script.write_text(
                    f'#!{venv}/bin/python\nimport sys\n\n'
                    f'import {module}\n\nsys.exit({module}.{function}())\n')
                script.chmod(0o755)


def venv_of(suite: Suite, cache: pathlib.Path) -> pathlib.Path:
    """Return where :func:`environment` makes, or finds, its environment."""
    if _is_debian(paths.VENV) and (
            paths.VENV / 'lib' / f'python{suite.python}').exists():
        return paths.VENV
    return cache / f'{suite.name}.venv'


def _is_debian(venv: pathlib.Path) -> bool:
    """Whether an environment's Python is where Debian has it."""
    try:
        settings = (venv / 'pyvenv.cfg').read_text().splitlines()
    except FileNotFoundError:
        return False
    return 'home = /usr/bin' in settings


def _in_userland(root: pathlib.Path, argv: Sequence[str],
                 log: pathlib.Path) -> None:
    """Run a program of a userland on this machine's files.

    Its /usr is laid over the machine's, which merged-/usr makes the whole of
    a distribution's programs; the settings of pip and of the network stay the
    machine's.
    """
    _run(['unshare', '--mount', '--propagation', 'private', 'sh', '-c',
          'mount --bind "$0" /usr && exec "$@"', str(root / 'usr'), *argv],
         log, 'the services cannot be installed')
