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
"""A server moves between hosts that reach its volume by other targets."""

from typing import Any

from tempest import config
from tempest.lib import decorators

from blockpath.tempest.tests import base

CONF = config.CONF
#: What tells one way to a volume from another.
_WAY = ('target_portal', 'target_iqn', 'target_lun')


class TestLiveMigrationBetweenTargets(base.PathTest):

    flag = 'live_migration_between_targets'

    @decorators.idempotent_id('7d7bb0c5-9a47-4d23-8f1d-0c5a3dd0d1a1')
    @decorators.attr(type='slow')
    def test_there_and_back_while_the_guest_writes(self) -> None:
        """No block is lost, none is wrong, and the way is another one."""
        server, volume, disk = self.boot_with(
            CONF.blockpath.iscsi_volume_type)
        home = self.host_of(server)
        away = self.another_host(home)
        disk.start_writer()
        count = disk.wait_written(0)
        way = self._way(volume)
        for destination in (away, home):
            self.live_migrate(server, destination)
            count = disk.wait_written(count)
            other = self._way(volume)
            self.assertNotEqual(way, other)
            way = other
        disk.check_written(disk.stop_writer())
        self.detach(server, volume)

    def _way(self, volume: Any) -> tuple[Any, ...]:
        """How the one host that has a volume reaches it."""
        connections = self.connections(volume)
        self.assertEqual(1, len(connections),
                         'the host that the server left has kept the volume')
        return tuple(connections[0].get(key) for key in _WAY)
