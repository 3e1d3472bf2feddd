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
"""A storage of our own to copy from and to: Ceph, tgtd, files in memory.

Each content is there three times: as a file, as a LUN (of that file), and as
an RBD image. Everything is below one folder, which is removed at the end.

All of it is in memory, and what is timed writes only to memory that is there:
where a hypervisor takes back what its guest has freed, the first touch of a
page takes longer than to copy it, and whoever is last to free some and first
to need it again is chosen by chance. That leaves what each program takes for
itself, and the file that ``rbd export`` insists on making.
"""

from collections.abc import Iterator
import contextlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time

from blockpath.bench import copy_volumes
from blockpath.daemons import ceph
from blockpath.daemons import tgt
from blockpath import errors
from blockpath.machine import processes
from blockpath.machine import wait

MIB = 1 << 20
POOLS = ('volumes', 'others')
FILLS = {'random': 'random', 'tenth': '10% full', 'zeros': 'written zeros'}
#: A file system in memory.
_MEMORY = pathlib.Path('/dev/shm')
_IQN = 'iqn.2026-01.org.blockpath:bench'
_TGTD = '/usr/sbin/tgtd'
#: Memory for the daemons and the programs, beside the volumes.
_RESERVE = 3 << 30
#: Of the OSD, beside the images.
_OSD_RESERVE = 4 << 30
#: Of rados bench, by default: 4 MiB.
_OBJECT = 4 * MIB
#: Seconds of each of rados bench's measurements, at most.
_BENCH = 10
#: Seconds between two looks at what the OSD holds.
_SETTLE = 0.2
#: Seconds that tgtd may take to start.
_READY = 20.0


def osd_size(size: int) -> int:
    """Bytes of the OSD's file for volumes of a size.

    It never shrinks: bluestore writes to what it has not used yet before it
    uses again what was freed, and frees nothing of the file.
    """
    # Three sources, one a tenth full; a copy, and one that is being removed;
    # what rados bench writes.
    return 6 * size + _OSD_RESERVE


def memory_needed(size: int) -> int:
    """Bytes of memory for volumes of a size: as files, and as images.

    Of the files there are three sources, one a tenth full, and two copies.
    """
    return int(4.1 * size) + osd_size(size) + _RESERVE


def check_memory(size: int) -> None:
    """:raises BlockpathError: there is not enough for that size"""
    line = re.search(r'MemAvailable:\s+(\d+)',
                     pathlib.Path('/proc/meminfo').read_text())
    available = int(line[1]) << 10 if line else 0
    free = shutil.disk_usage(_MEMORY).free
    needed = memory_needed(size)
    if needed > min(available, free):
        raise errors.BlockpathError(
            f'volumes of {size >> 20} MiB need {needed >> 20} MiB of memory, '
            f'{min(available, free) >> 20} MiB are free; see --size')


@contextlib.contextmanager
def site(size: int) -> Iterator['Site']:
    """Start everything; stop and remove it at the end.

    :param size: of each volume, bytes
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='blockpath-bench-',
                                        dir=_MEMORY)))
        cluster = ceph.Cluster(
            folder / 'ceph', pools=POOLS, size=osd_size(size),
            # Without it the OSD does not answer "ceph tell" either.
            options={'osd': {'admin_socket': str(folder / 'osd.asok')}})
        cluster.make()
        occupy(cluster.store)
        stack.enter_context(cluster)
        target = Target(folder)
        stack.callback(target.stop)
        target.start()
        yield Site(folder, size, cluster, target)


class Target:
    """A tgtd on loopback with one target."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._socket = folder / 'tgtd'
        records = folder / 'run'
        records.mkdir()
        self._records = processes.Records(records, folder)
        with socket.socket() as probe:
            probe.bind((ceph.LOOPBACK, 0))
            self.portal = f'{ceph.LOOPBACK}:{probe.getsockname()[1]}'
        self._luns = 0
        # tgtd appends the number of its control port.
        self._client = tgt.Client(f'{self._socket}.0')

    def start(self) -> None:
        process = self._records.spawn(
            'tgtd', [_TGTD, '--foreground', '--iscsi',
                     f'portal={self.portal}'],
            {**os.environ, 'TGT_IPC_SOCKET': str(self._socket)})

        def serves() -> bool:
            process.check()
            try:
                return bool(self._client.portals())
            except OSError:
                return False

        wait.until(serves, 'tgtd to serve', _READY)
        self._client.add_target(1, _IQN)
        self._client.allow(1, copy_volumes.INITIATOR)

    def stop(self) -> None:
        process = self._records.get('tgtd')
        if process:
            processes.end(process, 5)

    @property
    def pid(self) -> int:
        process = self._records.get('tgtd')
        assert process
        return process.pid

    def add(self, path: pathlib.Path) -> copy_volumes.Lun:
        self._luns += 1
        self._client.add_unit(1, self._luns, str(path), f'lun{self._luns}')
        return copy_volumes.Lun(self.portal, _IQN, self._luns, str(path))


