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
"""What volumes hold, written and read past Cinder.

A test of Cinder's copies must not trust Cinder's way to a volume: the storage
host reads the logical volumes, ``rbd`` reads the images of Ceph.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import hashlib
import json
import random
import struct
import subprocess
import tempfile
from typing import Any
from typing import IO

from blockpath.daemons import ceph
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import topology
from blockpath.observe import remote_watcher
from blockpath.observe import write_ring

_CHUNK = 1 << 20
_MIB = 1 << 20
_SECTOR = 512
#: Bytes of an object of an RBD image.
OBJECT = 4 * _MIB

#: An offset in bytes, and what is there.
Extent = tuple[int, bytes]


def backend(volume: Any) -> str:
    """The backend of a volume, from host@backend#pool."""
    found = (volume.host or '').partition('@')[2].partition('#')[0]
    if found not in topology.BACKENDS:
        raise errors.LabError(f'volume {volume.name} is on no backend of the '
                              f'lab, but on {volume.host}')
    return found


def stored_name(volume: Any) -> str:
    """What the backend calls a volume; migrations may change that."""
    return f'volume-{volume.migration_id or volume.id}'


def pattern(size: int, mib: int = 64, seed: int = 0,
            every: int = 1) -> Iterator[Extent]:
    """Some data, the same for the same arguments, for a blank volume.

    It has what copies stumble over: the first and the last sector, extents
    that neither begin nor end where a block or an RBD object does, and
    zeros that were written.

    :param size: of the volume in bytes, at least four times ``mib``
    :param mib: MiB of data in the middle
    :param every: how many MiB are from the begin of one of these to that of
        the next
    """
    span = mib * every * _MIB
    if size < max(4 * mib * _MIB, span + 24 * _MIB) or not mib:
        raise ValueError(f'{mib} MiB are too much for {size} bytes')
    source = random.Random(seed)
    yield 0, source.randbytes(512)
    yield OBJECT - 1536, source.randbytes(3072)
    middle = (size - span) // 2 + 512
    for number in range(mib):
        yield middle + number * every * _MIB, source.randbytes(_MIB)
    yield middle + span, bytes(_MIB)
    yield size - 512, source.randbytes(512)


