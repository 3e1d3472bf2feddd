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

"""A host disconnects by another host's information only what is provably its.

The old host of an evacuated server does: it comes back to the guest's domain,
and to the connection information of the new host.
"""

import os
import pathlib
from unittest import mock

import ddt
import fixtures
from oslo_serialization import jsonutils
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_instance
from nova.virt import fake
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest as libvirt_guest
from nova.virt.libvirt.volume import iscsi_elsewhere
from nova.virt.libvirt.volume import iscsi_initiator

IQN = 'iqn.2026-01.org.example:shared'
PORTAL = '192.0.2.1:3260'


class Devices(fixtures.Fixture):
    """/dev and /sys/block of a host, of files and links."""

    def _setUp(self):
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.by_path = self.root / 'dev/disk/by-path'
        self.sys_block = self.root / 'sys/block'
        self.by_path.mkdir(parents=True)
        for name, value in (('_BY_PATH', self.by_path),
                            ('_SYS_BLOCK', self.sys_block)):
            self.useFixture(fixtures.MonkeyPatch(
                f'nova.virt.libvirt.volume.iscsi_elsewhere.{name}',
                str(value)))

    def path(self, name):
        return str(self.root / 'dev' / name)

    def disk(self, name, lun=None, portal=PORTAL, prefix='', iqn=IQN):
        """A disk, and the link that udev makes to that of a LUN."""
        (self.root / 'dev' / name).touch()
        (self.sys_block / name / 'slaves').mkdir(parents=True)
        if lun is not None:
            link = self.by_path / f'{prefix}ip-{portal}-iscsi-{iqn}-lun-{lun}'
            link.symlink_to(f'../../{name}')
        return self.path(name)

    def mapped(self, name, *slaves, link=None):
        """A device of device-mapper, by the name or the link of it."""
        path = self.disk(name)
        for slave in slaves:
            (self.sys_block / name / 'slaves' / slave).symlink_to(
                f'../../{slave}')
        if link is None:
            return path
        link = self.root / 'dev' / link
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
        return str(link)


def disk_xml(path, serial=None, alias=None, kind='block'):
    return f"""
    <disk type='{kind}' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native'/>
      <source {'file' if kind == 'file' else 'dev'}='{path}'/>
      <target dev='vda' bus='virtio'/>
      {f"<serial>{serial}</serial>" if serial else ''}
      {f"<alias name='{alias}'/>" if alias else ''}
    </disk>"""


def domain_xml(name, uuid, *disks):
    return f"""
  <domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid>
    <memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <devices>{''.join(disks)}</devices></domain>"""


def connection_info(host='there', name='host', **data):
    data = {'target_portal': PORTAL, 'target_iqn': IQN, 'target_lun': 1,
            'volume_id': uuids.volume, 'device_path': '/dev/of-there', **data}
    if host:
        data[iscsi_initiator.CHOICE] = {'name': name, 'host': host}
    return {'driver_volume_type': 'iscsi', 'serial': uuids.volume,
            'data': data}


