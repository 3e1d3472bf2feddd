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
"""Volumes move between iSCSI and RBD, and nothing of them is lost."""

import shlex
import subprocess
from typing import Any

from tempest import config
from tempest.lib.common.utils import test_utils
from tempest.lib import decorators

from blockpath.tempest.tests import base

CONF = config.CONF
#: MiB of data that volumes are given.
DATA = 96
#: As much that its copy does not end before it can be interrupted.
MORE_DATA = 256


class TestVolumeMigration(base.PathTest):

    flag = 'volume_migration_between_backends'

    @decorators.idempotent_id('5b8f9c0e-31b1-4e7c-a2c3-5f7e1f2f9b02')
    @decorators.attr(type='slow')
    def test_to_rbd_and_back(self) -> None:
        """Every block is the same on each backend."""
        types = (CONF.blockpath.iscsi_volume_type,
                 CONF.blockpath.rbd_volume_type)
        server, volume, digest = self.filled(types[0], DATA)
        home = self.wait_for_rest(volume)['os-vol-host-attr:host']
        self.retype(volume, types[1])
        away = self.wait_for_rest(volume)['os-vol-host-attr:host']
        self.assertNotEqual(home, away)
        self.retype(volume, types[0])
        self.assertNotEqual(away, self.wait_for_rest(volume)[
            'os-vol-host-attr:host'])
        self.check_digest(server, volume, digest)
        self.assertEqual([], self.temporary_volumes(volume))


class TestInterruptedMigration(base.PathTest):

    flag = 'interrupted_migration'
    needs = ('kill_volume_service', 'start_volume_service')

    @decorators.idempotent_id('c1c2a2d8-2c6e-4a53-9a3b-0d2c5d4f6e03')
    @decorators.attr(type='slow')
    def test_killed_while_it_copies(self) -> None:
        """The volume is whole, and there is one of it, and its user knows."""
        server, volume, digest = self.filled(
            CONF.blockpath.iscsi_volume_type, MORE_DATA)
        self._interrupt(volume)
        found = self.wait_for_rest(volume)
        self.assertEqual('available', found['status'])
        self.assertEqual([], self.temporary_volumes(volume))
        if found['migration_status'] == 'error':
            self.assertTrue(self._messages(volume))
        self.check_digest(server, volume, digest)

    def _interrupt(self, volume: Any) -> None:
        """Kill the volume service as soon as it copies, and start it."""
        self.admin_volumes.retype_volume(
            volume['id'], new_type=CONF.blockpath.rbd_volume_type,
            migration_policy='on-demand')
        copying = test_utils.call_until_true(
            lambda: bool(self.temporary_volumes(volume)), 60, 0.2)
        self.assertTrue(copying, 'the migration did not begin')
        start = shlex.split(CONF.blockpath.start_volume_service)
        try:
            subprocess.run(shlex.split(CONF.blockpath.kill_volume_service),
                           check=True)
            interrupted = bool(self.temporary_volumes(volume))
        finally:
            subprocess.run(start, check=True)
        self.assertTrue(interrupted, 'the migration had ended before the '
                        'service was killed; set volume_copy_bps_limit')

    def _messages(self, volume: Any) -> list[Any]:
        client = self.os_primary.volume_messages_client_latest
        return [each for each in client.list_messages()['messages']
                if each['resource_uuid'] == volume['id']]
