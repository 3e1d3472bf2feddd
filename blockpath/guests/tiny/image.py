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
"""Builds the guest's disk image, once for each set of inputs."""

import collections.abc
import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import json
import pathlib
import shutil
import struct
import tempfile

import click

from blockpath import errors
from blockpath.guests.tiny import kernel as kernels
from blockpath.guests.tiny import logins
from blockpath.guests.tiny import tools
from blockpath import paths

CACHE = paths.CACHE / 'guest'
SOURCES = pathlib.Path(__file__).parent / 'src'
MBR_CODE = pathlib.Path('/usr/lib/SYSLINUX/mbr.bin')
CFLAGS = ('-std=gnu11', '-O2', '-Wall', '-Wextra', '-static', '-s')
#: Terse, and without what costs an emulated CPU time at boot.
CMDLINE = ('console=ttyS0,115200 quiet loglevel=3 panic=10 mitigations=off '
           'random.trust_cpu=on 8250.nr_uarts=1 cryptomgr.notests')
MIB = 1 << 20
SECTOR = 512
#: Where the one partition begins, as every partitioning program has it.
PARTITION_AT = MIB

Say = collections.abc.Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class GuestImage:
    #: The raw disk image, bootable by a BIOS from virtio-blk or virtio-scsi.
    path: pathlib.Path
    #: The same kernel and initramfs, for a boot without a disk.
    vmlinuz: pathlib.Path
    initrd: pathlib.Path
    cmdline: str
    kernel_release: str
    #: Of all that the image is made of.
    digest: str