@ddt.ddt
class OwnDeviceTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.devices = self.useFixture(Devices())
        self.host = mock.Mock()
        self.host.get_guest.side_effect = exception.InstanceNotFound(
            instance_id=uuids.instance)
        self.host.list_guests.return_value = []
        self.instance = objects.Instance(uuid=uuids.instance)

    def _guest(self, uuid, *disks):
        # The domain of the fixture forgets serials.
        domain = mock.Mock()
        domain.UUIDString.return_value = uuid
        domain.XMLDesc.return_value = domain_xml('guest', uuid, *disks)
        return libvirt_guest.Guest(domain)

    def _define(self, *disks):
        guest = self._guest(uuids.instance, *disks)
        self.host.get_guest.side_effect = None
        self.host.get_guest.return_value = guest
        self.host.list_guests.return_value.append(guest)

    def _own(self, **data):
        return iscsi_elsewhere.own_device(
            self.host, self.instance, connection_info(**data), 'there')

    def _assert_warned(self, *texts):
        for text in (uuids.volume, 'iscsiadm', 'made for host there', *texts):
            self.assertIn(text, self.stdlog.logger.output)

    @ddt.data({'serial': uuids.volume}, {'alias': f'ua-{uuids.volume}'})
    def test_one_target_for_all_hosts(self, how):
        path = self.devices.disk('sda', 1)
        self.devices.disk('sdb', 2)
        self._define(disk_xml(self.devices.path('sdb'), uuids.other),
                     disk_xml(path, **how))
        self.assertEqual(path, self._own())
        self.assertNotIn('not disconnected', self.stdlog.logger.output)

    def test_lun_of_another_guest(self):
        path = self.devices.disk('sda', 1)
        self.devices.disk('sdb', 2)
        self._define(disk_xml(path, uuids.volume))
        self.assertIsNone(self._own(target_lun=2))
        self._assert_warned(f'the guest has {path} here', 'names sdb')

    def test_lun_of_another_disk_of_the_guest(self):
        # That one may not be the new host's to give away.
        self._define(disk_xml(self.devices.disk('sda', 1), uuids.volume),
                     disk_xml(self.devices.disk('sdb', 2), uuids.other))
        self.assertIsNone(self._own(target_lun=2))
        self._assert_warned('names sdb')

    def test_other_target_than_here(self):
        path = self.devices.disk('sda', 1)
        self._define(disk_xml(path, uuids.volume))
        self.assertIsNone(self._own(target_iqn=IQN + '2'))
        self._assert_warned(f'the guest has {path} here', 'names none')

    @ddt.data(exception.InstanceNotFound(instance_id=uuids.instance),
              exception.InternalError('libvirt is away'))
    def test_no_domain(self, why):
        self.host.get_guest.side_effect = why
        self.devices.disk('sda', 1)
        self.assertIsNone(self._own())
        self._assert_warned('the guest has no device here', 'names sda')

    def test_nothing_here(self):
        # As when a migration is rolled back to where it never connected.
        self.assertIsNone(self._own())
        self.assertNotIn('not disconnected', self.stdlog.logger.output)

    def test_host_that_rebooted(self):
        # No session outlives that, so there is nothing to warn of.
        path = self.devices.disk('sda', 1)
        self._define(disk_xml(path, uuids.volume))
        os.unlink(path)
        self.assertIsNone(self._own())
        self.assertNotIn('not disconnected', self.stdlog.logger.output)

    @ddt.data('file', 'network')
    def test_disk_that_is_no_device(self, kind):
        self.devices.disk('sda', 1)
        self._define(disk_xml(self.devices.path('sda'), uuids.volume,
                              kind=kind))
        self.assertIsNone(self._own())
        self._assert_warned('the guest has no device here')

    def test_multipath(self):
        self.devices.disk('sda', 1)
        self.devices.disk('sdb', 1, portal='192.0.2.2:3260')
        path = self.devices.mapped(
            'dm-0', 'sda', 'sdb', link='disk/by-id/dm-uuid-mpath-3600')
        self._define(disk_xml(path, uuids.volume))
        portals = {'target_portals': [PORTAL, '192.0.2.2:3260'],
                   'target_iqns': [IQN, IQN]}
        self.assertEqual(path, self._own(**portals, target_luns=[1, 1]))
        # LUNs may be told once for all portals, or one portal of several.
        self.assertEqual(path, self._own(**portals))
        self.assertEqual(path, self._own())
        # One path that is not the guest's is one too many.
        self.devices.disk('sdc', 2, portal='192.0.2.2:3260')
        self.assertIsNone(self._own(**portals, target_luns=[1, 2]))
        self._assert_warned('names sda, sdc')

    def test_encrypted_multipath(self):
        self.devices.disk('sda', 1)
        self.devices.disk('sdb')
        self.devices.mapped('dm-0', 'sda', 'sdb')
        path = self.devices.mapped(
            'dm-1', 'dm-0', link='disk/by-id/os-brick+dev+dm-0')
        self._define(disk_xml(path, uuids.volume))
        self.assertEqual(path, self._own(encrypted=True))

    @ddt.data(
        ({'portal': 'fd00::1:3260'}, {'target_portal': '[fd00::1]:3260'}),
        ({'prefix': 'pci-0000:05:00.2-'}, {}),
        ({'lun': '0x012c000000000000'}, {'target_lun': 300}),
        ({'lun': '0x4001000000000000'},
         {'addressing_mode': 'SAM3-flat', 'target_lun': '1'}),
        ({'iqn': 'iqn.[ab]'}, {'target_iqn': 'iqn.[ab]'}))
    @ddt.unpack
    def test_names_of_udev(self, link, data):
        path = self.devices.disk('sda', **{'lun': 1, **link})
        self._define(disk_xml(path, uuids.volume))
        self.assertEqual(path, self._own(**data))

    def test_not_the_lun_that_begins_alike(self):
        self._define(disk_xml(self.devices.disk('sda', 12), uuids.volume))
        self.assertIsNone(self._own())

    def test_information_without_target(self):
        self._define(disk_xml(self.devices.disk('sda', 1), uuids.volume))
        self.assertIsNone(self._own(target_portal=None))

    def test_name_that_became_another_guests(self):
        # Both say sda: the stopped one from before the host's reboot.
        path = self.devices.disk('sda', 1)
        self._define(disk_xml(path, uuids.volume))
        empty = disk_xml(path).replace(f"<source dev='{path}'/>", '')
        other = self._guest(uuids.other, empty, disk_xml(path, uuids.other))
        self.host.list_guests.return_value.append(other)
        self.assertIsNone(self._own())
        self._assert_warned('another guest uses sda')

    def test_volume_that_guests_share(self):
        # How many use it is for the driver to count.
        path = self.devices.disk('sda', 1)
        self._define(disk_xml(path, uuids.volume))
        self.host.list_guests.return_value += [
            self._guest(uuids.other, disk_xml(path, uuids.volume)),
            self._guest(uuids.lun, disk_xml(
                path, alias=f'ua-{uuids.volume}'))]
        self.assertEqual(path, self._own())


