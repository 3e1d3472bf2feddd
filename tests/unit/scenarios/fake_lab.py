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
"""A model of the lab's hosts and servers, for scenarios.

Servers, volumes and secrets are the same objects to openstacksdk, to libvirt
and to the tests. Each host has one target for all volumes, as with Cinder's
``target_scope = host``; a volume of another scope has a target of its own.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import subprocess
import threading
import time
import types
from typing import Any
import uuid

from blockpath.cloud import lab_servers
from blockpath.machine import topology
from blockpath.observe import write_ring
from blockpath.observe import write_watcher
from tests.unit.observe import fake_writer

HOSTS = ('cmp1', 'cmp2')
HUNG_PORTALS = ['10.77.0.1:3260', '10.78.0.1:3260']
HOST, QEMU = 'host', 'qemu'
#: Slots of the guest's ring: what it writes in five seconds.
SLOTS = 1024
_IQN = 'iqn.2010-10.org.openstack:'
_BY_QEMU = '''
<disk type="network" device="disk">
 <driver name="qemu" type="raw" cache="none"/>
 <source protocol="iscsi" name="{iqn}/{lun}" index="1">
  <host name="10.77.0.20" port="3260"/>
  <auth username="chap-{host}">
   <secret type="iscsi" uuid="{secret}"/>
  </auth>
  <initiator><iqn name="{initiator}"/></initiator>
 </source>
 <target dev="vdb" bus="virtio"/>
 <serial>{volume}</serial>
 <alias name="virtio-disk1"/>
</disk>'''
_BY_HOST = '''
<disk type="block" device="disk">
 <driver name="qemu" type="raw" cache="none"/>
 <source dev="/dev/disk/by-id/dm-uuid-mpath-{secret}" index="1"/>
 <backingStore/>
 <target dev="vdb" bus="virtio"/>
 <serial>{volume}</serial>
 <alias name="virtio-disk1"/>
</disk>'''


@dataclasses.dataclass
class Volume:
    """A volume, as openstacksdk and libvirt's secrets name it.

    :ivar encrypted: QEMU's initiator does not connect it
    :ivar initiator: that its type asks for
    :ivar shared: all hosts reach it by one target
    """

    name: str
    encrypted: bool = False
    initiator: str = ''
    shared: bool = False
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    def usageID(self) -> str:
        return self.id


@dataclasses.dataclass
class Connection:
    """What connects a volume to a host.

    :ivar paths: of the host's initiator
    """

    volume: Volume
    initiator: str
    paths: int


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

    def reboot(self) -> None:
        with self.lock:
            self.ring.start()


class FakeVolumes:
    """Volumes, their content, and which of them are mapped where."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._luns: dict[str, dict[int, Volume]] = {
            host: {} for host in HOSTS}
        self._last = dict.fromkeys(HOSTS, -1)
        #: Nova's reasons when portals hang, by initiator.
        self.hung = {'host': 'VolumeDeviceNotFound: it could not be found',
                     'qemu': 'no answer within 10 s'}
        #: Hosts that cannot reach a volume, and why, by initiator.
        self.broken: dict[str, Mapping[str, str]] = {}
        #: Volume type -> the initiator that it asks for.
        self.types: dict[str, str] = {}

    def create(self, name: str, bootable: bool = False,
               volume_type: str = topology.LVM) -> Volume:
        return Volume(name, volume_type == topology.ENCRYPTED,
                      self.types.get(volume_type, ''),
                      volume_type not in (topology.LVM, topology.ENCRYPTED))

    def delete(self, volume: Volume) -> None:
        pass

    def wait_for(self, volume: Volume, status: str) -> Volume:
        return volume

    # Content

    def file(self, volume: Volume) -> pathlib.Path:
        return self._folder / f'volume-{volume.id}'

    def encrypt(self, volume: Volume) -> None:
        pass

    def watch(self, volume: Volume) -> write_watcher.Watcher:
        return write_watcher.Watcher(self.file(volume))

    def verify(self, volume: Volume, encrypted: bool = False
               ) -> write_ring.Result:
        assert encrypted == volume.encrypted
        return write_ring.verify(self.file(volume))

    def allocated(self, volume: Volume) -> int:
        path = self.file(volume)
        return path.stat().st_blocks if path.exists() else 0

    # Mappings

    def map(self, volume: Volume, host: str) -> None:
        """To the next LUN of a host's target, which goes with its last."""
        luns = self._luns[host]
        if not luns:
            self._last[host] = -1
        self._last[host] += 1
        luns[self._last[host]] = volume

    def unmap(self, volume: Volume, host: str) -> None:
        luns = self._luns[host]
        for lun in [lun for lun, mapped in luns.items() if mapped is volume]:
            del luns[lun]

    def mapping(self, volume: Volume, host: str) -> tuple[str, int] | None:
        for lun, mapped in self._luns[host].items():
            if mapped is volume:
                return ((f'{_IQN}volume-{volume.id}', 0) if volume.shared
                        else (f'{_IQN}host-{host}', lun))
        return None

    def luns(self, host: str) -> dict[str, tuple[str, int]]:
        found = {str(self.file(volume)): self.mapping(volume, host)
                 for volume in self._luns[host].values()}
        return {path: mapping for path, mapping in found.items() if mapping}

    @contextlib.contextmanager
    def taken(self, volume: Volume, host: str) -> Iterator[None]:
        self.map(volume, host)
        yield
        self.unmap(volume, host)

    @contextlib.contextmanager
    def break_way(self, host: str, /, **reasons: str) -> Iterator[None]:
        """Let a host not reach volumes.

        :param reasons: initiator -> Nova's reason
        """
        self.broken[host] = reasons
        yield
        del self.broken[host]

    @contextlib.contextmanager
    def reached_by(self, volume: Volume, portals: list[str]) -> Iterator[None]:
        assert portals == HUNG_PORTALS
        with contextlib.ExitStack() as stack:
            for host in HOSTS:
                stack.enter_context(self.break_way(host, **self.hung))
            yield

    @contextlib.contextmanager
    def mistaken(self, volume: Volume, other: Volume) -> Iterator[None]:
        reason = 'another volume; iscsi_check_identity'
        with contextlib.ExitStack() as stack:
            for host in HOSTS:
                stack.enter_context(self.break_way(
                    host, host=reason, qemu=reason))
            yield


