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
"""Models of the lab for scenarios: one of Nova's side, one of Cinder's."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import threading
import time
import types
from typing import Any
import uuid

from blockpath.cloud import lab_servers
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.observe import volume_content
from tests.unit.observe import fake_writer

HOSTS = ('cmp1', 'cmp2')
#: Slots of the guest's ring: what it writes in five seconds.
SLOTS = 1024
_DISK = '''
<disk type="network" device="disk">
 <driver name="qemu" type="raw" cache="none"/>
 <source protocol="iscsi" name="iqn.2010-10.org.openstack:{iqn}/{lun}"
         index="1">
  <host name="{address}" port="3260"/>
  <auth username="chap-{host}">
   <secret type="iscsi" uuid="{secret}"/>
  </auth>
  <initiator><iqn name="{initiator}"/></initiator>
 </source>
 <target dev="vdb" bus="virtio"/>
 <serial>{volume}</serial>
 <alias name="virtio-disk1"/>
</disk>'''


@dataclasses.dataclass
class Volume:
    """A volume, as openstacksdk and libvirt's secrets name it."""

    name: str
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    def usageID(self) -> str:
        return self.id


@dataclasses.dataclass
class Server:
    """A server, as openstacksdk and libvirt name it."""

    host: str
    volumes: list[Volume]
    xml: str = ''
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    def UUIDString(self) -> str:
        return self.id

    def isActive(self) -> bool:
        return True

    def XMLDesc(self, flags: int) -> str:
        return self.xml


class Writer(threading.Thread):
    """A guest that writes a record each 5 ms until it is ended.

    :ivar writing: cleared while the writes stand still
    """

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self.ring = fake_writer.FakeWriter(path, SLOTS)
        self.writing = threading.Event()
        self.writing.set()
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        while not self.ended.wait(0.005):
            if self.writing.is_set():
                with self.lock:
                    self.ring.write()

    def pause(self, seconds: float) -> None:
        self.writing.clear()
        time.sleep(seconds)
        self.writing.set()

    def lose(self) -> None:
        with self.lock:
            self.ring.lose()


class FakeVolumes:
    """Volumes, and which of them are mapped where, each by which LUN."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._luns: dict[str, dict[int, Volume]] = {
            host: {} for host in HOSTS}
        #: Hosts that a server cannot migrate to, and Nova's reason.
        self.broken: dict[str, str] = {}

    def create(self, name: str, bootable: bool = False) -> Volume:
        return Volume(name)

    def delete(self, volume: Volume) -> None:
        pass

    def file(self, volume: Volume) -> pathlib.Path:
        return self._folder / f'volume-{volume.id}'

    def map(self, volume: Volume, host: str) -> None:
        """To the lowest LUN that is free, as Cinder does it."""
        luns = self._luns[host]
        luns[min(set(range(1, len(luns) + 2)) - luns.keys())] = volume

    def unmap(self, volume: Volume, host: str) -> None:
        del self._luns[host][self.lun(volume, host) or 0]

    def lun(self, volume: Volume, host: str) -> int | None:
        return next((lun for lun, mapped in self._luns[host].items()
                     if mapped is volume), None)

    def luns(self, host: str) -> dict[int, str]:
        return {lun: str(self.file(volume))
                for lun, volume in self._luns[host].items()}

    @contextlib.contextmanager
    def taken(self, volume: Volume, host: str) -> Iterator[None]:
        self.map(volume, host)
        yield
        self.unmap(volume, host)

    @contextlib.contextmanager
    def break_way(self, host: str, reason: str) -> Iterator[None]:
        self.broken[host] = reason
        yield
        del self.broken[host]

    def mistaken(self, volume: Volume, other: Volume
                 ) -> contextlib.AbstractContextManager[None]:
        return self.break_way('cmp2', 'another volume; iscsi_check_identity')


class FakeServers:
    """One server. It migrates unless the way to the destination is broken.

    Its guest writes its records to a file, in a thread.

    :ivar stalls: of migrations, by their number from 0: for how many seconds
        the writes stand still
    :ivar hangs: the number of the migration that the guest does not survive
    :ivar loses: the number of the migration that costs a record
    :ivar refuses: the number of the migration that fails for no reason
    """

    def __init__(self, volumes: FakeVolumes) -> None:
        self.stalls: dict[int, float] = {}
        self.hangs = self.loses = self.refuses = -1
        self.panics = ''
        self.server: Server | None = None
        self.writer: Writer | None = None
        self._volumes = volumes
        self._migrations = 0
        self._fault = 'no reason given'

    def boot(self, name: str, volume: Volume, host: str = 'cmp1',
             network: bool = False) -> Server:
        self.server = Server(host, [volume])
        self._volumes.map(volume, host)
        self._define()
        return self.server

    def delete(self, server: Server) -> None:
        for volume in server.volumes:
            self._volumes.unmap(volume, server.host)
        self.server = None

    def attach(self, server: Server, volume: Volume) -> None:
        self._volumes.map(volume, server.host)
        server.volumes.append(volume)
        self._define()
        if not self.writer:
            self.writer = Writer(self._volumes.file(volume))
            self.writer.start()

    def detach(self, server: Server, volume: Volume) -> None:
        self._volumes.unmap(volume, server.host)
        server.volumes.remove(volume)

    def _define(self) -> None:
        server = self.server
        assert server
        compute = topology.compute(server.host)
        disks = ''.join(_DISK.format(
            iqn=f'host-{server.host}',
            lun=self._volumes.lun(volume, server.host),
            address=compute.portal_address, host=server.host,
            secret=uuid.uuid5(uuid.NAMESPACE_DNS, volume.id),
            initiator=compute.initiator, volume=volume.id)
            for volume in server.volumes)
        server.xml = f'<domain><devices>{disks}</devices></domain>'

    def on(self, host: str) -> Server | None:
        """Return the server if it is on a host."""
        return (self.server if self.server and self.server.host == host
                else None)

    def host_of(self, server: Server) -> str:
        return server.host

    def domain(self, server: Server, host: str) -> Server:
        return server

    def fault(self, server: Server) -> str:
        return self._fault

    def last_words(self, server: Server) -> str:
        return 'booted'

    def panic(self, server: Server) -> str:
        return self.panics

    def migrate(self, server: Server, destination: str, check: bool = True
                ) -> lab_servers.Migration:
        number, source = self._migrations, server.host
        self._migrations += 1
        assert self.writer
        self.writer.pause(self.stalls.get(number, 0.02))
        if number == self.hangs:
            self.writer.writing.clear()
        if number == self.loses:
            self.writer.lose()
        status = 'completed'
        if destination in self._volumes.broken or number == self.refuses:
            self._fault = self._volumes.broken.get(destination,
                                                   'no reason given')
            status = 'error'
        else:
            for volume in server.volumes:
                self._volumes.unmap(volume, source)
                self._volumes.map(volume, destination)
            server.host = destination
            self._define()
        return lab_servers.Migration(number, source, destination, status, 0.1)


class FakeHosts:
    """Which guests and secrets each host has."""

    names = HOSTS

    def __init__(self, servers: FakeServers) -> None:
        self._servers = servers

    def hypervisor(self, host: str) -> Any:
        server = self._servers.on(host)
        return Hypervisor([server] if server else [])

    def secrets(self, host: str) -> list[Volume]:
        server = self._servers.on(host)
        return server.volumes if server else []

    def scsi_devices(self) -> list[str]:
        return []


class FakeStorage:
    """The targets, and how the way to them breaks."""

    def __init__(self, volumes: FakeVolumes, servers: FakeServers) -> None:
        self._volumes = volumes
        self._servers = servers
        self.luns = volumes.luns

    def sessions(self, host: str) -> list[Any]:
        return [Session(topology.compute(host).initiator)] if (
            self._servers.on(host)) else []

    def wrong_chap(self, host: str
                   ) -> contextlib.AbstractContextManager[None]:
        return self._volumes.break_way(host, 'iSCSI login failed: 513')

    def hung_portal(self, host: str
                    ) -> contextlib.AbstractContextManager[None]:
        return self._volumes.break_way(host, 'no answer within 10 s')


class FakeLab:
    """A lab whose storage host has one target for each compute host."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.volumes = self.holdings = FakeVolumes(folder)
        self.servers = FakeServers(self.volumes)
        self.hosts = FakeHosts(self.servers)
        self.storage = FakeStorage(self.volumes, self.servers)

    def close(self) -> None:
        if self.servers.writer:
            self.servers.writer.ended.set()
            self.servers.writer.join()