@ddt.ddt
class DisconnectTestCase(test.NoDBTestCase):
    """The driver, down to os-brick."""

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.flags(host='here')
        self.flags(virt_type='kvm', group='libvirt')
        self.devices = self.useFixture(Devices())
        self.ctxt = context.get_admin_context()
        self.drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        self.brick = self.useFixture(fixtures.MockPatch(
            'os_brick.initiator.connectors.iscsi.ISCSIConnector.'
            'disconnect_volume')).mock
        self.instance = fake_instance.fake_instance_obj(
            self.ctxt, uuid=uuids.instance, name='guest')
        self.path = self.devices.disk('sda', 1)
        self.devices.disk('sdb', 2)
        self.drvr._host.get_connection().defineXML(domain_xml(
            'guest', uuids.instance,
            disk_xml(self.path, alias=f'ua-{uuids.volume}')))

    def _disconnect(self, info):
        self.drvr._disconnect_volume(self.ctxt, info, self.instance)
        # Neither the next connect nor the next host is to see any of it.
        self.assertNotIn(iscsi_initiator.CHOICE, info['data'])

    def test_own_disk(self):
        seen = []
        self.brick.side_effect = (
            lambda data, *args, **kwargs: seen.append(dict(data)))
        self._disconnect(connection_info())
        # os-brick unlinks by this path, so it has to be this host's.
        self.assertEqual([self.path], [d['device_path'] for d in seen])

    @ddt.data('host', 'qemu')
    def test_disk_of_another_guest(self, name):
        # Whichever initiator the other host used, it is the host's here.
        self._disconnect(connection_info(target_lun=2, name=name))
        self.brick.assert_not_called()
        self.assertIn('not disconnected', self.stdlog.logger.output)

    @ddt.data(None, 'here')
    def test_as_ever(self, host):
        # Made for this host, or before that was noted down.
        info = connection_info(host=host, target_lun=2)
        with mock.patch.object(self.drvr._host, 'get_guest') as get_guest:
            self._disconnect(info)
        self.brick.assert_called_once_with(info['data'], None, force=False)
        get_guest.assert_not_called()

    def test_qemus_initiator(self):
        self.flags(iscsi_initiator='qemu', group='libvirt')
        self._disconnect(connection_info(target_lun=2))
        self.brick.assert_not_called()
        self.assertNotIn('not disconnected', self.stdlog.logger.output)

    def _encryptor(self, info):
        seen = []
        encryptor = mock.Mock()
        encryptor.detach_volume.side_effect = (
            lambda **kwargs: seen.append(info['data']['device_path']))
        with mock.patch.object(self.drvr, '_get_volume_encryptor',
                               return_value=encryptor):
            self.drvr._disconnect_volume(
                self.ctxt, info, self.instance, encryption={
                    'provider': 'luks2', 'control_location': 'front-end'})
        return seen

    def test_encryptor_of_own_disk(self):
        # It closes what is named after the device path.
        info = connection_info(encrypted=True)
        self.assertEqual([self.path], self._encryptor(info))
        self.brick.assert_called_once()

    def test_encryptor_of_another_guests_disk(self):
        info = connection_info(encrypted=True, target_lun=2)
        self.assertEqual([], self._encryptor(info))
        self.brick.assert_not_called()

    def test_secret_of_a_volume_that_stays(self):
        self.drvr._host.create_secret(
            'volume', uuids.volume, 'p4ss', uuid=uuids.secret)
        self._disconnect(connection_info(encrypted=True, target_lun=2))
        self.assertIsNone(
            self.drvr._host.find_secret('volume', uuids.volume))

    @ddt.data('rbd', 'iser', 'nfs', 'fibre_channel', 'nvmeof')
    def test_not_for_other_types(self, kind):
        info = dict(connection_info(), driver_volume_type=kind)
        before = jsonutils.dumps(info)
        iscsi_initiator.recall(info, self.instance, self.drvr._host)
        self.assertEqual(before, jsonutils.dumps(info))

    def test_connecting_after_a_disconnect_that_failed(self):
        info = connection_info(target_lun=2)
        iscsi_initiator.recall(info, self.instance, self.drvr._host)
        for _attempt in range(2):
            self.assertEqual('iscsi+elsewhere',
                             iscsi_initiator.driver_type(info))
            iscsi_initiator.recall(info, self.instance, self.drvr._host)
        iscsi_initiator.choose(info)
        self.assertEqual('iscsi', iscsi_initiator.driver_type(info))
