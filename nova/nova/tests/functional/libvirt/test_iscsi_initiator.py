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

"""Live migration between hosts that reach a volume by different targets."""

from unittest import mock

import fixtures
from lxml import etree

from nova.tests import fixtures as nova_fixtures
from nova.tests.functional.api import client
from nova.tests.functional.libvirt import base
from nova.virt.libvirt.volume import iscsi_secret

VOLUME = nova_fixtures.CinderFixture.IMAGE_BACKED_VOL


class DifferentTargets(base.LibvirtMigrationMixin, base.ServersTestBase):
    """Each attachment of the volume has a target and a password of its own."""

    microversion = 'latest'
    ADMIN_API = True

    def setUp(self):
        super().setUp()
        self.flags(iscsi_initiator='qemu', group='libvirt')
        self.targets = []
        self.useFixture(fixtures.MockPatchObject(
            self.cinder, '_find_connection_info', self._connection_info))
        self.probe = self.useFixture(fixtures.MockPatch(
            'nova.virt.libvirt.volume.iscsi_probe.probe',
            return_value=None)).mock
        self.useFixture(fixtures.MockPatch(
            'nova.virt.libvirt.volume.iscsi_initiator.initiator_name',
            return_value='iqn.2026-01.org.example:initiator'))
        for name in ('src', 'dest'):
            self.start_compute(hostname=name)
            setattr(self, name, self.computes[name])
        self.server = self._create_server(host='src', networks='none')

    def _connection_info(self, volume_id, attachment_id):
        if attachment_id not in self.targets:
            self.targets.append(attachment_id)
        number = self.targets.index(attachment_id)
        return {'driver_volume_type': 'iscsi', 'data': {
            'volume_id': volume_id, 'access_mode': 'rw',
            # Nobody listens there.
            'target_portal': f'127.0.0.{number + 1}:1',
            'target_iqn': f'iqn.2026-01.org.example:{number}',
            'target_lun': number, 'auth_method': 'CHAP',
            'auth_username': f'user{number}',
            'auth_password': f's3cr3t{number}'}}

    @staticmethod
    def _volume(xml):
        # In older releases only a volume's disk has an alias.
        alias = f'./devices/disk/alias[@name="ua-{VOLUME}"]'
        return etree.fromstring(xml).find(alias).getparent()

    def _secret(self, compute):
        conn = compute.driver._host.get_connection()
        return conn._secrets.get(iscsi_secret.secret_uuid(VOLUME))

    def _migrate_stub(self, domain, destination, params, flags):
        self.params = params
        super()._migrate_stub(domain, destination, params, flags)

    def _attach(self):
        self.api.post_server_volume(
            self.server['id'], {'volumeAttachment': {'volumeId': VOLUME}})
        self._wait_for_volume_attach(self.server['id'], VOLUME)


class DifferentTargetsTestCase(DifferentTargets):

    def test_attach_and_detach(self):
        self.flags(host='src')
        self._attach()
        self.assertEqual('s3cr3t0', self._secret(self.src)._value)
        self.api.delete_server_volume(self.server['id'], VOLUME)
        self._wait_for_volume_detach(self.server['id'], VOLUME)
        self.assertIsNone(self._secret(self.src))

    def test_live_migration(self):
        self._attach()
        before = self.dest.driver.pre_live_migration

        def pre_live_migration(*args, **kwargs):
            self.returned = before(*args, **kwargs)
            return self.returned

        with mock.patch.object(self.dest.driver, 'pre_live_migration',
                               pre_live_migration):
            self._live_migrate(self.server,
                               migration_expected_state='completed')
        # EX1 of the spec: by serial, where the destination has the volume.
        # What travels is logged by both hosts, so it holds no password.
        [bdm] = self.returned.bdms
        self.assertEqual(VOLUME, bdm.serial)
        self.assertIn('iqn.2026-01.org.example:1/1', bdm.disk_xml)
        self.assertNotIn('s3cr3t', str(self.returned))
        # What migrated, and what stays defined, is on the second target.
        self.assertEqual(
            self.params['destination_xml'], self.params['persistent_xml'])
        disk = self._volume(self.params['destination_xml'])
        self.assertEqual('iqn.2026-01.org.example:1/1',
                         disk.find('source').get('name'))
        self.assertEqual('127.0.0.2', disk.find('source/host').get('name'))
        self.assertEqual('user1', disk.find('auth').get('username'))
        self.assertEqual('s3cr3t1', self._secret(self.dest)._value)
        self.assertIsNone(self._secret(self.src))

    def test_no_path_on_the_destination(self):
        self._attach()
        self.probe.return_value = 'Authentication failure(513)'
        self._live_migrate(self.server, migration_expected_state='failed')
        self.assertEqual(
            'src', self.api.get_server(
                self.server['id'])['OS-EXT-SRV-ATTR:host'])
        self.assertEqual('s3cr3t0', self._secret(self.src)._value)
        self.assertIsNone(self._secret(self.dest))
        # Once it is mended the server migrates.
        self.probe.return_value = None
        self._live_migrate(self.server, migration_expected_state='completed')

    def test_source_too_old(self):
        self._attach()
        check = self.src.driver.check_can_live_migrate_source

        def old_check(*args, **kwargs):
            data = check(*args, **kwargs)
            delattr(data, 'src_supports_dest_disk_xml')
            return data

        with mock.patch.object(self.src.driver,
                               'check_can_live_migrate_source', old_check):
            self.assertRaises(
                client.OpenStackApiException, self._live_migrate,
                self.server)
        self.assertIn('the source host is too old',
                      self.stdlog.logger.output)
        # Nothing was asked of Cinder for the destination.
        self.assertEqual(1, len(self.targets))
