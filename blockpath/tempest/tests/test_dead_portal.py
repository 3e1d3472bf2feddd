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
"""A volume with several portals, one of which is dead."""

import time

from tempest import config
from tempest.lib import decorators

from blockpath.tempest.tests import base

CONF = config.CONF
DATA = 8


class TestDeadPortal(base.PathTest):

    flag = 'multipath_dead_portal'
    needs = ('dead_portal_volume_type',)

    @decorators.idempotent_id('e0a3d5b4-7a0f-4f0e-8d51-6a4b8c9d0e04')
    @decorators.attr(type='slow')
    def test_attach_by_the_portal_that_works(self) -> None:
        """It takes not for ever, and what was written is there again."""
        server = self.boot()
        volume = self.create_volume(
            volume_type=CONF.blockpath.dead_portal_volume_type)
        began = time.monotonic()
        disk = self.attach(server, volume)
        self.assertLess(time.monotonic() - began,
                        CONF.blockpath.dead_portal_seconds)
        [connection] = self.connections(volume)
        self.assertGreater(len(connection.get('target_portals', ())), 1,
                           'Cinder returned one portal only')
        disk.fill(DATA)
        digest = disk.digest()
        self.detach(server, volume)
        self.check_digest(server, volume, digest)
