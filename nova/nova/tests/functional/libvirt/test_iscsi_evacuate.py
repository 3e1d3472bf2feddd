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

"""The old host of an evacuated server comes back.

It finds the guest's domain, and in the database the connection information of
the new host. All hosts log in to one target; which LUN is which volume can be
another matter on each of them. So LUN 2, the server's on the new host, is the
neighbour's on the old one, and disconnecting by it takes the neighbour's disk.
"""

import pathlib

import fixtures

from nova.tests import fixtures as nova_fixtures
from nova.tests.functional.libvirt import base

VOLUME = nova_fixtures.CinderFixture.IMAGE_BACKED_VOL
OF_NEIGHBOUR = nova_fixtures.CinderFixture.SWAP_OLD_VOL
PORTAL = '192.0.2.1:3260'
IQN = 'iqn.2026-01.org.example:all-hosts'


class HostInitiator(fixtures.Fixture):
    """os-brick, as far as a host's LUNs, devices and udev's links go."""

    def _setUp(self):
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.disconnected = []
        for name in ('connect_volume', 'disconnect_volume'):
            self.useFixture(fixtures.MonkeyPatch(
                f'os_brick.initiator.connectors.iscsi.ISCSIConnector.{name}',
                getattr(self, name)))

    def be(self, host):
        """Have the devices of a host from here on."""
        self.dev = self.root / host / 'dev'
        self.by_path = self.dev / 'disk/by-path'
        self.by_path.mkdir(parents=True, exist_ok=True)
        for name, path in (('_BY_PATH', self.by_path),
                           ('_SYS_BLOCK', self.root / host / 'sys/block')):
            self.useFixture(fixtures.MonkeyPatch(
                f'nova.virt.libvirt.volume.iscsi_elsewhere.{name}',
                str(path)))

    def link(self, lun):
        return self.by_path / f'ip-{PORTAL}-iscsi-{IQN}-lun-{lun}'

    def connect_volume(self, data):
        lun = data['target_lun']
        device = self.dev / f'sd{lun}'
        device.touch()
        self.link(lun).symlink_to(device)
        return {'path': str(device)}

    def disconnect_volume(self, data, device_info, force=False):
        self.disconnected.append(data['target_lun'])
        self.link(data['target_lun']).unlink()


class EvacuateTestCase(base.ServersTestBase):

    microversion = 'latest'
    ADMIN_API = True

    def setUp(self):
        super().setUp()
        self.flags(iscsi_initiator='host', group='libvirt')
        self.initiator = self.useFixture(HostInitiator())
        self.luns = {}
        self.useFixture(fixtures.MockPatchObject(
            self.cinder, '_find_connection_info', self._connection_info))
        for name in ('old', 'new'):
            self.start_compute(hostname=name)

    def _connection_info(self, volume_id, attachment_id):
        return {'driver_volume_type': 'iscsi', 'data': {
            'volume_id': volume_id, 'access_mode': 'rw',
            'target_portal': PORTAL, 'target_iqn': IQN,
            'target_lun': self.luns[volume_id]}}

    def _be(self, host):
        # One process is both hosts, and has one configuration.
        self.flags(host=host)
        self.initiator.be(host)

    def _server(self, volume_id):
        server = self._create_server(host='old', networks='none')
        self.api.post_server_volume(
            server['id'], {'volumeAttachment': {'volumeId': volume_id}})
        self._wait_for_volume_attach(server['id'], volume_id)
        return server

    def _evacuate(self, lun):
        """Move the server of VOLUME, LUN 1, to a host where it is `lun`."""
        self._be('old')
        self.luns = {VOLUME: 1, OF_NEIGHBOUR: 2}
        server = self._server(VOLUME)
        self._server(OF_NEIGHBOUR)
        self.computes['old'].stop()
        [service] = self.api.get_services(host='old', binary='nova-compute')
        self.api.put_service(service['id'], {'forced_down': True})
        self._be('new')
        self.luns[VOLUME] = lun
        self._evacuate_server(server, expected_host='new')
        self.assertTrue(self.initiator.link(lun).exists())
        self._be('old')
        self.restart_compute_service('old')
        # Whatever became of its volume, the guest is gone.
        self.assertNotIn(
            server['id'],
            self.computes['old'].driver.list_instance_uuids())

    def test_lun_of_each_host(self):
        self._evacuate(lun=2)
        self.assertEqual([], self.initiator.disconnected)
        self.assertTrue(self.initiator.link(2).exists())
        self.assertIn(f'Volume {VOLUME} is not disconnected from this host',
                      self.stdlog.logger.output)

    def test_one_lun_for_all_hosts(self):
        self._evacuate(lun=1)
        self.assertEqual([1], self.initiator.disconnected)
        self.assertFalse(self.initiator.link(1).exists())
        self.assertTrue(self.initiator.link(2).exists())
        self.assertNotIn('is not disconnected', self.stdlog.logger.output)
