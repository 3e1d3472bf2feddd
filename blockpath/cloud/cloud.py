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
"""A running lab, for scenarios: its cloud, its hosts, its parts."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import pathlib
import subprocess
import time
from typing import Any

import libvirt
import openstack.connection
import openstack.exceptions

from blockpath.cloud import fault_injection
from blockpath.cloud import lifecycle
from blockpath.cloud import seed
from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import volume_content

#: Seconds between two looks at something that changes.
POLL = 0.2
#: Seconds that anything may take, emulated guests and busy machines included.
PATIENCE = 120.0


class MigrationFailed(errors.LabError):
    """A live migration ended in another state than ``completed``."""


@dataclasses.dataclass(frozen=True)
class Migration:
    """A live migration that has ended.

    :ivar status: Nova's, ``completed`` when it went well.
    :ivar seconds: from the request until Nova said so.
    """

    id: int
    source: str
    destination: str
    status: str
    seconds: float

    @property
    def completed(self) -> bool:
        return self.status == 'completed'


class VolumeMigrationFailed(errors.LabError):
    """A volume did not come to where it was to go."""


class Lab:
    """A lab that is up.

    Volumes and servers are given and returned as openstacksdk's objects;
    hosts by their names.

    :raises LabError: the lab is not up.
    """

    def __init__(self, site: topology.Site | None = None) -> None:
        self.site = site or topology.Site()
        if lifecycle.find(self.site) is not lifecycle.State.UP:
            raise errors.LabError(
                'the lab is not up; start it with: blockpath lab up')
        self.daemons = services.Daemons(self.site)
        self.storage = fault_injection.Storage(self.daemons)
        #: What volumes hold, past Cinder.
        self.holdings = volume_content.Holdings(self.site, self.daemons.ceph)
        #: Names of the compute hosts.
        self.hosts = tuple(host.name for host in topology.COMPUTES)
        #: How guests run here: ``kvm`` or ``qemu``.
        self.virt_type = lifecycle.facts(self.site)['virt_type']
        self._libvirt: dict[str, libvirt.virConnect] = {}

    # Hosts ---------------------------------------------------------------

    def enter(self) -> None:
        """Move this thread, and those it starts, to the control host.

        The APIs are reachable from there only. The files stay the same.
        """
        namespaces.enter(self.site.netns(topology.CONTROL.name))

    def run_in(self, host: str, argv: Sequence[str],
               **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a program on a host: ``cmp1``, ``storage``, ...

        :param kwargs: for :func:`subprocess.run`; output is captured as
            text.
        """
        return subprocess.run(
            [*self.daemons.enter(host), *argv], capture_output=True,
            text=True, env=self.daemons.env(), **kwargs)

    def root(self, host: str) -> pathlib.Path:
        """A host's root directory: its /run and /etc are its own."""
        return self.daemons.root(host)

    def processes(self) -> dict[int, str]:
        """Every process of the lab: id -> host."""
        prefix = f'{self.site.prefix}-'
        return {pid: name.removeprefix(prefix) for pid, name in
                namespaces.members(namespaces.existing(self.site)).items()}

    def hypervisor(self, host: str) -> libvirt.virConnect:
        """A connection to a host's libvirtd, from any namespace."""
        if host in self._libvirt:
            try:
                # isAlive() would not notice that libvirtd was restarted.
                self._libvirt[host].getLibVersion()
                return self._libvirt[host]
            except libvirt.libvirtError:
                pass
        self._libvirt[host] = libvirt.open(self.daemons.libvirt_uri(host))
        return self._libvirt[host]

    def restart(self, service: str) -> None:
        """Stop a service and start it; it serves when this returns.

        A tgtd that is started anew knows no target: cinder-volume, which
        fills it, is restarted as well.
        """
        self.daemons.restart(service)
        if service == 'tgtd':
            self.daemons.restart('cinder-volume')

    def kill(self, service: str) -> bool:
        """Kill a service with no warning; :meth:`restart` starts it.

        :returns: whether there was one to kill
        """
        return self.daemons.kill(service)

    @contextlib.contextmanager
    def killed(self, service: str) -> Iterator[None]:
        """Kill a service with no warning; it serves again after the block."""
        try:
            self.kill(service)
            yield
        finally:
            self.restart(service)

    def running(self, program: str) -> list[int]:
        """The processes of the lab that run a program, by its name."""
        def runs(pid: int) -> bool:
            try:
                line = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
            except OSError:
                return False
            return line.partition(b'\0')[0].rpartition(
                b'/')[2] == program.encode()

        return sorted(filter(runs, self.processes()))

    @contextlib.contextmanager
    def configured(self, service: str,
                   **sections: Mapping[str, object]) -> Iterator[None]:
        """Have a service run with other options, as to slow it down.

        :param sections: section -> option -> value
        """
        argv = self.daemons.table[service].argv
        path = pathlib.Path(argv[argv.index('--config-file') + 1])
        before = path.read_text()
        # Of an option that is set twice, the last counts.
        lines = [line for section, options in sections.items() for line in
                 (f'[{section}]', *(f'{option} = {value}' for option, value
                                    in options.items()))]
        path.write_text('\n'.join([before, *lines, '']))
        try:
            self.restart(service)
            yield
        finally:
            path.write_text(before)
            self.restart(service)

    # The cloud -----------------------------------------------------------

    @functools.cached_property
    def cloud(self) -> openstack.connection.Connection:
        """The APIs, as administrator. See :meth:`enter`."""
        return seed.connect(self.site)

    @functools.cached_property
    def image_id(self) -> str:
        """The tiny guest."""
        return self.cloud.image.find_image(
            seed.IMAGE, ignore_missing=False).id

    def create_volume(self, name: str, size: int = 1, bootable: bool = False,
                      bus: str | None = None, **attributes: Any) -> Any:
        """Create a volume and wait until it is there.

        :param size: GiB.
        :param bootable: with the tiny guest on it, else blank.
        :param bus: of the disks of a server that boots from it, ``virtio``
            or ``scsi`` (which is virtio-scsi).
        :param attributes: as ``volume_type``: a backend of the lab, or
            ``anywhere``. Volumes on Ceph can not be attached to servers:
            the compute hosts know nothing of it.
        """
        image = {'image_id': self.image_id} if bootable else {}
        volume = self.cloud.block_storage.create_volume(
            name=name, size=size, **image, **attributes)
        volume = self.wait_for_volume(volume, 'available')
        if bus:
            self.cloud.block_storage.set_volume_image_metadata(
                volume, hw_disk_bus=bus, hw_scsi_model='virtio-scsi')
        return volume

    def wait_for_volume(self, volume: Any, status: str) -> Any:
        """:raises LabError: it came into an error state instead."""
        def look() -> Any:
            found = self.cloud.block_storage.get_volume(volume.id)
            if found.status == status:
                return found
            if found.status.startswith('error'):
                raise errors.LabError(f'volume {found.name} is '
                                      f'{found.status}, not {status}')
            return None

        return wait.until(look, f'volume {volume.name} to be {status}',
                          PATIENCE, POLL)

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume and wait until it is gone.

        A server that has gone may not have let go of its volumes yet, and a
        copy that was given up not have ended.
        """
        self.wait_for_rest(volume)
        self.wait_for_volume(volume, 'available')
        self.cloud.block_storage.delete_volume(volume.id)

        def gone() -> bool:
            try:
                found = self.cloud.block_storage.get_volume(volume.id)
            except openstack.exceptions.NotFoundException:
                return True
            if found.status.startswith('error'):
                raise errors.LabError(f'volume {found.name} is '
                                      f'{found.status} after its deletion')
            return False

        wait.until(gone, f'volume {volume.name} to be deleted', PATIENCE,
                   POLL)

    def start_migration(self, volume: Any, backend: str,
                        force_host_copy: bool = False) -> None:
        """Ask Cinder to bring a volume to another backend.

        See :meth:`migrate_volume`.
        """
        host = f'{topology.STORAGE.name}@{backend}#{backend}'
        self.cloud.block_storage.migrate_volume(
            volume.id, host=host, force_host_copy=force_host_copy)

    def migrate_volume(self, volume: Any, backend: str,
                       force_host_copy: bool = False,
                       patience: float = PATIENCE) -> Any:
        """Have Cinder bring a volume to another backend, and wait.

        :param volume: of the type ``anywhere``, or one that suits
        :param force_host_copy: not by the driver, however it could
        :returns: the volume
        :raises VolumeMigrationFailed: it is not there.
        """
        self.start_migration(volume, backend, force_host_copy)
        return self.wait_for_move(volume, backend, patience)

    def retype(self, volume: Any, backend: str, policy: str = 'on-demand',
               patience: float = PATIENCE) -> Any:
        """Have Cinder give a volume the type of a backend, and wait.

        :param policy: the migration policy, ``on-demand`` or ``never``
        :returns: the volume
        :raises VolumeMigrationFailed: it is not there.
        """
        kind = self.cloud.block_storage.find_type(backend,
                                                  ignore_missing=False)
        self.cloud.block_storage.retype_volume(volume.id, kind.id, policy)
        moved = self.wait_for_move(volume, backend, patience)
        if moved.volume_type != backend:
            raise VolumeMigrationFailed(
                f'volume {volume.name} is of type {moved.volume_type}, not '
                f'{backend}')
        return moved

    def wait_for_move(self, volume: Any, backend: str,
                      patience: float = PATIENCE) -> Any:
        """Wait until nothing moves a volume.

        :returns: the volume
        :raises VolumeMigrationFailed: it is not on that backend then.
        """
        found = self.wait_for_rest(volume, patience)
        if (volume_content.backend(found) != backend or
                found.migration_status == 'error'):
            raise VolumeMigrationFailed(
                f'volume {found.name} is on {found.host}, not on {backend}; '
                f'its migration: {found.migration_status}; the log is '
                f'{self.site.log}/cinder-volume.log')
        return found

    def wait_for_rest(self, volume: Any, patience: float = PATIENCE,
                      told: bool = False) -> Any:
        """Wait until nothing moves a volume, wherever it is then.

        :param told: wait for Cinder to tell how a migration ended, too: it
            forgets for a moment that there is one, when it has changed the
            two volumes' places
        :returns: the volume
        """
        moves = _MOVING | {None} if told else _MOVING

        def look() -> Any:
            found = self.cloud.block_storage.get_volume(volume.id)
            moving = (found.migration_status in moves or
                      found.status in ('retyping', 'maintenance'))
            return None if moving else found

        return wait.until(look, f'volume {volume.name} to be moved', patience,
                          POLL)

    def destination(self, volume: Any) -> Any:
        """Wait for the temporary volume that a volume is being copied to.

        :returns: that volume
        """
        def look() -> Any:
            for found in self.cloud.block_storage.volumes():
                if (found.migration_status == f'target:{volume.id}' and
                        found.status == 'available'):
                    return found
            return None

        return wait.until(look, f'the copy of volume {volume.name} to begin',
                          PATIENCE, POLL)

    def messages(self, volume: Any) -> list[str]:
        """What Cinder has told the user of a volume."""
        answer = self.cloud.block_storage.get(
            f'/messages?resource_uuid={volume.id}', microversion='3.5')
        openstack.exceptions.raise_from_response(answer)
        return [row['user_message'] for row in answer.json()['messages']]

    def backing_file(self, volume: Any) -> pathlib.Path:
        """The file that holds a volume's bytes."""
        return self.holdings.file(volume)

    def boot(self, name: str, volume: Any, host: str | None = None,
             network: bool = False) -> Any:
        """Boot a server from a volume and wait until it is active.

        :param host: where; else the scheduler decides.
        :param network: with a port on the ``private`` network.
        """
        networks: Any = 'none'
        if network:
            found = self.cloud.network.find_network(
                seed.NETWORK, ignore_missing=False)
            networks = [{'uuid': found.id}]
        flavor = self.cloud.compute.find_flavor(seed.FLAVOR,
                                                ignore_missing=False)
        server = self.cloud.compute.create_server(
            name=name, flavor_id=flavor.id, networks=networks,
            block_device_mapping=[{
                'uuid': volume.id, 'source_type': 'volume',
                'destination_type': 'volume', 'boot_index': 0,
                'delete_on_termination': False}],
            **({'host': host} if host else {}))
        return self.wait_for_server(server, 'ACTIVE')

    def wait_for_server(self, server: Any, status: str) -> Any:
        """Wait for a server's status, and for all tasks on it to end.

        :raises LabError: it came into state ERROR; with Nova's fault.
        """
        def look() -> Any:
            found = self.cloud.compute.get_server(server.id)
            if found.status == status and not found.task_state:
                return found
            if found.status == 'ERROR':
                fault = (found.fault or {}).get('message', 'no fault given')
                raise errors.LabError(f'server {found.name} is in error: '
                                      f'{fault}')
            return None

        return wait.until(look, f'server {server.name} to be {status}',
                          PATIENCE, POLL)

    def delete_server(self, server: Any) -> None:
        """Delete a server and wait until it is gone."""
        self.cloud.compute.delete_server(server.id)

        def gone() -> bool:
            try:
                self.cloud.compute.get_server(server.id)
            except openstack.exceptions.NotFoundException:
                return True
            return False

        wait.until(gone, f'server {server.name} to be deleted', PATIENCE,
                   POLL)

    def attach(self, server: Any, volume: Any) -> Any:
        """Attach a volume and wait until it is in use.

        :returns: the volume.
        """
        self.cloud.compute.create_volume_attachment(
            server.id, volume_id=volume.id)
        return self.wait_for_volume(volume, 'in-use')

    def detach(self, server: Any, volume: Any) -> Any:
        """Detach a volume and wait until it is available.

        :returns: the volume.
        """
        self.cloud.compute.delete_volume_attachment(server.id, volume.id)
        return self.wait_for_volume(volume, 'available')

    @contextlib.contextmanager
    def taken(self, volume: Any, host: str) -> Iterator[None]:
        """Have a volume mapped to a compute host, as for another's server.

        The host's target stays there for as long, and what is mapped later
        has another LUN than on a host that has nothing.
        """
        storage = self.cloud.block_storage
        answer = storage.post('/attachments', microversion='3.44', json={
            'attachment': {'volume_uuid': volume.id, 'connector': {
                'initiator': topology.compute(host).initiator, 'host': host}}})
        openstack.exceptions.raise_from_response(answer)
        path = f'/attachments/{answer.json()["attachment"]["id"]}'
        try:
            answer = storage.post(f'{path}/action', microversion='3.44',
                                  json={'os-complete': None})
            openstack.exceptions.raise_from_response(answer)
            self.wait_for_volume(volume, 'in-use')
            yield
        finally:
            answer = storage.delete(path, microversion='3.44')
            openstack.exceptions.raise_from_response(answer)

    @contextlib.contextmanager
    def mistaken(self, volume: Any, other: Any) -> Iterator[None]:
        """Have a volume mapped wrongly, to where hosts have another one."""
        storage = self.cloud.block_storage
        storage.set_volume_metadata(volume, mistaken_for=other.id)
        try:
            yield
        finally:
            storage.delete_volume_metadata(volume, ['mistaken_for'])

    def clean(self) -> None:
        """Delete all servers and volumes, whoever made them."""
        for server in list(self.cloud.compute.servers()):
            self.delete_server(server)
        for volume in list(self.cloud.block_storage.volumes()):
            self.delete_volume(volume)

    def host_of(self, server: Any) -> str:
        """Where Nova says that a server is."""
        return self.cloud.compute.get_server(server.id).compute_host

    # Live migration ------------------------------------------------------

    def migrate(self, server: Any, destination: str,
                check: bool = True) -> Migration:
        """Live-migrate a server and wait for the end of it.

        :param check: raise when it fails; else tell only.
        :raises MigrationFailed: it did not complete; names Nova's reason.
        """
        known = {migration.id for migration in self._migrations(server)}
        source = self.host_of(server)
        started = time.monotonic()
        self.cloud.compute.live_migrate_server(
            server.id, host=destination, block_migration='auto')

        def ended() -> Any:
            for migration in self._migrations(server):
                if (migration.id not in known and
                        migration.status in _MIGRATION_ENDS):
                    return migration
            return None

        found = wait.until(ended, f'server {server.name} to be migrated to '
                           f'{destination}', PATIENCE, POLL)
        seconds = time.monotonic() - started
        migration = Migration(found.id, source, destination, found.status,
                              seconds)
        self.wait_for_server(server, 'ACTIVE')
        if check and not migration.completed:
            raise MigrationFailed(
                f'the migration of {server.name} from {source} to '
                f'{destination} is in state {found.status}: '
                f'{self.fault(server)}')
        return migration

    def _migrations(self, server: Any) -> list[Any]:
        answer = self.cloud.compute.get(
            f'/os-migrations?instance_uuid={server.id}'
            '&migration_type=live-migration')
        openstack.exceptions.raise_from_response(answer)
        return [_Found(row['id'], row['status'])
                for row in answer.json()['migrations']]

    def fault(self, server: Any) -> str:
        """What Nova noted of the last action on a server that failed."""
        for action in self.cloud.compute.server_actions(server.id):
            detail = self.cloud.compute.get_server_action(
                action.request_id, server.id)
            for event in detail.events or []:
                if event.result == 'Error':
                    return event.details or 'no details given'
        return 'no reason given'

    # What a guest is to its hypervisor -----------------------------------

    def domain(self, server: Any, host: str | None = None
               ) -> libvirt.virDomain:
        """:raises libvirt.libvirtError: it is not on that host.

        :param host: else where Nova says that it is.
        """
        hypervisor = self.hypervisor(host or self.host_of(server))
        return hypervisor.lookupByUUIDString(server.id)

    def console(self, server: Any, host: str) -> pathlib.Path:
        """The file that a host's QEMU writes the guest's console to."""
        return (self.site.host(host) / 'nova' / 'instances' / server.id /
                'console.log')

    def last_words(self, server: Any) -> str:
        """The ends of what the guest wrote to its console on each host."""
        found = {host: self.console(server, host) for host in self.hosts}
        return '\n'.join(
            f'{host}: {path.read_text("utf-8", "replace")[-2000:]}'
            for host, path in found.items() if path.exists())

    def secrets(self, host: str) -> list[libvirt.virSecret]:
        """libvirt's secrets on a host."""
        return self.hypervisor(host).listAllSecrets()

    def scsi_devices(self) -> list[str]:
        """SCSI devices of this machine's kernel: there must never be one."""
        found = pathlib.Path('/sys/class/scsi_device')
        return sorted(entry.name for entry in found.glob('*'))

    def lun(self, volume: Any, host: str) -> int | None:
        """By which LUN a host sees a volume; None: it does not."""
        path = str(self.backing_file(volume))
        for lun, backing in self.storage.luns(host).items():
            if backing == path:
                return lun
        return None


@dataclasses.dataclass(frozen=True)
class _Found:
    id: int
    status: str


#: A volume's migration_status while it is on its way.
_MOVING: frozenset[str | None] = frozenset(
    ('starting', 'migrating', 'completing'))
_MIGRATION_ENDS = frozenset(('completed', 'error', 'failed',
                             'cancelled'))