class FakeHosts:
    """What each host has of volumes, and the option of its nova-compute.

    :ivar stays: the initiator whose sessions and devices stay
    """

    names = HOSTS

    def __init__(self, volumes: FakeVolumes) -> None:
        self.option = dict.fromkeys(HOSTS, HOST)
        self.paths = 2
        self.stays = ''
        self.servers: list[Server] = []
        self._volumes = volumes
        self._connections: dict[str, list[Connection]] = {
            host: [] for host in HOSTS}

    def set_initiators(self, initiators: Mapping[str, str]) -> None:
        self.option |= initiators

    def restart(self, service: str) -> None:
        pass

    def initiator(self, volume: Volume, host: str) -> str:
        """Return by which initiator a host would connect a volume."""
        return (HOST if volume.encrypted
                else volume.initiator or self.option[host])

    def connect(self, volume: Volume, host: str) -> None:
        self._volumes.map(volume, host)
        self._connections[host].append(Connection(
            volume, self.initiator(volume, host), self.paths))

    def disconnect(self, volume: Volume, host: str) -> None:
        self._volumes.unmap(volume, host)
        self._connections[host] = [
            each for each in self._connections[host]
            if each.volume is not volume or each.initiator == self.stays]

    def connected(self, host: str, initiator: str) -> list[Connection]:
        return [each for each in self._connections[host]
                if each.initiator == initiator]

    def define(self, server: Server) -> None:
        """Describe a server's disks as libvirt does."""
        disks = []
        for each in self._connections[server.host]:
            if each.volume in server.volumes:
                iqn, lun = self._volumes.mapping(each.volume,
                                                 server.host) or ('', 0)
                template = _BY_QEMU if each.initiator == QEMU else _BY_HOST
                disks.append(template.format(
                    iqn=iqn, lun=lun, host=server.host,
                    secret=uuid.uuid5(uuid.NAMESPACE_DNS, each.volume.id),
                    initiator=topology.compute(server.host).initiator,
                    volume=each.volume.id))
        server.xml = f'<domain><devices>{"".join(disks)}</devices></domain>'

    def hypervisor(self, host: str) -> Any:
        return types.SimpleNamespace(listAllDomains=lambda: [
            server for server in self.servers if server.host == host])

    def secrets(self, host: str) -> list[Volume]:
        return [each.volume for each in self.connected(host, QEMU)]

    def leftovers(self, host: str) -> dict[str, list[str]]:
        found = self.connected(host, HOST)
        paths = [f'{each.volume.id}, path {number}' for each in found
                 for number in range(each.paths)]
        targets = {(each.volume.id if each.volume.shared else '', number)
                   for each in found for number in range(each.paths)}
        sessions = [f'{target}, path {number}' for target, number in targets]
        # A dead portal has a record.
        records = {(target, number) for target, _ in targets
                   for number in range(2)}
        left = {'session': sessions, 'node record': list(map(str, records)),
                'SCSI device': paths,
                'multipath map': [each.volume.id for each in found],
                'dm-crypt device': [each.volume.id for each in found
                                    if each.volume.encrypted]}
        return {kind: names for kind, names in left.items() if names}

    def run_in(self, host: str, argv: Sequence[str], timeout: float = 0
               ) -> 'subprocess.CompletedProcess[str]':
        if argv == ['ls', '/dev/disk/by-path']:
            found = [self._volumes.mapping(each.volume, host)
                     for each in self.connected(host, HOST)]
            said = '\n'.join(
                f'ip-10.77.0.20:3260-iscsi-{mapping[0]}-lun-{mapping[1]}'
                for mapping in found if mapping)
        else:
            said = (f'nova CRITICAL Unhandled error: {self.option[host]}: '
                    f'install qemu-block-extra')
        return subprocess.CompletedProcess(argv, 0, said, '')


