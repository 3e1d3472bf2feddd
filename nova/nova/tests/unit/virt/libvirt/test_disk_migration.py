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

"""A guest's disks get the destination's paths, and nothing else changes."""

from unittest import mock

import ddt
import fixtures
from lxml import etree
from oslo_utils.fixture import uuidsentinel as uuids

from nova import exception
from nova import objects
from nova import test
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import disk_migration

# What each host-side half of a disk looks like: {letter} is the host.
BLOCK = """
<driver name='qemu' type='raw' cache='none' io='native'/>
<source dev='/dev/disk/by-path/ip-192.0.2.1:3260-iscsi-iqn.x:{host}-lun-1'/>
"""
NETWORK = """
<driver name='qemu' type='raw' cache='none'/>
<auth username='{host}'>
  <secret type='iscsi' uuid='5ec00000-0000-4000-8000-000000000001'/>
</auth>
<source protocol='iscsi' name='iqn.x:{host}/1'>
  <host name='192.0.2.1' port='3260'/>
  <initiator><iqn name='iqn.y:{host}'/></initiator>
</source>
"""
KINDS = {'block': BLOCK, 'network': NETWORK}


def disk_xml(kind, host, more='', device='disk', serial=uuids.volume):
    serial = f'<serial>{serial}</serial>' if serial else ''
    return (f"<disk type='{kind}' device='{device}'>"
            f"{KINDS[kind].format(host=host)}<target dev='vdb' bus='virtio'/>"
            f"{serial}{more}</disk>")


GUEST = ("<boot order='2'/><alias name='ua-{}'/>"
         "<address type='pci' domain='0x0' bus='0x0' slot='0x04'/>")


