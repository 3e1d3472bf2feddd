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
"""A model of the lab's Cinder, its backends and the storage host."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import pathlib
import types
from typing import Any
import uuid

from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.observe import copy_follower
from blockpath.observe import volume_content

MIB = 1 << 20
#: Where a copy that may be resumed was flushed last.
CHECKPOINT = 256 * MIB
_DEVICES = {'session': ['s'], 'node record': ['n'], 'SCSI device': ['d'],
            'multipath map': ['m']}


@dataclasses.dataclass
class Stored:
    """A volume on a backend, as openstacksdk has it."""

    name: str
    host: str
    size: int = 1
    status: str = 'available'
    migration_status: str | None = None
    migration_id: str | None = None
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))


@dataclasses.dataclass
class Copy:
    """A copy that runs.

    :ivar initiator: by which the destination is reached, if it is on LVM
    """

    source: Stored
    destination: Stored
    backend: str
    initiator: str


class FakeCinder:
    """Volumes on backends, what each of them holds there, and copies.

    A copy that was begun ends when somebody waits for it, unless its service
    is killed before that.

    :ivar flips: the backend on which copies are wrong
    :ivar refuses: the backend that nothing is copied to
    :ivar wastes: bytes that a copy stores for blank parts
    :ivar leaves: deleted volumes stay on their backend
    :ivar devices_stay: what the host's initiator made is left
    :ivar exports_stay: exports are left
    :ivar kill_unmaps: a kill ends exports
    :ivar kill_is_late: a copy has ended when its service is killed
    :ivar undo_writes: recovery writes to the source
    :ivar qemu: how many of QEMU's processes a copy has
    :ivar qemu_stays: QEMU's processes survive the kill
    :ivar resumes_at: where an interrupted copy goes on
    :ivar most_messages: how many messages Cinder has for the user
    :ivar initiator: that copies use, whatever is configured
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.volumes = self.holdings = self.storage = self.hosts = self
        self.site = types.SimpleNamespace(log=folder)
        self.cloud = types.SimpleNamespace(block_storage=types.SimpleNamespace(
            volumes=lambda: list(self._volumes.values())))
        self.flips = self.refuses = ''
        self.wastes = 0
        self.leaves = self.devices_stay = self.qemu_stays = False
        self.exports_stay = self.kill_unmaps = self.kill_is_late = False
        self.undo_writes = False
        self.most_messages = 2
        self.initiator = ''
        self.qemu = 1
        self.resumes_at = CHECKPOINT
        self.options: Mapping[str, Mapping[str, object]] = {}
        self._volumes: dict[str, Stored] = {}
        self._contents: dict[str, str] = {}
        self._allocated: dict[str, int] = {}
        self._data: dict[str, int] = {}
        self._messages: list[str] = []
        self._copy: Copy | None = None
        #: Of each computation of room: volume, backend, unit.
        self.units: list[tuple[str, str, int]] = []
        self._devices: dict[str, list[str]] = {}
        self._exports: set[str] = set()
        self._processes: list[int] = []
        (folder / 'cinder-volume.log').touch()

    # Content

    def _place(self, volume: Stored) -> str:
        return (f'{volume_content.backend(volume)}/'
                f'{volume_content.stored_name(volume)}')

    def _store(self, volume: Stored, content: str, allocated: int) -> None:
        self._contents[self._place(volume)] = content
        self._allocated[self._place(volume)] = allocated

    def write(self, volume: Stored, mib: int, every: int = 1) -> None:
        # The zeros among it take room, too.
        self._store(volume, f'{mib} MiB', (mib + 1) * MIB)
        self._data[volume.id] = mib * MIB

    def sha256(self, volume: Stored) -> str:
        return self._contents[self._place(volume)]

    def allocated(self, volume: Stored) -> int:
        """Return the bytes stored: of a copy that runs, more each time."""
        place = self._place(volume)
        if place not in self._contents:
            raise errors.LabError(f'{place} is not there')
        if self._copy and volume.id == self._copy.destination.id:
            self._allocated[place] += 20 * MIB
        return self._allocated[place]

    def room(self, volume: Stored, extents: Iterator[volume_content.Extent],
             unit: int) -> int:
        self.units.append((volume.name, volume_content.backend(volume), unit))
        return sum(len(data) for _, data in extents if any(data))

    def names(self) -> set[str]:
        return set(self._contents)

    def temporary(self) -> set[str]:
        return set()

    # The storage host

    def targets(self) -> set[str]:
        return self._exports

    def mapping(self, volume: Stored, host: str) -> tuple[str, int] | None:
        assert host == 'storage'
        return ('iqn', 0) if self._exports else None

    def leftovers(self, host: str) -> dict[str, list[str]]:
        assert host == 'storage'
        return self._devices

    def running(self, host: str, program: str) -> list[int]:
        assert (host, program) == ('storage', 'qemu-storage-daemon')
        return self._processes

    @contextlib.contextmanager
    def configured(self, service: str, **sections: Mapping[str, object]
                   ) -> Iterator[None]:
        assert service == 'cinder-volume'
        self.options = sections
        yield
        self.options = {}

    @contextlib.contextmanager
    def killed(self, service: str) -> Iterator[None]:
        assert service == 'cinder-volume'
        if not self.qemu_stays:
            self._processes = []
        if self.kill_unmaps:
            self._exports = set()
        if self.kill_is_late:
            self._finish()
        yield
        if self._copy:
            self._recover()

    # Volumes

    def create(self, name: str, volume_type: str) -> Stored:
        backend = (topology.LVM if volume_type == topology.ANYWHERE
                   else volume_type)
        volume = Stored(name, _host(backend))
        self._volumes[volume.id] = volume
        self._store(volume, 'blank', 0)
        return volume

    def delete(self, volume: Stored) -> None:
        found = self._volumes.pop(volume.id)
        if not self.leaves:
            del self._contents[self._place(found)]

    def start_migration(self, volume: Stored, backend: str,
                        force_host_copy: bool = False) -> None:
        source = self._volumes[volume.id]
        if backend == self.refuses:
            raise errors.LabError('no valid backend')
        source.migration_status = 'migrating'
        copy = Copy(source, Stored('copy', _host(backend)), backend, '')
        self._volumes[copy.destination.id] = copy.destination
        self._store(copy.destination, '', 0)
        if backend in topology.SCOPES:
            options = self.options.get(volume_content.backend(source), {})
            copy.initiator = self.initiator or str(options.get(
                'volume_copy_iscsi_initiator', 'host'))
            self._exports = {'iqn'}
        if copy.initiator == 'host':
            self._devices = _DEVICES
        elif copy.initiator:
            self._processes = list(range(self.qemu))
        self._copy = copy

    def destination(self, volume: Stored) -> Stored:
        assert self._copy
        return self._copy.destination

    def _finish(self) -> None:
        """End a copy: the volumes change places and names; the old one goes.
        """
        copy = self._copy
        assert copy
        content = self.sha256(copy.source)
        if copy.backend == self.flips:
            content += ', a bit flipped'
        self._drop(copy.destination)
        del self._contents[self._place(copy.source)]
        moved = dataclasses.replace(
            copy.source, host=copy.destination.host,
            migration_status='success')
        self._volumes[moved.id] = moved
        self._store(moved, content, self._data[moved.id] + self.wastes)
        self._end()

    def _drop(self, volume: Stored) -> None:
        del self._volumes[volume.id]
        del self._contents[self._place(volume)]

    def _end(self) -> None:
        self._copy = None
        self._processes = []
        if not self.devices_stay:
            self._devices = {}
        if not self.exports_stay:
            self._exports = set()

    def _recover(self) -> None:
        """Undo or resume a copy whose service was killed."""
        copy = self._copy
        assert copy
        options = self.options[volume_content.backend(copy.source)]
        if options.get('volume_copy_resume'):
            with open(self.site.log / 'cinder-volume.log', 'a') as log:
                log.write(f'it goes on at offset {self.resumes_at}.\n')
            self._finish()
            return
        copy.source.migration_status = 'error'
        self._allocated[self._place(copy.source)] += self.undo_writes
        if len(self._messages) < self.most_messages:
            self._messages.append('the service was restarted')
        self._drop(copy.destination)
        self._end()

    def wait_for_rest(self, volume: Stored, reported: bool = False) -> Stored:
        return dataclasses.replace(self._volumes[volume.id])

    def wait_for_move(self, volume: Stored, backend: str) -> Stored:
        self._finish()
        return self.wait_for_rest(volume)

    def migrate(self, volume: Stored, backend: str,
                force_host_copy: bool = False) -> Stored:
        self.start_migration(volume, backend, force_host_copy)
        return self.wait_for_move(volume, backend)

    def retype(self, volume: Stored, backend: str) -> Stored:
        return self.migrate(volume, backend)

    def messages(self, volume: Stored) -> list[str]:
        return ['something else', *self._messages]


def _host(backend: str) -> str:
    return f'storage@{backend}#{backend}'


class FakeListener:
    """Hears one word of each copy."""

    def __init__(self, site: Any) -> None:
        pass

    def __enter__(self) -> 'FakeListener':
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def words(self, volume: Stored, since: float = 0.0
              ) -> list[copy_follower.Word]:
        return [copy_follower.Word(since, MIB, MIB, 1.0)]


class FakeCursor:
    """Cinder's database, which has a checkpoint of each copy."""

    @classmethod
    @contextlib.contextmanager
    def connect(cls, site: Any) -> 'Iterator[FakeCursor]':
        yield cls()

    def execute(self, statement: str, values: tuple[str, ...]) -> None:
        pass

    def fetchone(self) -> tuple[str, ...]:
        return (str(CHECKPOINT),)