@dataclasses.dataclass
class Hypervisor:
    domains: list[Server]

    def listAllDomains(self) -> list[Server]:
        return self.domains


@dataclasses.dataclass
class Session:
    initiator: str


@dataclasses.dataclass
class Stored:
    """A volume on a backend, as openstacksdk has it."""

    name: str
    host: str
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    migration_id: str | None = None


class FakeCinder:
    """Volumes on backends, and what each of them holds there.

    :ivar flips: the backend on which copies are wrong
    :ivar refuses: the backend that nothing is copied to
    :ivar leaves: deleted volumes stay on their backend
    """

    def __init__(self) -> None:
        self.volumes = self.holdings = self.storage = self
        self.cloud = types.SimpleNamespace(block_storage=types.SimpleNamespace(
            volumes=lambda: list(self._volumes.values())))
        self.flips = self.refuses = ''
        self.leaves = False
        self._volumes: dict[str, Stored] = {}
        self._contents: dict[str, str] = {}

    def _place(self, volume: Stored) -> str:
        return (f'{volume_content.backend(volume)}/'
                f'{volume_content.stored_name(volume)}')

    def create(self, name: str, volume_type: str) -> Stored:
        backend = (topology.FILES if volume_type == topology.ANYWHERE
                   else volume_type)
        volume = Stored(name, f'storage@{backend}#{backend}')
        self._volumes[volume.id] = volume
        self._contents[self._place(volume)] = 'blank'
        return volume

    def delete(self, volume: Stored) -> None:
        found = self._volumes.pop(volume.id)
        if not self.leaves:
            del self._contents[self._place(found)]

    def migrate(self, volume: Stored, backend: str,
                force_host_copy: bool = False) -> Stored:
        if backend == self.refuses:
            raise errors.LabError('no valid backend')
        moved = dataclasses.replace(volume, migration_id=str(uuid.uuid4()),
                                    host=f'storage@{backend}#{backend}')
        content = self._contents.pop(self._place(volume))
        if backend == self.flips:
            content += ', a bit flipped'
        self._contents[self._place(moved)] = content
        self._volumes[volume.id] = moved
        return moved

    retype = migrate

    def write(self, volume: Stored, mib: int) -> None:
        self._contents[self._place(volume)] = f'{mib} MiB'

    def sha256(self, volume: Stored) -> str:
        return self._contents[self._place(volume)]

    def allocated(self, volume: Stored) -> int:
        return 1 << 20

    def names(self) -> set[str]:
        return set(self._contents)

    def temporary(self) -> set[str]:
        return set()

    def luns(self, host: str) -> dict[int, str]:
        return {}