class FakeServers:
    """Servers. One migrates unless the way to its destination is broken.

    Their guests write records to all but the first volume, in threads.

    :ivar stalls: of migrations, by their number from 0: for how many seconds
        the writes stand still
    :ivar hangs: the number of the migration that the guest does not survive
    :ivar loses: the number of the migration that costs a record
    :ivar refuses: the number of the migration that fails for no reason
    """

    def __init__(self, volumes: FakeVolumes, hosts: FakeHosts) -> None:
        self.stalls: dict[int, float] = {}
        self.hangs = self.loses = self.refuses = -1
        self.panics = ''
        self.writers: dict[str, Writer] = {}
        self._volumes = volumes
        self._hosts = hosts
        self._migrations = 0
        self._fault = lab_servers.NO_REASON

    def boot(self, name: str, volume: Volume, host: str = 'cmp1',
             network: bool = False) -> Server:
        server = Server(host, [volume])
        self._hosts.servers.append(server)
        self._hosts.connect(volume, host)
        self._hosts.define(server)
        return server

    def delete(self, server: Server) -> None:
        for volume in list(server.volumes):
            self._disconnect(server, volume)
        self._hosts.servers.remove(server)

    def attach(self, server: Server, volume: Volume) -> None:
        server.volumes.append(volume)
        self._hosts.connect(volume, server.host)
        self._hosts.define(server)
        self.writers[volume.id] = Writer(self._volumes.file(volume))
        self.writers[volume.id].start()

    def detach(self, server: Server, volume: Volume) -> None:
        self._disconnect(server, volume)
        self._hosts.define(server)

    def _disconnect(self, server: Server, volume: Volume) -> None:
        writer = self.writers.pop(volume.id, None)
        if writer:
            writer.ended.set()
            writer.join()
        server.volumes.remove(volume)
        self._hosts.disconnect(volume, server.host)

    # Of openstacksdk

    def create_volume_attachment(self, server_id: str, volume_id: str
                                 ) -> None:
        """Fail: it is called where that is expected."""
        self._fault = self._reason('cmp1')

    def reboot_server(self, server_id: str, kind: str) -> None:
        for writer in self.writers.values():
            writer.reboot()

    def stop_server(self, server_id: str) -> None:
        pass

    def start_server(self, server_id: str) -> None:
        self.reboot_server(server_id, '')

    # Of the lab

    def wait_for(self, server: Server, status: str) -> Server:
        return server

    def host_of(self, server: Server) -> str:
        return server.host

    def domain(self, server: Server, host: str | None = None) -> Server:
        return server

    def fault(self, server: Server) -> str:
        return self._fault

    def last_words(self, server: Server) -> str:
        return 'booted'

    def panic(self, server: Server) -> str:
        return self.panics

    def _reason(self, host: str) -> str:
        return self._volumes.broken.get(host, {}).get(
            self._hosts.option[host], '')

    def migrate(self, server: Server, destination: str, check: bool = True
                ) -> lab_servers.Migration:
        number, source = self._migrations, server.host
        self._migrations += 1
        writers = [self.writers[volume.id] for volume in server.volumes[1:]]
        writers[0].pause(self.stalls.get(number, 0.02))
        if number == self.hangs:
            writers[0].writing.clear()
        if number == self.loses:
            writers[0].lose()
        status = 'completed'
        reason = self._reason(destination)
        if reason or number == self.refuses:
            self._fault = reason or lab_servers.NO_REASON
            status = 'error'
        else:
            for volume in server.volumes:
                self._hosts.connect(volume, destination)
                self._hosts.disconnect(volume, source)
            server.host = destination
            self._hosts.define(server)
        return lab_servers.Migration(number, source, destination, status, 0.1)