class Site:
    """The volumes.

    :ivar size: of each, bytes
    """

    def __init__(self, folder: pathlib.Path, size: int,
                 cluster: ceph.Cluster, target: Target) -> None:
        self.folder = folder
        self.size = size
        self._cluster = cluster
        self._target = target
        self._ceph = copy_volumes.Ceph(
            str(cluster.conf), ceph.USER,
            f'{cluster.address}:{cluster.identity.port}',
            str(cluster.keyring()))
        self._sources: dict[tuple[str, str], copy_volumes.Volume] = {}
        self._allocated: dict[copy_volumes.Volume, int] = {}
        copy = folder / 'lun.raw'
        _empty(copy, size)
        self._destinations: dict[str, copy_volumes.Volume] = {
            'file': copy_volumes.File(str(folder / 'file.raw')),
            'iscsi': target.add(copy),
            'rbd': copy_volumes.Image(self._ceph, POOLS[1], 'copy')}

    def pids(self) -> dict[str, int]:
        """The servers: name -> process."""
        return {'osd': self._cluster.pids()[ceph.OSD],
                'target': self._target.pid}

    # Sources

    def fill(self, fill: str) -> None:
        """Make the three volumes with a content."""
        path = self.folder / f'{fill}.raw'
        write(path, fill, self.size)
        file = copy_volumes.File(str(path))
        image = copy_volumes.Image(self._ceph, POOLS[0], fill)
        before = self.settled()
        self._cluster.rbd('create', '--size', f'{self.size >> 20}',
                          image.spec)
        # Zeros are written as well, but not what was never written.
        sparse = '64k' if fill == 'tenth' else '0'
        _run(['qemu-img', 'convert', '-n', '-S', sparse, '-m', '16', '-W',
              '-f', 'raw', '-O', 'raw',
              *(['--target-is-zero'] if fill == 'tenth' else []),
              file.qemu, image.qemu])
        for kind, volume in (('file', file), ('rbd', image),
                             ('iscsi', self._target.add(path))):
            self._sources[kind, fill] = volume
            self._allocated[volume] = self.taken(volume, before)

    def source_allocated(self, volume: copy_volumes.Volume) -> int:
        """Bytes that the storage holds for a source."""
        return self._allocated[volume]

    def source(self, kind: str, fill: str) -> copy_volumes.Volume:
        return self._sources[kind, fill]

    # Destinations

    def named(self, kind: str) -> copy_volumes.Volume:
        """The destination, whether or not it is there."""
        return self._destinations[kind]

    @contextlib.contextmanager
    def destination(self, kind: str, made_by_tool: bool, thick: bool
                    ) -> Iterator[copy_volumes.Volume]:
        """A new one that reads as zeros.

        :param made_by_tool: it is not there yet
        :param thick: it has all of its room; an image has that in the OSD
        """
        volume = self._destinations[kind]
        if isinstance(volume, copy_volumes.Image):
            if not made_by_tool:
                self._cluster.rbd('create', '--size', f'{self.size >> 20}',
                                  volume.spec)
        elif made_by_tool:
            pathlib.Path(volume.backing).unlink(missing_ok=True)
        else:
            prepare = blank if thick else _empty
            prepare(pathlib.Path(volume.backing), self.size)
        try:
            yield volume
        finally:
            # A file keeps its memory for the next.
            if (isinstance(volume, copy_volumes.Image) and volume.name in
                    self._cluster.rbd('ls', volume.pool).split()):
                self._cluster.rbd('rm', volume.spec)

    def settled(self) -> int:
        """Bytes that the OSD holds, once what was removed is gone."""
        def held() -> int:
            counters = json.loads(self._cluster.ceph(
                'tell', 'osd.0', 'perf', 'dump', 'bluestore'))
            return int(counters['bluestore']['bluestore_allocated'])

        before, now = -1, held()
        while now != before:
            time.sleep(_SETTLE)
            before, now = now, held()
        return now

    def taken(self, volume: copy_volumes.Volume, before: int) -> int:
        """Bytes that the storage holds for a volume.

        What ``rbd diff`` tells of an image ends where each object does; only
        the OSD knows of the holes before that.

        :param before: what the OSD held when the image was not there
        """
        if isinstance(volume, copy_volumes.Image):
            return self.settled() - before
        return copy_volumes.File(volume.backing).allocated

    def same(self, fill: str, volume: copy_volumes.Volume) -> bool:
        """Whether a copy holds what its source does, byte for byte."""
        source = str(self.folder / f'{fill}.raw')
        if not isinstance(volume, copy_volumes.Image):
            return not subprocess.run(['cmp', '--silent', source,
                                       volume.backing]).returncode
        argv = self._cluster.rbd_argv('export', volume.spec, '-')
        with subprocess.Popen(argv, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL) as export:
            compared = subprocess.run(['cmp', '--silent', source, '-'],
                                      stdin=export.stdout)
            assert export.stdout
            export.stdout.close()
        return not compared.returncode and not export.returncode

    # The cluster itself

    def delay(self, milliseconds: float) -> None:
        """Have the OSD delay each message of a client by that on average.

        By anything up to the double, that is.
        """
        settings = {
            'ms_inject_delay_type': 'client' if milliseconds else '',
            'ms_inject_delay_probability': '1' if milliseconds else '0',
            'ms_inject_delay_max': f'{2 * milliseconds / 1000}'}
        for name, value in settings.items():
            self._cluster.ceph('tell', 'osd.0', 'config', 'set', name, value)

    def latency(self) -> float:
        """Milliseconds that a small write takes, on average."""
        text = self._rados('bench', '1', 'write', '-t', '1', '-b', '4096')
        return 1000 * _figure('Average Latency(s)', text)

    def ceiling(self) -> dict[str, float]:
        """What rados bench reads and writes, MiB/s, as a copy would."""
        bench = ['bench', str(_BENCH)]
        # As much as a copy, and no more: it is kept until it was read.
        wrote = self._rados(*bench, 'write', '-t', '16', '--no-cleanup',
                            '--max-objects', str(self.size // _OBJECT))
        read = self._rados(*bench, 'seq', '-t', '16')
        self._rados('cleanup')
        return {'write': _figure('Bandwidth (MB/sec)', wrote),
                'read': _figure('Bandwidth (MB/sec)', read)}

    def _rados(self, *arguments: str) -> str:
        return _run(['rados', '--conf', self._ceph.conf, '--id',
                     self._ceph.user, '--pool', POOLS[1], *arguments])


def _figure(name: str, text: str) -> float:
    match = re.search(rf'^{re.escape(name)}:\s+([\d.]+)', text, re.MULTILINE)
    if not match:
        raise errors.BlockpathError(f'rados bench did not tell its {name}')
    return float(match[1])


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise errors.BlockpathError(
            f'{" ".join(argv)} failed: {done.stderr.strip()[-300:]}')
    return done.stdout


def write(path: pathlib.Path, fill: str, size: int) -> None:
    """Write a file of a content: every tenth MiB of it, or all."""
    blocks = list(range(size // MIB))
    if fill == 'tenth':
        # The same ones in every run.
        blocks = sorted(random.Random(7).sample(blocks, len(blocks) // 10))
    with path.open('wb') as file:
        file.truncate(size)
        for block in blocks:
            file.seek(block * MIB)
            file.write(bytes(MIB) if fill == 'zeros' else os.urandom(MIB))


def _empty(path: pathlib.Path, size: int) -> None:
    """Make a file, or an old one, all holes."""
    with path.open('ab') as file:
        file.truncate(0)
        file.truncate(size)


def blank(path: pathlib.Path, size: int) -> None:
    """Make a file, or an old one, all zeros, in the memory that it has."""
    with path.open('ab') as file:
        file.truncate(size)
    with path.open('r+b', buffering=0) as file:
        _write_zeros(file, 0, size)


def occupy(path: pathlib.Path) -> None:
    """Give a file memory for its holes."""
    with path.open('r+b', buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        at = file.seek(0, os.SEEK_HOLE)
        while at < end:
            try:
                data = file.seek(at, os.SEEK_DATA)
            except OSError:
                # There is no more.
                data = end
            _write_zeros(file, at, data)
            at = file.seek(data, os.SEEK_HOLE) if data < end else end


def _write_zeros(file: io.FileIO, at: int, end: int) -> None:
    zeros = memoryview(bytes(MIB))
    file.seek(at)
    while at < end:
        at += file.write(zeros[:end - at]) or 0
