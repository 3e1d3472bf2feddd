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
"""Builds the guests' root file system, once for each recipe."""

import collections.abc
import contextlib
import dataclasses
import fcntl
import gzip
import os
import pathlib
import shutil
import subprocess
import tempfile

import click

from blockpath import errors
from blockpath.guests.debian import recipe
from blockpath.guests.tiny import tools
from blockpath import paths

CACHE = paths.CACHE / 'rig'
DEFAULT_MIRROR = 'http://deb.debian.org/debian'
#: What debootstrap is at, by the second word of what it prints.
PHASES = {'Retrieving': 'downloading packages',
          'Extracting': 'extracting what is required',
          'Unpacking': 'unpacking packages',
          'Configuring': 'configuring packages'}

Say = collections.abc.Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Image:
    """What a guest boots; none of it is written to."""

    folder: pathlib.Path

    @property
    def root(self) -> pathlib.Path:
        """A raw disk that holds an ext4 file system."""
        return self.folder / 'root.raw'

    @property
    def vmlinuz(self) -> pathlib.Path:
        return self.folder / 'vmlinuz'

    @property
    def initrd(self) -> pathlib.Path:
        return self.folder / 'initrd.gz'


def say_to_terminal(line: str) -> None:
    click.echo(line, err=True)


def build(say: Say = say_to_terminal) -> Image:
    """The guests' image, from the cache when the recipe is the same.

    :param say: told what is being done, a line each
    :raises BlockpathError: no root, or a program or the network is missing
    """
    if os.geteuid():
        raise errors.BlockpathError('the rig\'s image needs root to be built')
    CACHE.mkdir(parents=True, exist_ok=True)
    with lock(say):
        source = mirror()
        folder = CACHE / recipe.digest(source)
        if not folder.exists():
            _build_in(folder, source, say)
            _drop_others(folder)
    return Image(folder)


@contextlib.contextmanager
def lock(say: Say) -> collections.abc.Iterator[None]:
    """One build at a time; the second finds the first one's result."""
    with open(CACHE / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('rig: waiting for another build')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mirror() -> str:
    """Where this machine's apt takes the suite from, else Debian's own."""
    listed = tools.run(('apt-get', 'indextargets', '--format',
                        '$(REPO_URI) $(RELEASE) $(COMPONENT)',
                        'Created-By: Packages'))
    for line in listed.splitlines():
        uri, _, suite = line.partition(' ')
        if suite == f'{recipe.SUITE} main':
            return uri
    return DEFAULT_MIRROR


def _build_in(folder: pathlib.Path, source: str, say: Say) -> None:
    """Builds aside, then moves the whole into place: all or nothing."""
    with tempfile.TemporaryDirectory(prefix='.build-', dir=CACHE) as name:
        work = pathlib.Path(name)
        root, result = work / 'root', work / 'result'
        result.mkdir()
        _bootstrap(root, source, work / 'debootstrap.log', say)
        say('rig: adding a kernel and the rig\'s own files')
        release = _add_kernel(root, work)
        _configure(root)
        shutil.copy(root / f'boot/vmlinuz-{release}', result / 'vmlinuz')
        _make_initrd(result / 'initrd.gz', root, release, work / 'initrd')
        say('rig: writing the image')
        _drop(root, 'boot', 'var/cache/apt', 'var/lib/apt/lists',
              'usr/share/doc', 'usr/share/man', 'usr/share/locale')
        tools.run(('mke2fs', '-q', '-t', 'ext4', '-d', root, '-E',
                   'lazy_itable_init=0', result / 'root.raw',
                   str(recipe.IMAGE_BYTES >> 10)))
        result.rename(folder)
    say(f'rig: built {folder}')


def _bootstrap(root: pathlib.Path, source: str, log: pathlib.Path,
               say: Say) -> None:
    # Its mounts and processes go with their namespaces, however it ends.
    command = ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount',
               '--pid', '--fork', '--kill-child', '--mount-proc',
               tools.find('debootstrap'), '--variant=minbase',
               f'--include={",".join(recipe.PACKAGES)}', recipe.SUITE,
               str(root), source]
    phase = ''
    with log.open('w') as file, subprocess.Popen(
            command, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {'LC_ALL': 'C', 'PATH': tools.SEARCH}) as child:
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            doing = PHASES.get(line.split()[1] if ' ' in line else '', phase)
            if doing != phase:
                phase = doing
                say(f'rig: {phase}')
    if child.returncode:
        raise errors.BlockpathError(
            'debootstrap could not make the rig\'s image; it ends with: ' +
            ' | '.join(log.read_text().splitlines()[-3:]))


