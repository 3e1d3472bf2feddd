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

"""iSCSI volumes through QEMU's initiator, as the libvirt driver sees them."""

import copy
from unittest import mock

import ddt
from lxml import etree
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context
from nova import exception
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt import fake
from nova.virt.libvirt import driver
from nova.virt.libvirt.volume import iscsi_connection
from nova.virt.libvirt.volume import iscsi_secret

DISK_INFO = {'bus': 'virtio', 'dev': 'vdb', 'type': 'disk'}
USAGE = fakelibvirt.VIR_SECRET_USAGE_TYPE_ISCSI


@ddt.ddt
class NetISCSITestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.flags(host='here')
        self.flags(virt_type='kvm', iscsi_initiator='qemu',
                   disk_cachemodes=['network=writeback'], group='libvirt')
        self.ctxt = context.get_admin_context()
        self.drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        self.conn = self.drvr._host.get_connection()
        self.healthy = self._patch(
            'nova.virt.libvirt.volume.iscsi_probe.probe', return_value=None)
        self._patch('nova.virt.libvirt.volume.iscsi_initiator.initiator_name',
                    return_value='iqn.y:host')
        self.encryptor = self._patch(
            'nova.virt.libvirt.driver.LibvirtDriver._attach_encryptor')
        self._patch('nova.virt.libvirt.driver.LibvirtDriver.'
                    '_detach_encryptor')
        self.info = {
            'driver_volume_type': 'iscsi', 'serial': uuids.volume, 'data': {
                'volume_id': uuids.volume, 'access_mode': 'rw',
                'target_portal': '[2001:db8::1]:3261',
                'target_iqn': 'iqn.2026-01.x:a', 'target_lun': 3,
                'auth_method': 'CHAP', 'auth_username': 'user',
                'auth_password': 's3cr3t'}}

    def _patch(self, name, **kwargs):
        patcher = mock.patch(name, **kwargs)
        self.addCleanup(patcher.stop)
        return patcher.start()

    def _connect(self, info=None):
        info = self.info if info is None else info
        self.drvr._connect_volume(self.ctxt, info, mock.sentinel.instance)
        return info

    def _disconnect(self, info=None):
        self.drvr._disconnect_volume(
            self.ctxt, self.info if info is None else info,
            mock.sentinel.instance)

    def _config(self, info):
        # As _get_volume_config does, which wants more or less on each release.
        conf = self.drvr._get_volume_driver(info).get_config(info, DISK_INFO)
        self.drvr._set_cache_mode(conf)
        return conf

    def _disk(self):
        return etree.fromstring(self._config(self.info).to_xml())

    def _secret(self):
        return self.conn.secretLookupByUsage(USAGE, uuids.volume)

    def test_disk(self):
        self._connect()
        disk = self._disk()
        self.assertEqual('network', disk.get('type'))
        # Not writeback, which is set with Ceph in mind.
        self.assertEqual('none', disk.find('driver').get('cache'))
        source = disk.find('source')
        self.assertEqual(('iscsi', 'iqn.2026-01.x:a/3'),
                         (source.get('protocol'), source.get('name')))
        self.assertEqual({'name': '2001:db8::1', 'port': '3261'},
                         dict(source.find('host').attrib))
        self.assertEqual('iqn.y:host',
                         source.find('initiator/iqn').get('name'))
        self.assertEqual('user', disk.find('auth').get('username'))
        self.assertEqual(
            {'type': 'iscsi', 'uuid': iscsi_secret.secret_uuid(uuids.volume)},
            dict(disk.find('auth/secret').attrib))
        self.assertEqual(uuids.volume, disk.findtext('serial'))

    def test_secret_comes_and_goes(self):
        self._connect()
        self.assertEqual('s3cr3t', self._secret()._value)
        self._disconnect()
        self.assertIsNone(self._secret())
        # A disconnect may come again, or for what never was connected.
        self._disconnect()

    def test_secret_is_refreshed(self):
        self._connect()
        self.info['data']['auth_password'] = 'n3w'
        self._connect()
        self.assertEqual('n3w', self._secret()._value)

    def test_secret_outlives_libvirtd_and_is_not_told(self):
        self._connect()
        self.assertFalse(self._secret()._ephemeral)
        self.assertTrue(self._secret()._private)

    def test_secret_in_use_survives_a_failed_refresh(self):
        # It is another guest's too when the volume is multiattach.
        self._connect()
        failure = fakelibvirt.make_libvirtError(
            fakelibvirt.libvirtError, 'no', error_code=1)
        with mock.patch.object(fakelibvirt.Secret, 'setValue',
                               side_effect=failure):
            self.assertRaises(fakelibvirt.libvirtError, self._connect)
        self.assertEqual('s3cr3t', self._secret()._value)

    def test_secret_in_use_survives_a_second_guest_that_fails(self):
        self.info['multiattach'] = True
        self._connect()
        self.encryptor.side_effect = exception.NovaException()
        self._patch('nova.virt.libvirt.driver.LibvirtDriver.'
                    '_should_disconnect_target', return_value=False)
        self.assertRaises(exception.NovaException, self._connect,
                          copy.deepcopy(self.info))
        self.assertIsNotNone(self._secret())

    def test_secret_of_a_volume_that_changed_its_id(self):
        # As at the end of a volume migration, before the disconnect.
        self._connect()
        self.info['serial'] = self.info['data']['volume_id'] = uuids.other
        self._disconnect()
        self.assertIsNone(self._secret())

    def test_no_secret_without_chap(self):
        self._connect()
        for key in ('auth_method', 'auth_username', 'auth_password'):
            del self.info['data'][key]
        self._connect()
        self.assertIsNone(self._secret())
        self.assertIsNone(self._disk().find('auth'))

    def test_no_password_in_the_choice(self):
        self._connect()
        self.assertNotIn('s3cr3t', str(self.info['data']['nova_initiator']))
        self.assertNotIn('s3cr3t', self.stdlog.logger.output)

    def test_second_portal(self):
        self.info['data'].update(
            target_portals=['192.0.2.1:1', '192.0.2.2:2'],
            target_iqns=['iqn.x:a', 'iqn.x:b'], target_luns=[1, 2])
        self.healthy.side_effect = lambda path, chap, name: (
            'down' if path.port == 1 else None)
        self._connect()
        self.assertEqual('iqn.x:b/2', self._disk().find('source').get('name'))

    def test_no_portal(self):
        self.healthy.side_effect = lambda path, chap, name: 'down'
        self.assertRaises(exception.ISCSIPathsFailed, self._connect)
        self.assertIsNone(self._secret())

    @ddt.data('target_portal', 'target_iqn', 'target_lun', 'auth_method',
              'auth_password')
    def test_bad_data_connects_nothing(self, key):
        self.info['data'][key] = '<'if key != 'auth_password' else ''
        exc = self.assertRaises(
            exception.InvalidISCSIConnection, self._connect)
        self.assertIn(key, str(exc))
        self.healthy.assert_not_called()
        self.assertIsNone(self._secret())

    def test_toggled_option_finds_the_same_driver(self):
        self._connect()
        self.flags(iscsi_initiator='host', group='libvirt')
        with mock.patch('os_brick.initiator.connectors.iscsi.ISCSIConnector.'
                        'disconnect_volume') as host_disconnect:
            self._disconnect()
        host_disconnect.assert_not_called()
        self.assertIsNone(self._secret())

    def test_host_device_after_the_option_is_toggled(self):
        # The session of the host is logged out though the option says qemu.
        self.info['data']['device_path'] = '/dev/sda'
        with mock.patch('os_brick.initiator.connectors.iscsi.ISCSIConnector.'
                        'disconnect_volume') as host_disconnect:
            self._disconnect()
        host_disconnect.assert_called_once()

    def test_reconnect_after_disconnect_uses_the_option(self):
        # As a hard reboot does, with one connection_info.
        self._connect()
        self.flags(iscsi_initiator='host', group='libvirt')
        self._disconnect()
        with mock.patch(
                'os_brick.initiator.connectors.iscsi.ISCSIConnector.'
                'connect_volume', return_value={'path': '/dev/sdb'}):
            self._connect()
        self.assertEqual('block', self._disk().get('type'))

    def test_config_on_another_host(self):
        # What the destination connected describes the disk on the source.
        self._connect()
        here = etree.tostring(self._disk())
        self.flags(host='there')
        self.flags(iscsi_initiator='host', group='libvirt')
        self.assertEqual(here, etree.tostring(self._disk()))

    def test_not_connected(self):
        info = copy.deepcopy(self.info)
        info['data']['nova_initiator'] = {'name': 'qemu', 'host': 'here'}
        self.assertRaises(
            exception.InvalidISCSIConnection, self._config, info)

    def test_extend(self):
        self._connect()
        self.assertEqual(5 << 30, self.drvr._extend_volume(
            self.info, mock.sentinel.instance, 5 << 30))

    def test_path_is_probed_as_the_guest_will_use_it(self):
        self._connect()
        self.healthy.assert_called_once_with(
            iscsi_connection.Path('2001:db8::1', 3261, 'iqn.2026-01.x:a', 3),
            iscsi_connection.CHAP('user', 's3cr3t'), 'iqn.y:host')
