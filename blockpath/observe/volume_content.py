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

A test of Cinder's copies must not trust Cinder's way to a volume: volumes on
files are read as files, those on Ceph by ``rbd``.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
import pathlib
import random
import struct
import tempfile
from typing import Any
from typing import IO

from blockpath.daemons import ceph
from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import topology

_CHUNK = 1 << 20
_MIB = 1 << 20

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
    # 4 MiB is the size of an RBD object.
    yield 4 * _MIB - 1536, source.randbytes(3072)
    middle = (size - span) // 2 + 512
    for number in range(mib):
        yield middle + number * every * _MIB, source.randbytes(_MIB)
    yield middle + span, bytes(_MIB)
    yield size - 512, source.randbytes(512)


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

    def __init__(self, site: topology.Site, cluster: ceph.Cluster) -> None:
        self._site = site
        self._ceph = cluster

    def file(self, volume: Any) -> pathlib.Path:
        """The file of a volume on the files backend."""
        return self._site.volumes / stored_name(volume)

    def image(self, volume: Any) -> str:
        """POOL/IMAGE of a volume on Ceph."""
        return f'{topology.POOLS[backend(volume)]}/{stored_name(volume)}'

    def write(self, volume: Any, mib: int = 64, seed: int = 0,
              every: int = 1) -> None:
        """Write :func:`pattern` to a blank volume."""
        size = volume.size << 30
        extents = pattern(size, mib, seed, every)
        if backend(volume) == topology.FILES:
            with open(self.file(volume), 'r+b') as file:
                for offset, data in extents:
                    file.seek(offset)
                    file.write(data)
                os.fsync(file.fileno())
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
        if backend(volume) == topology.FILES:
            with open(self.file(volume), 'rb') as file:
                yield file
            return
        with self._ceph.piped('export', self.image(volume), '-') as output:
            yield output

    def allocated(self, volume: Any) -> int:
        """Bytes that the backend has stored for a volume."""
        if backend(volume) == topology.FILES:
            return self.file(volume).stat().st_blocks * 512
        return allocation(self._ceph.rbd(
            'diff', '--format', 'json', self.image(volume)))

    def names(self) -> set[str]:
        """All that is stored, as ``backend/name``: volumes and snapshots."""
        found = {f'{topology.FILES}/{path.name}'
                 for path in self._site.volumes.iterdir()
                 if path.name.startswith(('volume-', 'snapshot-'))}
        for name, pool in topology.POOLS.items():
            found |= {f'{name}/{image}' for image in
                      self._ceph.rbd('ls', pool).split()}
        return found

    def temporary(self) -> set[str]:
        """Files that Cinder keeps while it converts or copies, only.

        Caches, in hidden folders, are meant to stay.
        """
        folders = [self._site.state / 'cinder' / 'conversion']
        record = processes.Records(self._site.run, self._site.log).get(
            f'anchor-{topology.STORAGE.name}')
        if record:
            folders.append(pathlib.Path(f'/proc/{record.pid}/root/run/tmp'))
        return {str(path) for folder in folders if folder.exists()
                for path in folder.rglob('*') if not path.is_dir() and
                not path.relative_to(folder).parts[0].startswith('.')}
