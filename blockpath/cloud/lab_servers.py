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
"""The servers of a running lab."""

import dataclasses
import pathlib
import time
from typing import Any

import libvirt
import openstack.connection
import openstack.exceptions

from blockpath.cloud import lab_hosts
from blockpath.cloud import lab_volumes
from blockpath.cloud import logs as lab_logs
from blockpath.cloud import seed
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import topology
from blockpath.machine import wait

#: Of a failed action whose reason Nova does not have, or not yet.
NO_REASON = 'no reason given'
_MIGRATION_ENDS = frozenset(('completed', 'error', 'failed', 'cancelled'))


class MigrationFailed(errors.LabError):
    """A live migration ended in another state than ``completed``."""


@dataclasses.dataclass(frozen=True)
class Migration:
    """A live migration that has ended.

    :ivar status: Nova's; ``completed`` if the server migrated
    :ivar seconds: from the request until Nova reported the status
    """

    id: int
    source: str
    destination: str
    status: str
    seconds: float

    @property
    def completed(self) -> bool:
        return self.status == 'completed'


class Servers:
    """Boots, moves and deletes servers, and finds their guests.

    Servers and volumes are openstacksdk's objects; hosts go by their names.
    """

    def __init__(self, cloud: openstack.connection.Connection,
                 site: topology.Site, hosts: lab_hosts.Hosts,
                 volumes: lab_volumes.Volumes) -> None:
        self._cloud = cloud
        self._site = site
        self._hosts = hosts
        self._volumes = volumes
        #: Copies of consoles, and QEMU's logs, in the log folder.
        self.logs: set[pathlib.Path] = set()

    @property
    def _api(self) -> Any:
        # Not in __init__: the first access looks the endpoint up.
        return self._cloud.compute

    def boot(self, name: str, volume: Any, host: str | None = None,
             network: bool = False) -> Any:
        """Boot a server from a volume and wait until it is active.

        :param host: of the server; without it the scheduler decides
        :param network: create a port on the ``private`` network
        """
        networks: Any = 'none'
        if network:
            found = self._cloud.network.find_network(
                seed.NETWORK, ignore_missing=False)
            networks = [{'uuid': found.id}]
        flavor = self._api.find_flavor(seed.FLAVOR, ignore_missing=False)
        server = self._api.create_server(
            name=name, flavor_id=flavor.id, networks=networks,
            block_device_mapping=[{
                'uuid': volume.id, 'source_type': 'volume',
                'destination_type': 'volume', 'boot_index': 0,
                'delete_on_termination': False}],
            **({'host': host} if host else {}))
        return self.wait_for(server, 'ACTIVE')

    def wait_for(self, server: Any, status: str) -> Any:
        """Wait for a server's status, and for all tasks on it to end.

        :raises LabError: the server is in state ERROR; names Nova's fault
        """
        def look() -> Any:
            found = self._api.get_server(server.id)
            if found.status == status and not found.task_state:
                return found
            if found.status == 'ERROR':
                fault = (found.fault or {}).get('message', 'no fault given')
                raise errors.LabError(f'server {found.name} is in error: '
                                      f'{fault}')
            return None

        return wait.until(look, f'server {server.name} to be {status}',
                          wait.PATIENCE, wait.POLL)

    def delete(self, server: Any) -> None:
        """Delete a server and wait until it is gone; its logs stay."""
        self.keep_logs()
        self._api.delete_server(server.id)

        def gone() -> bool:
            try:
                self._api.get_server(server.id)
            except openstack.exceptions.NotFoundException:
                return True
            return False

        wait.until(gone, f'server {server.name} to be deleted', wait.PATIENCE,
                   wait.POLL)

    def attach(self, server: Any, volume: Any) -> Any:
        """Attach a volume and wait until it is in use.

        :returns: the volume.
        """
        self._api.create_volume_attachment(server.id, volume_id=volume.id)
        return self._volumes.wait_for(volume, 'in-use')

    def detach(self, server: Any, volume: Any) -> Any:
        """Detach a volume and wait until it is available.

        :returns: the volume.
        """
        self._api.delete_volume_attachment(server.id, volume.id)
        return self._volumes.wait_for(volume, 'available')

    def host_of(self, server: Any) -> str:
        """Return the host that Nova reports for a server."""
        return self._api.get_server(server.id).compute_host

    def migrate(self, server: Any, destination: str,
                check: bool = True) -> Migration:
        """Live-migrate a server and wait for the end of the migration.

        :param check: raise an exception if the migration fails
        :raises MigrationFailed: Nova did not complete it; names the reason
        """
        known = set(self._migrations(server))
        source = self.host_of(server)
        started = time.monotonic()
        self._api.live_migrate_server(
            server.id, host=destination, block_migration='auto')

        def ended() -> tuple[int, str] | None:
            for number, status in self._migrations(server).items():
                if number not in known and status in _MIGRATION_ENDS:
                    return number, status
            return None

        found = wait.until(ended, f'server {server.name} to be migrated to '
                           f'{destination}', wait.PATIENCE, wait.POLL)
        seconds = time.monotonic() - started
        assert found
        number, status = found
        migration = Migration(number, source, destination, status, seconds)
        self.wait_for(server, 'ACTIVE')
        if check and not migration.completed:
            raise MigrationFailed(
                f'the migration of {server.name} from {source} to '
                f'{destination} is in state {status}: '
                f'{self.fault(server)}')
        return migration

    def _migrations(self, server: Any) -> dict[int, str]:
        """Map the ids of a server's live migrations to their statuses."""
        answer = self._api.get(
            f'/os-migrations?instance_uuid={server.id}'
            '&migration_type=live-migration')
        openstack.exceptions.raise_from_response(answer)
        return {row['id']: row['status']
                for row in answer.json()['migrations']}

    def fault(self, server: Any) -> str:
        """Return Nova's details of the last failed action on a server."""
        for action in self._api.server_actions(server.id):
            detail = self._api.get_server_action(action.request_id,
                                                 server.id)
            for event in detail.events or []:
                if event.result == 'Error':
                    return event.details or 'no details given'
        return NO_REASON

    def domain(self, server: Any, host: str | None = None
               ) -> libvirt.virDomain:
        """Look up a server's libvirt domain.

        :param host: to look on; by default the one that Nova reports
        :raises libvirt.libvirtError: the domain is not on that host
        """
        hypervisor = self._hosts.hypervisor(host or self.host_of(server))
        return hypervisor.lookupByUUIDString(server.id)

    def console(self, server: Any, host: str) -> pathlib.Path:
        """Return the file that QEMU on a host writes the console to."""
        return (self._site.host(host) / 'nova' / 'instances' / server.id /
                'console.log')

    def panic(self, server: Any) -> str:
        """Return the host on which a guest panicked, and its kernel's words.

        :returns: '' if it did not
        """
        found = {host: kernel_host.panic(self.console(server, host))
                 for host in self._hosts.names}
        return '; '.join(f'{host}: {line}' for host, line in found.items()
                         if line)

    def last_words(self, server: Any) -> str:
        """Return the end of the guest's console log on each host."""
        found = {host: self.console(server, host)
                 for host in self._hosts.names}
        return '\n'.join(
            f'{host}: {path.read_text("utf-8", "replace")[-2000:]}'
            for host, path in found.items() if path.exists())

    def keep_logs(self) -> None:
        """Copy consoles to the log folder, where QEMU's logs are.

        Nova deletes a console with its server.
        """
        self.logs.update(lab_logs.keep_consoles(self._site))
        self.logs.update(log.path for log in lab_logs.find(self._site)
                         if log.kind == 'QEMU')