def build(interval_us: int = 5000, others_us: int = 100000,
          say: Say | None = None, takes_logins: bool = False) -> GuestImage:
    """The guest's image, from the cache when there is one.

    :param interval_us: pause between two writes to the first disk
    :param others_us: the same for each further disk
    :param takes_logins: by ssh, from its network; and writes to no disk
    :param say: told what is being done, a line each; stderr by default
    :raises BlockpathError: a program, the kernel or the network is missing
    """
    say = say or _say
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(say):
        deb = next(iter(CACHE.glob('linux-image-*.deb')), None)
        if deb is None:
            say('guest: downloading its kernel')
        deb = kernels.fetch(CACHE)
        cmdline = CMDLINE + (
            ' blockpath.logins=1' if takes_logins else
            f' blockpath.interval_us={interval_us} '
            f'blockpath.others_us={others_us}')
        digest = _digest(deb, cmdline, takes_logins)
        folder = CACHE / digest
        if not (folder / 'image.json').exists():
            say('guest: building its image')
            _build_in(folder, deb, cmdline, takes_logins)
            say(f'guest: built {folder / "guest.raw"}')
    facts = json.loads((folder / 'image.json').read_text())
    return GuestImage(folder / 'guest.raw', folder / 'vmlinuz',
                      folder / 'initrd.gz', digest=digest, **facts)


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextlib.contextmanager
def _lock(say: Say) -> collections.abc.Iterator[None]:
    """One build at a time; the second finds the first one's result."""
    with open(CACHE / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('guest: waiting for another build')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(deb: pathlib.Path, cmdline: str, takes_logins: bool) -> str:
    """Names the image: equal for equal inputs.

    :raises BlockpathError: busybox or syslinux is not installed
    """
    hasher = hashlib.sha256(f'{deb.name}\n{cmdline}\n'.encode())
    if not MBR_CODE.exists():
        raise errors.BlockpathError(
            f'{MBR_CODE} is missing: apt-get install syslinux')
    inputs = [*sorted(SOURCES.iterdir()), *sorted(SOURCES.parent.glob('*.py')),
              MBR_CODE, pathlib.Path(tools.find('busybox')),
              pathlib.Path(tools.find('syslinux')),
              *(logins.inputs() if takes_logins else ())]
    for path in inputs:
        hasher.update(path.name.encode() + b'\0' + path.read_bytes())
    return hasher.hexdigest()[:16]


def _build_in(folder: pathlib.Path, deb: pathlib.Path, cmdline: str,
              takes_logins: bool) -> None:
    """Builds aside, then moves the whole into place: all or nothing."""
    with tempfile.TemporaryDirectory(prefix='.build-', dir=CACHE) as name:
        work = pathlib.Path(name)
        kernel = kernels.unpack(deb, work / 'kernel')
        result = work / 'result'
        result.mkdir()
        shutil.copy(kernel.vmlinuz, result / 'vmlinuz')
        _make_initrd(result / 'initrd.gz', kernel, work / 'root',
                     takes_logins)
        _make_disk(result, cmdline, work)
        (result / 'image.json').write_text(json.dumps(
            {'cmdline': cmdline, 'kernel_release': kernel.release}))
        if folder.exists():  # of a machine that crashed
            shutil.rmtree(folder)
        result.rename(folder)


def _make_initrd(initrd: pathlib.Path, kernel: kernels.Kernel,
                 root: pathlib.Path, takes_logins: bool) -> None:
    for name in ('bin', 'dev', 'modules', 'proc', 'run', 'sys'):
        (root / name).mkdir(parents=True)
    shutil.copy(tools.find('busybox'), root / 'bin' / 'busybox')
    for name in ('keeper', 'writer'):
        tools.run(('gcc', *CFLAGS, '-o', root / 'bin' / name,
                   SOURCES / f'{name}.c'))
    shutil.copy(SOURCES / 'init.sh', root / 'init')
    (root / 'init').chmod(0o755)
    _add_modules(root / 'modules', 'order', kernel.modules)
    if takes_logins:
        _add_modules(root / 'modules', 'for-users', kernel.for_users)
        logins.install(root, SOURCES)
    archive = root.parent / 'initrd'
    names = ['.', *sorted(str(path.relative_to(root))
                          for path in root.rglob('*'))]
    tools.run(('cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0',
               '-O', archive), cwd=root, text='\n'.join(names))
    initrd.write_bytes(gzip.compress(archive.read_bytes(), 9, mtime=0))


def _add_modules(folder: pathlib.Path, order: str,
                 modules: collections.abc.Sequence[pathlib.Path]) -> None:
    """Add modules, and a file that names them in the order of loading."""
    for module in modules:
        shutil.copy(module, folder)
    (folder / order).write_text(
        ''.join(f'{module.name}\n' for module in modules))


def _make_disk(result: pathlib.Path, cmdline: str,
               work: pathlib.Path) -> None:
    """An MBR with one active FAT partition that syslinux boots from."""
    config = work / 'syslinux.cfg'
    config.write_text('DEFAULT guest\nPROMPT 0\nLABEL guest\n'
                      'LINUX vmlinuz\nINITRD initrd.gz\n'
                      f'APPEND {cmdline}\n')
    files = [result / 'vmlinuz', result / 'initrd.gz', config]
    content = sum(path.stat().st_size for path in files)
    # Room for the file system itself; below 16 MiB it would be FAT12.
    size = max(16, content // MIB + 3) * MIB
    disk = result / 'guest.raw'
    with open(disk, 'wb') as file:
        file.write(_boot_sector(size))
        file.truncate(PARTITION_AT + size)
    at = f'{disk}@@{PARTITION_AT}'
    env = {'MTOOLS_SKIP_CHECK': '1'}
    tools.run(('mformat', '-i', at, '-T', str(size // SECTOR), '-h', '16',
               '-s', '63', '-H', str(PARTITION_AT // SECTOR), '::'), env=env)
    tools.run(('mcopy', '-i', at, *files, '::'), env=env)
    tools.run(('syslinux', '--install', '--offset', str(PARTITION_AT), disk))


def _boot_sector(partition_bytes: int) -> bytes:
    """syslinux's MBR code, a table of one active FAT16 (LBA) partition."""
    code = MBR_CODE.read_bytes()[:440].ljust(440, b'\0')
    no_chs = b'\xfe\xff\xff'
    entry = struct.pack('<B3sB3sII', 0x80, no_chs, 0x0e, no_chs,
                        PARTITION_AT // SECTOR, partition_bytes // SECTOR)
    # A fixed disk signature, so that equal inputs give equal images.
    return (code + struct.pack('<IH', 0x626c6b70, 0) +
            entry.ljust(64, b'\0') + b'\x55\xaa')