class FakeStorage:
    """The targets, and how the way to them breaks."""

    def __init__(self, volumes: FakeVolumes, hosts: FakeHosts) -> None:
        self._volumes = volumes
        self._hosts = hosts
        self.luns = volumes.luns

    def sessions(self, host: str) -> dict[str, tuple[str, ...]]:
        logged_in = any(self._hosts.connected(host, initiator)
                        for initiator in (HOST, QEMU))
        return {f'{_IQN}host-{host}':
                topology.compute(host).addresses} if logged_in else {}

    def wrong_chap(self, host: str
                   ) -> contextlib.AbstractContextManager[None]:
        return self._volumes.break_way(
            host, host='VolumeDeviceNotFound: it could not be found',
            qemu='iSCSI login failed: 513')

    @contextlib.contextmanager
    def hung_portals(self) -> Iterator[list[str]]:
        yield HUNG_PORTALS

    @contextlib.contextmanager
    def dead_portal(self, number: int) -> Iterator[None]:
        self._hosts.paths = 1
        yield
        self._hosts.paths = 2


class FakeTypes:
    """Cinder's API of volume types and QoS specs."""

    def __init__(self, volumes: FakeVolumes) -> None:
        self._volumes = volumes

    def create_type(self, name: str, extra_specs: Mapping[str, str]) -> Any:
        return types.SimpleNamespace(id=name)

    def delete_type(self, made: Any) -> None:
        del self._volumes.types[made.id]

    def post(self, path: str, json: Mapping[str, Any]) -> Any:
        self._initiator = json['qos_specs']['iscsi_initiator']
        return types.SimpleNamespace(json=lambda: {'qos_specs': {'id': 'q'}})

    def get(self, path: str) -> None:
        self._volumes.types[path.rpartition('=')[2]] = self._initiator

    def delete(self, path: str) -> None:
        pass


class FakeLab:
    """A lab with two compute hosts.

    :param folder: for the volumes, and for the lab's files
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.site = topology.Site(folder / 'lab', folder / 'cache')
        self.volumes = self.holdings = FakeVolumes(folder)
        self.hosts = FakeHosts(self.volumes)
        self.servers = FakeServers(self.volumes, self.hosts)
        self.storage = FakeStorage(self.volumes, self.hosts)
        self.cloud = types.SimpleNamespace(
            compute=self.servers, block_storage=FakeTypes(self.volumes))
        self.passwords = types.SimpleNamespace(volumes='secret')
        self.daemons = types.SimpleNamespace(
            stop=lambda name: None,
            ceph=types.SimpleNamespace(key=lambda: 'key'))

    def close(self) -> None:
        for writer in self.servers.writers.values():
            writer.ended.set()
            writer.join()