@ddt.ddt
class UpdateDisksTestCase(test.NoDBTestCase):

    def _update(self, source, dest, connection_info=None, **bdm):
        """Put `source` in a domain, migrate to `dest`, return the disk."""
        fields = dict(serial=uuids.volume, bus='virtio', type='disk',
                      dev='vdb', connection_info=connection_info or {'a': 1})
        if dest is not None:
            fields['disk_xml'] = dest
        info = objects.LibvirtLiveMigrateBDMInfo(**dict(fields, **bdm))
        domain = etree.fromstring(
            f'<domain><devices>{source}</devices></domain>',
            etree.XMLParser(remove_blank_text=True))
        disk_migration.update_disks(
            domain, objects.LibvirtLiveMigrateData(bdms=[info]),
            self.get_volume_config)
        return domain.find('./devices/disk')

    def setUp(self):
        super().setUp()
        self.get_volume_config = mock.Mock(
            side_effect=AssertionError('the destination described the disk'))

    def _assert_disk(self, expected, disk):
        def canon(element):
            return (element.tag, sorted(element.attrib.items()),
                    (element.text or '').strip(),
                    sorted(canon(child) for child in element))
        self.assertEqual(canon(etree.fromstring(expected)), canon(disk))

    @ddt.data(('block', 'block'), ('network', 'network'),
              ('block', 'network'), ('network', 'block'))
    @ddt.unpack
    def test_the_path_is_the_destinations(self, here, there):
        # EX2 and EX3 of the spec, and the two that cross.
        guest = GUEST.format(uuids.volume)
        disk = self._update(disk_xml(here, 'a', guest), disk_xml(there, 'b'))
        self._assert_disk(disk_xml(there, 'b', guest), disk)

    @ddt.data(
        "<readonly/>", "<shareable/>",
        "<iotune><total_iops_sec>9</total_iops_sec></iotune>",
        "<encryption format='luks'><secret type='passphrase' "
        "uuid='5ec00000-0000-4000-8000-000000000002'/></encryption>")
    def test_what_the_destination_has_or_lacks(self, element):
        bare = disk_xml('network', 'b')
        self._assert_disk(
            bare, self._update(disk_xml('network', 'a', element), bare))
        full = disk_xml('network', 'b', element)
        self._assert_disk(
            full, self._update(disk_xml('network', 'a'), full))

    def test_what_the_guest_sees_stays(self):
        # The queue count is part of the guest's hardware, the cache mode is
        # not; a description never moves a disk to another address.
        source = etree.fromstring(
            disk_xml('block', 'a', GUEST.format(uuids.volume)))
        hardware = {'queues': '4', 'iommu': 'on', 'packed': 'on',
                    'iothread': '1'}
        source.find('driver').attrib.update(
            {**hardware, 'cache': 'writeback'})
        dest = disk_xml('block', 'b', "<address type='drive' unit='1'/>"
                        "<alias name='ua-other'/><boot order='1'/>"
                        "<blockio logical_block_size='4096'/>")
        disk = self._update(etree.tostring(source, encoding='unicode'), dest)
        driver = disk.find('driver')
        self.assertEqual(hardware, {name: driver.get(name)
                                    for name in hardware})
        self.assertEqual('none', disk.find('driver').get('cache'))
        self.assertEqual('0x04', disk.find('address').get('slot'))
        self.assertEqual(1, len(disk.findall('address')))
        self.assertEqual('2', disk.find('boot').get('order'))
        self.assertEqual(f'ua-{uuids.volume}', disk.find('alias').get('name'))
        self.assertIsNone(disk.find('blockio'))

    def test_lun_by_alias(self):
        # device='lun' has no serial; before, the source's path was sent.
        alias = f"<alias name='ua-{uuids.volume}'/>"
        disk = self._update(
            disk_xml('block', 'a', alias, 'lun', serial=None),
            disk_xml('block', 'b', alias, 'lun', serial=None))
        self.assertIn('iqn.x:b', disk.find('source').get('dev'))

    @ddt.data('', "<alias name='scsi0-0-0-1'/>")
    def test_lun_without_an_alias(self, alias):
        # A guest from before Nova's aliases, or with libvirt's own.
        disk = self._update(
            disk_xml('block', 'a', alias, device='lun', serial=None),
            disk_xml('block', 'b', f"<alias name='ua-{uuids.volume}'/>",
                     device='lun', serial=None))
        self.assertIn('iqn.x:b', disk.find('source').get('dev'))

    def test_swapped_volume(self):
        # The guest's disk keeps serial and alias of the volume before it.
        disk = self._update(
            disk_xml('block', 'a', f"<alias name='ua-{uuids.before}'/>",
                     serial=uuids.before),
            disk_xml('block', 'b', f"<alias name='ua-{uuids.volume}'/>"))
        self.assertIn('iqn.x:b', disk.find('source').get('dev'))
        self.assertEqual(uuids.before, disk.findtext('serial'))

    def test_local_disk_of_that_name(self):
        source = disk_xml('block', 'a', serial=None)
        self._assert_disk(
            source, self._update(source, disk_xml('block', 'b')))
        self.assertIn('keeps the path', self.stdlog.logger.output)

    def test_no_such_disk(self):
        exc = self.assertRaises(
            exception.MigrationError, self._update,
            disk_xml('block', 'a', serial=uuids.other),
            disk_xml('block', 'b'), dev='vdx')
        self.assertIn(uuids.volume, str(exc))

    def test_two_disks(self):
        # A serial counts for more than a device name that has moved on.
        first = disk_xml('block', 'c', serial=uuids.other)
        second = disk_xml('block', 'a').replace("'vdb'", "'vdc'")
        bdm = objects.LibvirtLiveMigrateBDMInfo(
            serial=uuids.volume, dev='vdb', connection_info={'a': 1},
            disk_xml=disk_xml('block', 'b'))
        domain = etree.fromstring(
            f'<domain><devices>{first}{second}</devices></domain>')
        disk_migration.update_disks(
            domain, objects.LibvirtLiveMigrateData(bdms=[bdm]),
            self.get_volume_config)
        sources = [source.get('dev') for source in domain.iter('source')]
        self.assertIn('iqn.x:c', sources[0])
        self.assertIn('iqn.x:b', sources[1])

    def test_alias_for_a_guest_that_has_none(self):
        dest = disk_xml('block', 'b', f"<alias name='ua-{uuids.volume}'/>")
        self._assert_disk(dest, self._update(disk_xml('block', 'a'), dest))

    @ddt.data('', 'no xml', '<domain/>',
              '<?xml version="1.0" encoding="utf-8"?><disk/>',
              '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
              '<domain>&e;</domain>')
    def test_no_disk(self, dest):
        if not dest:
            self.get_volume_config.side_effect = exception.Invalid()
        exc = self.assertRaises(
            exception.MigrationError if dest else exception.Invalid,
            self._update, disk_xml('block', 'a'), dest)
        if dest:
            self.assertIn(uuids.volume, str(exc))
            self.assertIn('disk_xml', str(exc))

    def test_no_entity_is_expanded(self):
        secret = self.useFixture(fixtures.TempDir()).join('secret')
        with open(secret, 'w') as written:
            written.write('s3cr3t')
        dest = (f'<!DOCTYPE d [<!ENTITY e SYSTEM "file://{secret}">]>' +
                disk_xml('block', 'b', '<iotune>&e;</iotune>'))
        disk = self._update(disk_xml('block', 'a'), dest)
        self.assertNotIn('s3cr3t', etree.tostring(disk, encoding='unicode'))

    def _old_destination_conf(self):
        conf = vconfig.LibvirtConfigGuestDisk()
        conf.source_type, conf.source_device = 'block', 'disk'
        conf.source_path = '/dev/sdx'
        conf.target_dev, conf.target_bus = 'vdb', 'virtio'
        conf.serial = uuids.volume
        conf.volume_encryption = vconfig.LibvirtConfigGuestDiskEncryption()
        conf.volume_encryption.format = 'luks'
        self.get_volume_config.side_effect = None
        self.get_volume_config.return_value = conf

    def test_destination_without_descriptions(self):
        self._old_destination_conf()
        disk = self._update(disk_xml('network', 'a'), None)
        self.assertEqual('block', disk.get('type'))
        self.assertEqual('/dev/sdx', disk.find('source').get('dev'))
        self.assertIsNone(disk.find('auth'))
        # This host's secret says nothing about that host's.
        self.assertIsNone(disk.find('encryption'))

    def test_destination_without_descriptions_encrypted(self):
        self._old_destination_conf()
        disk = self._update(disk_xml('block', 'a'), None,
                            encryption_secret_uuid=uuids.secret)
        self.assertEqual(
            uuids.secret, disk.find('./encryption/secret').get('uuid'))


class WithoutPasswordsTestCase(test.NoDBTestCase):

    def test_copy(self):
        info = {'driver_volume_type': 'iscsi', 'data': {
            'auth_method': 'CHAP', 'auth_username': 'u',
            'auth_password': 's3', 'discovery_auth_password': 's4',
            'device_path': '/dev/sda'}}
        self.assertEqual(
            {'driver_volume_type': 'iscsi', 'data': {
                'auth_method': 'CHAP', 'auth_username': 'u',
                'device_path': '/dev/sda'}},
            disk_migration.without_passwords(info))
        self.assertEqual('s3', info['data']['auth_password'])

    def test_no_data(self):
        self.assertEqual({}, disk_migration.without_passwords({}))


class VersionsTestCase(test.NoDBTestCase):

    def test_older_peers(self):
        bdm = objects.LibvirtLiveMigrateBDMInfo(disk_xml='<disk/>')
        self.assertNotIn(
            'disk_xml', bdm.obj_to_primitive('1.1')['nova_object.data'])
        data = objects.LibvirtLiveMigrateData(
            src_supports_dest_disk_xml=True)
        self.assertNotIn('src_supports_dest_disk_xml', data.obj_to_primitive(
            '1.13')['nova_object.data'])
