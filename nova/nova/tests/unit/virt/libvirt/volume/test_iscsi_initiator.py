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

"""The initiator of a volume is chosen once, and the choice is kept."""

from unittest import mock

import ddt
from oslo_serialization import jsonutils
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_block_device
from nova.virt import block_device
from nova.virt import fake
from nova.virt.libvirt import driver
from nova.virt.libvirt.volume import iscsi_initiator


def recall(info):
    """On a host that has none of the guest."""
    host = mock.Mock()
    host.get_guest.side_effect = exception.InstanceNotFound(
        instance_id=uuids.instance)
    iscsi_initiator.recall(info, objects.Instance(uuid=uuids.instance), host)


def connection_info(**data):
    return {'driver_volume_type': 'iscsi', 'serial': uuids.volume,
            'data': {'volume_id': uuids.volume, **data}}


@ddt.ddt
class ChoiceTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(host='here')
        self.flags(virt_type='kvm', iscsi_initiator='qemu', group='libvirt')

    def _choose(self, info):
        iscsi_initiator.choose(info)
        return iscsi_initiator.driver_type(info)

    @ddt.data(('host', None, 'iscsi'), ('qemu', None, 'iscsi+qemu'),
              ('host', 'qemu', 'iscsi+qemu'), ('qemu', 'host', 'iscsi'))
    @ddt.unpack
    def test_option_and_volume_type(self, option, qos, expected):
        self.flags(iscsi_initiator=option, group='libvirt')
        info = connection_info(
            qos_specs={'iscsi_initiator': qos} if qos else None)
        self.assertEqual(expected, self._choose(info))

    def test_unknown_initiator_of_volume_type(self):
        info = connection_info(qos_specs={'iscsi_initiator': 'xen'})
        exc = self.assertRaises(exception.InvalidISCSIConnection,
                                iscsi_initiator.choose, info)
        self.assertIn('qos_specs.iscsi_initiator', str(exc))
        # It must still be possible to clean up after that.
        recall(info)
        self.assertEqual('iscsi', iscsi_initiator.driver_type(info))

    @ddt.data('lxc', 'parallels')
    def test_not_for_virt_type(self, virt_type):
        self.flags(virt_type=virt_type, group='libvirt')
        self.assertEqual('iscsi', self._choose(connection_info()))
        self.assertIn(virt_type, self.stdlog.logger.output)

    def test_not_for_encrypted_volumes(self):
        self.assertEqual('iscsi', self._choose(
            connection_info(encrypted=True)))
        self.assertIn('encrypted', self.stdlog.logger.output)

    @ddt.data('rbd', 'iser', 'nfs')
    def test_not_for_other_types(self, kind):
        info = dict(connection_info(), driver_volume_type=kind)
        before = jsonutils.dumps(info)
        for function in (iscsi_initiator.choose, recall,
                         iscsi_initiator.forget):
            function(info)
            self.assertEqual(before, jsonutils.dumps(info))
        self.assertEqual(kind, iscsi_initiator.driver_type(info))

    @ddt.data('host', 'qemu')
    def test_toggled_while_connected(self, before):
        after = 'qemu' if before == 'host' else 'host'
        self.flags(iscsi_initiator=before, group='libvirt')
        info = connection_info()
        chosen = self._choose(info)
        self.flags(iscsi_initiator=after, group='libvirt')
        # A second connect, as of a rescue, and the disconnect.
        self.assertEqual(chosen, self._choose(info))
        recall(info)
        self.assertEqual(chosen, iscsi_initiator.driver_type(info))
        # Disconnected, the next connect uses what is configured.
        iscsi_initiator.forget(info)
        self.assertNotEqual(chosen, self._choose(info))

    def test_choice_of_another_host(self):
        info = connection_info()
        self.flags(host='there', )
        self._choose(info)
        self.flags(host='here')
        self.flags(iscsi_initiator='host', group='libvirt')
        # The source of a migration reads the destination's choice ...
        self.assertEqual('iscsi+qemu', iscsi_initiator.driver_type(info))
        # ... and connecting or disconnecting here is another matter.
        for decide, expected in ((iscsi_initiator.choose, 'iscsi'),
                                 (recall, 'iscsi+elsewhere')):
            mine = jsonutils.loads(jsonutils.dumps(info))
            decide(mine)
            self.assertEqual(expected, iscsi_initiator.driver_type(mine))

    @ddt.data(({}, 'iscsi+qemu'), ({'device_path': '/dev/sda'}, 'iscsi'),
              ({'encrypted': True}, 'iscsi'))
    @ddt.unpack
    def test_recall_of_the_unknown(self, data, expected):
        # Connected before there was a choice, or never.
        info = connection_info(**data)
        recall(info)
        self.assertEqual(expected, iscsi_initiator.driver_type(info))

    def test_connected_before_there_were_choices(self):
        # By the host, which alone keeps a device: connected again without a
        # disconnect, as for a rescue, it must not go over to QEMU.
        info = connection_info(device_path='/dev/sdz')
        self.assertEqual('iscsi', self._choose(info))
        # After the disconnect the option counts, as for a hard reboot.
        iscsi_initiator.forget(info)
        self.assertEqual('iscsi+qemu', self._choose(info))

    @ddt.data(iscsi_initiator.choose, recall)
    def test_device_of_another_host(self, decide):
        # That host's device says nothing about what is connected here.
        info = connection_info(
            device_path='/dev/sdz',
            nova_initiator={'name': 'host', 'host': 'there'})
        decide(info)
        self.assertEqual('iscsi+qemu', iscsi_initiator.driver_type(info))

    def test_device_path_goes_with_the_hosts_choice(self):
        info = connection_info(
            device_path='/dev/sdz',
            nova_initiator={'name': 'host', 'host': 'there'})
        self._choose(info)
        self.assertNotIn('device_path', info['data'])

    @ddt.data('x', ['qemu'], None, {})
    def test_choice_of_a_wrong_shape(self, choice):
        info = connection_info(nova_initiator=choice)
        self.assertEqual('iscsi', iscsi_initiator.driver_type(info))
        self.assertEqual('iscsi+qemu', self._choose(info))


class InitiatorNameTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(host='here')
        self.flags(iscsi_initiator='qemu', group='libvirt')

    def _properties(self, name):
        path = ('os_brick.initiator.connectors.iscsi.ISCSIConnector.'
                'get_initiator')
        with mock.patch(path, return_value=name):
            return (iscsi_initiator.complete_connector(
                {'initiator': name} if name else {}),
                iscsi_initiator.initiator_name())

    def test_of_the_host(self):
        properties, name = self._properties('iqn.1994-05.org.debian:01')
        self.assertEqual('iqn.1994-05.org.debian:01', name)
        self.assertEqual(name, properties['initiator'])

    def test_generated(self):
        # Without open-iscsi the connector told no name, and the target could
        # not let this host in by name.
        properties, name = self._properties(None)
        self.assertRegex(name, r'^iqn\.2010-10\.org\.openstack:[0-9a-f-]{36}$')
        self.assertEqual(name, properties['initiator'])
        self.flags(host='there')
        self.assertNotEqual(name, self._properties(None)[1])

    def test_none(self):
        # Cinder has not been told of a name that could be made up.
        self.flags(iscsi_initiator='host', group='libvirt')
        self.assertEqual({}, iscsi_initiator.complete_connector({}))
        exc = self.assertRaises(exception.InvalidISCSIConnection,
                                self._properties, None)
        self.assertIn('initiator: ', str(exc))


class CheckSourceTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(virt_type='kvm', iscsi_initiator='qemu', group='libvirt')
        self.data = objects.LibvirtLiveMigrateData()
        self.bdms = objects.BlockDeviceMappingList(objects=[
            objects.BlockDeviceMapping(connection_info=None),
            objects.BlockDeviceMapping(
                connection_info=jsonutils.dumps(connection_info()))])

    def _precheck(self):
        instance = objects.Instance(uuid=uuids.instance)
        with mock.patch.object(objects.BlockDeviceMappingList,
                               'get_by_instance_uuid',
                               return_value=self.bdms):
            iscsi_initiator.precheck_source(
                context.get_admin_context(), instance, self.data)

    def test_old_source(self):
        exc = self.assertRaises(
            exception.MigrationPreCheckError, self._precheck)
        self.assertIn(uuids.volume, str(exc))
        self.assertRaises(
            exception.MigrationPreCheckError, iscsi_initiator.check_source,
            self.data, [connection_info()])

    def test_new_source(self):
        self.data.src_supports_dest_disk_xml = True
        self._precheck()
        iscsi_initiator.check_source(self.data, [connection_info()])

    def test_old_source_of_host_devices(self):
        self.flags(iscsi_initiator='host', group='libvirt')
        self._precheck()
        iscsi_initiator.check_source(self.data, [connection_info(), {}])

    def test_old_source_one_volume_type(self):
        # The option alone does not tell: caught before anything connects.
        self.flags(iscsi_initiator='host', group='libvirt')
        self.assertRaises(
            exception.MigrationPreCheckError, iscsi_initiator.check_source,
            self.data, [connection_info(qos_specs={
                'iscsi_initiator': 'qemu'})])


class DriverTestCase(test.NoDBTestCase):
    """Where the libvirt driver, and a BDM, ask."""

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.flags(host='here')
        self.flags(virt_type='kvm', iscsi_initiator='qemu', group='libvirt')
        self.drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)

    def test_volume_driver_is_registered(self):
        self.assertIn(iscsi_initiator.QEMU_DRIVER_TYPE, driver.VOLUME_DRIVERS)

    @mock.patch('os_brick.initiator.connectors.iscsi.ISCSIConnector.'
                'get_initiator', return_value=None)
    @mock.patch('os_brick.initiator.connector.get_connector_properties',
                return_value={'host': 'here'})
    def test_connector_has_a_name(self, properties, name):
        self.assertRegex(
            self.drvr.get_volume_connector(mock.Mock())['initiator'], '^iqn')

    @mock.patch.object(objects.InstanceList, 'get_by_host',
                       return_value=objects.InstanceList(objects=[]))
    @mock.patch('nova.virt.libvirt.volume.iscsi_probe.probe',
                return_value='Unknown driver \'iscsi\'')
    def test_start_without_block_driver(self, probe, _instances):
        self.assertRaises(
            exception.InternalError, self.drvr.init_host, 'here')
        # Who does not ask for it does not need it.
        self.flags(iscsi_initiator='host', group='libvirt')
        self.drvr.init_host('here')
        probe.assert_called_once()

    def test_nothing_is_connected_for_an_old_source(self):
        data = objects.LibvirtLiveMigrateData(
            is_shared_block_storage=True, is_shared_instance_path=True,
            block_migration=False)
        with mock.patch.object(self.drvr, '_connect_volume') as connect:
            self.assertRaises(
                exception.MigrationPreCheckError,
                self.drvr.pre_live_migration, mock.Mock(), mock.Mock(),
                {'block_device_mapping': [
                    {'connection_info': connection_info()}]},
                mock.Mock(), None, data)
        connect.assert_not_called()

    def test_bdm_keeps_the_choice(self):
        # When Cinder is asked again, as for a snapshot, while connected.
        info = connection_info()
        iscsi_initiator.choose(info)
        bdm = block_device.DriverVolumeBlockDevice(
            fake_block_device.fake_bdm_object(
                mock.Mock(), {
                    'id': 1, 'source_type': 'volume',
                    'volume_id': uuids.volume,
                    'destination_type': 'volume', 'device_name': '/dev/vdb',
                    'instance_uuid': uuids.instance,
                    'attachment_id': uuids.attachment,
                    'connection_info': jsonutils.dumps(info)}))
        api = mock.Mock()
        api.attachment_get.return_value = {
            'connection_info': connection_info()}
        with mock.patch.object(bdm, 'save'):
            bdm.refresh_connection_info(
                mock.Mock(), mock.Mock(), api, mock.Mock())
        self.flags(iscsi_initiator='host', group='libvirt')
        fresh = bdm['connection_info']
        recall(fresh)
        self.assertEqual('iscsi+qemu', iscsi_initiator.driver_type(fresh))