def _add_kernel(root: pathlib.Path, work: pathlib.Path) -> str:
    """Unpacked, not installed: that would make an initrd that is not used."""
    depends = tools.run(('apt-cache', 'depends', recipe.KERNEL))
    package = next((line.split()[1] for line in depends.splitlines()
                    if line.strip().startswith('Depends: linux-image-')), '')
    if not package:
        raise errors.BlockpathError(
            f'apt does not know {recipe.KERNEL}: run "apt-get update"')
    # The user that apt would download as cannot write here.
    tools.run(('apt-get', '-o', 'APT::Sandbox::User=root', 'download',
               package), cwd=work)
    tools.run(('dpkg-deb', '-x', next(work.glob(f'{package}_*.deb')),
               work / 'kernel'))
    release = package.removeprefix('linux-image-')
    modules = work / 'kernel/lib/modules' / release
    for folder in (modules / 'kernel/drivers').iterdir():
        if folder.name not in recipe.DRIVERS:
            shutil.rmtree(folder)
    for name in ('sound', 'drivers/net/ethernet', 'drivers/net/wireless'):
        shutil.rmtree(modules / 'kernel' / name)
    shutil.move(modules, root / 'usr/lib/modules' / release)
    shutil.copytree(work / 'kernel/boot', root / 'boot', dirs_exist_ok=True)
    tools.run(('depmod', '-b', root / 'usr', release))
    return release


def _configure(root: pathlib.Path) -> None:
    for name, (target, mode) in recipe.INSTALLED.items():
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recipe.FILES / name, path)
        path.chmod(mode)
    (root / 'etc/hostname').write_text('guest\n')
    (root / 'etc/hosts').write_text('127.0.0.1 localhost guest\n')
    (root / 'etc/fstab').write_text('')
    # The same for all, or the first boot would make one and be slower.
    (root / 'etc/machine-id').write_text('b10c9a7400000000000000000000f119\n')
    for unit in recipe.MASKED:
        path = root / 'etc/systemd/system' / unit
        path.unlink(missing_ok=True)
        path.symlink_to('/dev/null')


def _make_initrd(initrd: pathlib.Path, root: pathlib.Path, release: str,
                 folder: pathlib.Path) -> None:
    for name in ('bin', 'dev', 'modules', 'root'):
        (folder / name).mkdir(parents=True)
    shutil.copy(tools.find('busybox'), folder / 'bin/busybox')
    shutil.copy(recipe.FILES / 'init.sh', folder / 'init')
    (folder / 'init').chmod(0o755)
    shown = tools.run(('modprobe', '-d', root / 'usr', '-S', release, '-a',
                       '--show-depends', *recipe.BOOT_MODULES))
    modules = [pathlib.Path(line.split()[1]) for line in shown.splitlines()
               if line.startswith('insmod ')]
    names = dict.fromkeys(module.name for module in modules)
    for module in modules:
        shutil.copy(module, folder / 'modules')
    (folder / 'modules/order').write_text(''.join(f'{x}\n' for x in names))
    archive = folder.with_suffix('.cpio')
    listed = ['.', *sorted(str(path.relative_to(folder))
                           for path in folder.rglob('*'))]
    tools.run(('cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0', '-O',
               archive), cwd=folder, text='\n'.join(listed))
    initrd.write_bytes(gzip.compress(archive.read_bytes(), 1, mtime=0))


def _drop(root: pathlib.Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)


def _drop_others(folder: pathlib.Path) -> None:
    """Images of recipes that are gone; a rig that still runs has them open."""
    for other in CACHE.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)
