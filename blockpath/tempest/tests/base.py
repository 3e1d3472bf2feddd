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
"""What the tests share: a server, volumes that come and go, and moves."""

import contextlib
import time
from typing import Any

from tempest.common import waiters
from tempest import config
from tempest.lib.common.utils import test_utils
from tempest.lib import exceptions
from tempest.scenario import manager

from blockpath.tempest.tests import disks

CONF = config.CONF


class PathTest(manager.ScenarioTest):
    """A server, and volumes.

    :cvar flag: the option of ``[blockpath]`` that asks for the tests
    :cvar needs: the options of it that must be set then
    """

    credentials = ['primary', 'admin']
    flag = ''
    needs: tuple[str, ...] = ()
    #: Of which Nova decides by itself whether disks have to be copied.
    compute_min_microversion = '2.25'
    #: That shows attachments, and tells users of failures.
    volume_min_microversion = '3.44'

    @classmethod
    def skip_checks(cls) -> None:
        super().skip_checks()
        if not CONF.blockpath[cls.flag]:
            raise cls.skipException(f'[blockpath]{cls.flag} is not set')
        for option in cls.needs:
            if not CONF.blockpath[option]:
                raise exceptions.InvalidConfiguration(
                    f'[blockpath]{cls.flag} is set and {option} is not')
        if not CONF.validation.run_validation:
            raise cls.skipException('[validation]run_validation is not set')

    def setUp(self) -> None:
        super().setUp()
        self.keypair = self.create_keypair()
        self.admin_volumes = self.os_admin.volumes_client_latest

    # Servers -------------------------------------------------------------

    def boot(self) -> Any:
        """Boot a server that one can log in to."""
        group = self.create_security_group()
        server = self.create_server(
            key_name=self.keypair['name'],
            security_groups=[{'name': group['name']}])
        self.client = self.get_remote_client(
            self.get_server_ip(server), server=server,
            private_key=self.keypair['private_key'])
        return server

    def host_of(self, server: Any) -> str:
        found = self.os_admin.servers_client.show_server(server['id'])
        return found['server']['OS-EXT-SRV-ATTR:host']

    def another_host(self, host: str) -> str:
        """A compute host that is up, other than this one."""
        services = self.os_admin.services_client.list_services(
            binary='nova-compute')['services']
        for service in services:
            if (service['host'] != host and service['state'] == 'up' and
                    service['status'] == 'enabled'):
                return service['host']
        raise self.skipException('there is only one compute host')

    def live_migrate(self, server: Any, destination: str) -> None:
        """Live-migrate a server; it is there when this returns."""
        self.os_admin.servers_client.live_migrate_server(
            server['id'], host=destination, block_migration='auto')
        waiters.wait_for_server_status(self.servers_client, server['id'],
                                       'ACTIVE')
        self.assertEqual(destination, self.host_of(server))

    # Volumes -------------------------------------------------------------

    def attach(self, server: Any, volume: Any) -> disks.GuestDisk:
        """Attach a volume, and find it in the guest."""
        before = set(self.client.list_disks())
        self.servers_client.attach_volume(server['id'],
                                          volumeId=volume['id'])
        waiters.wait_for_volume_resource_status(
            self.volumes_client, volume['id'], 'in-use')
        self.addCleanup(self._detach_if_attached, server, volume)
        found: set[str] = set()

        def appeared() -> bool:
            found.update(set(self.client.list_disks()) - before)
            return bool(found)

        if not test_utils.call_until_true(appeared, 60, 1):
            raise exceptions.TimeoutException(
                f'volume {volume["id"]} is not seen in the guest')
        return disks.GuestDisk(self.client, found.pop())

    def boot_with(self, volume_type: str
                  ) -> tuple[Any, Any, disks.GuestDisk]:
        """Boot a server, and attach a new volume of a type to it."""
        server = self.boot()
        volume = self.create_volume(volume_type=volume_type)
        return server, volume, self.attach(server, volume)

    def filled(self, volume_type: str, mebibytes: int
               ) -> tuple[Any, Any, str]:
        """A server, a volume detached from it, and the digest of that."""
        server, volume, disk = self.boot_with(volume_type)
        disk.fill(mebibytes)
        digest = disk.digest()
        self.detach(server, volume)
        return server, volume, digest

    def check_digest(self, server: Any, volume: Any, digest: str) -> None:
        """Every byte of a detached volume is what it was."""
        disk = self.attach(server, volume)
        self.assertEqual(digest, disk.digest())
        self.detach(server, volume)

    def detach(self, server: Any, volume: Any) -> None:
        self.servers_client.detach_volume(server['id'], volume['id'])
        waiters.wait_for_volume_resource_status(
            self.volumes_client, volume['id'], 'available')

    def _detach_if_attached(self, server: Any, volume: Any) -> None:
        with contextlib.suppress(exceptions.NotFound):
            found = self.volumes_client.show_volume(volume['id'])['volume']
            if found['status'] == 'in-use':
                self.detach(server, volume)

    def connections(self, volume: Any) -> list[dict[str, Any]]:
        """How hosts were told to reach a volume, as its attachments say."""
        found = self.admin_volumes.show_volume(volume['id'])['volume']
        client = self.os_admin.attachments_client_latest
        return [client.show_attachment(each['attachment_id'])[
                    'attachment']['connection_info']
                for each in found['attachments']]

    def retype(self, volume: Any, name: str) -> None:
        """Give a volume another type, and have it brought there."""
        self.admin_volumes.retype_volume(volume['id'], new_type=name,
                                         migration_policy='on-demand')
        waiters.wait_for_volume_retype(self.admin_volumes, volume['id'],
                                       name)
        self.wait_for_rest(volume)

    def wait_for_rest(self, volume: Any) -> Any:
        """Wait until nothing moves a volume.

        :returns: the volume, as an administrator sees it
        """
        deadline = time.monotonic() + CONF.volume.build_timeout
        while True:
            found = self.admin_volumes.show_volume(volume['id'])['volume']
            if (found['migration_status'] in (None, 'none', 'success',
                                              'error') and
                    found['status'] in ('available', 'in-use')):
                return found
            if time.monotonic() > deadline:
                raise exceptions.TimeoutException(
                    f'volume {volume["id"]} is {found["status"]}, its '
                    f'migration: {found["migration_status"]}')
            time.sleep(CONF.volume.build_interval)

    def temporary_volumes(self, volume: Any) -> list[str]:
        """The volumes that a migration of this one has made, if any."""
        found = self.admin_volumes.list_volumes(
            detail=True, params={'all_tenants': 1})['volumes']
        return [each['id'] for each in found
                if each['migration_status'] == f'target:{volume["id"]}']