def fill(extents: Iterable[Extent], unit: int, part: int) -> dict[int, int]:
    """Compute which parts of a volume extents fill, and how far.

    Extents of zeros are ignored.

    :param unit: bytes; around an extent whole units are filled
    :param part: bytes of each part
    :returns: the number of a part -> bytes from its beginning to the end of
        the last unit in it
    """
    found: dict[int, int] = {}
    for offset, data in extents:
        if data.count(0) == len(data):
            continue
        begin = offset // unit * unit
        end = -(-(offset + len(data)) // unit) * unit
        for number in range(begin // part, -(-end // part)):
            found[number] = max(found.get(number, 0),
                                min(end - number * part, part))
    return found


def write_diff(extents: Iterable[Extent], size: int,
               out: IO[bytes]) -> None:
    """Write extents in the form that ``rbd import-diff`` reads."""
    out.write(b'rbd diff v1\n' + b's' + struct.pack('<Q', size))
    for offset, data in extents:
        out.write(b'w' + struct.pack('<QQ', offset, len(data)) + data)
    out.write(b'e')


def allocation(diff: str) -> int:
    """The bytes that exist, from what ``rbd diff`` says in JSON."""
    return sum(extent['length'] for extent in json.loads(diff)
               if extent['exists'] in (True, 'true'))


class Holdings:
    """What the volumes of a lab hold.

    Volumes are openstacksdk's objects and must not be out of date: where
    the bytes are is told by them.
    """

    def __init__(self, site: topology.Site, cluster: ceph.Cluster,
                 storage: kernel_host.Shell, key: str) -> None:
        """Take the lab's parts.

        :param storage: runs commands on the storage host
        :param key: of encrypted volumes, as LUKS's passphrase
        """
        self._key = key
        self._site = site
        self._ceph = cluster
        self._storage = storage

    def device(self, volume: Any) -> str:
        """The storage host's device of a volume on LVM."""
        return f'/dev/{backend(volume)}/{stored_name(volume)}'

    def encrypt(self, volume: Any) -> None:
        """Format a volume on LVM as LUKS, with zeros inside.

        A volume that compute hosts format holds noise, and the guest only
        writes to a blank disk.
        """
        # Few iterations: each migration opens it, on an emulating machine.
        self._storage.run(
            ['cryptsetup', 'luksFormat', '--batch-mode', '--type=luks2',
             '--pbkdf=pbkdf2', '--pbkdf-force-iterations=1000',
             '--key-file=-', self.device(volume)], input=self._key,
            check=True)
        with self._opened(volume) as device:
            self._storage.run(['dd', 'if=/dev/zero', f'of={device}', 'bs=1M',
                               'count=16', 'oflag=direct', 'status=none'],
                              check=True)

    @contextlib.contextmanager
    def _opened(self, volume: Any) -> Iterator[str]:
        """Open an encrypted volume that no host has."""
        name = f'opened-{volume.id}'
        self._storage.run(['cryptsetup', 'open', '--key-file=-',
                           self.device(volume), name], input=self._key,
                          check=True)
        try:
            yield f'/dev/mapper/{name}'
        finally:
            self._storage.read('cryptsetup', 'close', name)

    def watch(self, volume: Any) -> remote_watcher.RemoteWatcher:
        """Watch the records that a guest writes to a volume on LVM."""
        return remote_watcher.RemoteWatcher(self._storage.command(
            ['python3', '-m', 'blockpath.observe.write_agent',
             self.device(volume)]), volume.name)

    def verify(self, volume: Any, encrypted: bool = False
               ) -> write_ring.Result:
        """Verify the records on a volume on LVM.

        :param encrypted: it is, and no host has it
        """
        with (self._opened(volume) if encrypted else
              contextlib.nullcontext(self.device(volume))) as device:
            return remote_watcher.verify(self._storage.command(
                ['python3', '-m', 'blockpath.observe.write_agent', '--verify',
                 device]))

    def image(self, volume: Any) -> str:
        """POOL/IMAGE of a volume on Ceph."""
        return f'{topology.POOLS[backend(volume)]}/{stored_name(volume)}'

    def write(self, volume: Any, mib: int = 64, seed: int = 0,
              every: int = 1) -> None:
        """Write :func:`pattern` to a blank volume."""
        size = volume.size << 30
        extents = pattern(size, mib, seed, every)
        if backend(volume) in topology.SCOPES:
            for offset, data in extents:
                self._storage.run(
                    ['dd', f'of={self.device(volume)}', 'bs=1M',
                     f'seek={offset}', 'oflag=seek_bytes',
                     'conv=notrunc,fsync', 'status=none'],
                    check=True, text=False, input=data)
            return
        with tempfile.TemporaryFile(dir=self._site.state) as diff:
            write_diff(extents, size, diff)
            diff.seek(0)
            self._ceph.rbd('import-diff', '-', self.image(volume),
                           stdin=diff)

    def sha256(self, volume: Any) -> str:
        """The digest of all that a guest would read."""
        digest = hashlib.sha256()
        length = 0
        with self._open(volume) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
        if length != volume.size << 30:
            raise errors.LabError(f'volume {volume.name} has {length} bytes, '
                                  f'not {volume.size} GiB')
        return digest.hexdigest()

    @contextlib.contextmanager
    def _open(self, volume: Any) -> Iterator[IO[bytes]]:
        if backend(volume) in topology.SCOPES:
            with self._reading(volume) as stream:
                yield stream
            return
        with self._ceph.piped('export', self.image(volume), '-') as output:
            yield output

    def allocated(self, volume: Any) -> int:
        """Bytes that the backend has stored for a volume."""
        if backend(volume) in topology.SCOPES:
            # Unlike lvs it is exact, and waits for no lock.
            said = self._storage.read('dmsetup', 'status',
                                      self.device(volume))
            _begin, _length, _target, mapped, _highest = said.split()
            return int(mapped) * _SECTOR
        return allocation(self._ceph.rbd(
            'diff', '--format', 'json', self.image(volume)))

    def room(self, volume: Any, extents: Iterable[Extent],
             unit: int) -> int:
        """Compute how much a volume's backend may allocate for extents.

        LVM allocates chunks of its pool. Ceph keeps an object from its
        beginning to its last written byte.

        :param unit: bytes; whatever writes the extents leaves out whole
            units of zeros only
        :returns: bytes
        """
        name = backend(volume)
        if name in topology.SCOPES:
            chunk = self._chunk(name)
            return len(fill(extents, unit, chunk)) * chunk
        return sum(fill(extents, unit, OBJECT).values())

    def _chunk(self, group: str) -> int:
        """Return the bytes of a chunk of a volume group's thin pool."""
        return int(self._storage.read(
            'lvs', '--noheadings', '--nosuffix', '--units=b',
            '--select=segtype=thin-pool', '--options=chunk_size', group))

    def names(self) -> set[str]:
        """All that is stored, as ``backend/name``: volumes and snapshots."""
        said = self._storage.read('lvs', '--noheadings',
                                  '--separator=/', '--options=vg_name,lv_name')
        found = {name for name in said.split()
                 if name.partition('/')[2].startswith(
                     ('volume-', '_snapshot-', 'snapshot-'))}
        for name, pool in topology.POOLS.items():
            found |= {f'{name}/{image}' for image in
                      self._ceph.rbd('ls', pool).split()}
        return found

    def temporary(self) -> set[str]:
        """Files that Cinder keeps while it converts or copies, only.

        Caches, in hidden folders, are meant to stay.
        """
        said = self._storage.read(
            'find', str(self._site.state / 'cinder' / 'conversion'),
            '/tmp', '/var/tmp', '-type', 'f', '-not', '-path', '*/.*')
        return set(said.splitlines())

    @contextlib.contextmanager
    def _reading(self, volume: Any) -> Iterator[IO[bytes]]:
        # Past the page cache, which LIO does not write to.
        child = subprocess.Popen(
            self._storage.command(['dd', f'if={self.device(volume)}',
                                   'bs=1M', 'iflag=direct', 'status=none']),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert child.stdout
        with child.stdout:
            yield child.stdout
        if child.wait():
            raise errors.LabError(f'volume {volume.name} cannot be read')
