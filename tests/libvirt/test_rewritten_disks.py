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
"""libvirt itself takes what a migrating guest's disks are rewritten to."""

import itertools
from unittest import mock

import libvirt
from lxml import etree
import nova.conf
from nova.objects import migrate_data
from nova.virt.libvirt import disk_migration
from nova.virt.libvirt.volume import iscsi
from nova.virt.libvirt.volume import iscsi_secret
from nova.virt.libvirt.volume import net_iscsi
import testscenarios
import testtools

from tests.libvirt import daemon

load_tests = testscenarios.load_tests_apply_scenarios

VOLUME = '58a84f6d-3f0c-4e19-a0af-eb657b790657'
DISK = {'bus': 'virtio', 'dev': 'vdb', 'type': 'disk'}
LUN = {'bus': 'scsi', 'dev': 'sda', 'type': 'lun'}
DOMAIN = """
<domain type='qemu'>
  <name>guest</name>
  <uuid>6f1d2c1a-0d0e-4a43-9a10-0000000000a1</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>{disk}</devices>
</domain>
"""


def disk_of(kind: str, host: str, disk_info: dict[str, str],
            extra: dict[str, object]) -> str:
    """The disk that Nova's volume driver makes on `host`."""
    stub = mock.Mock()
    stub.find_secret.return_value = None
    choice = {'name': 'qemu', 'host': host, 'portal': ['2001:db8::1', 3260],
              'target': f'iqn.2026-01.org.example:{host}', 'lun': 7,
              'iqn': f'iqn.1994-05.org.example:{host}', 'username': host,
              'secret_uuid': iscsi_secret.secret_uuid(VOLUME)}
    info = {'driver_volume_type': 'iscsi', 'serial': VOLUME, 'data': {
        'volume_id': VOLUME, 'nova_initiator': choice, **extra,
        'device_path': f'/dev/disk/by-path/iqn.org.example:{host}-lun-1'}}
    driver = {'block': iscsi.LibvirtISCSIVolumeDriver,
              'network': net_iscsi.LibvirtNetISCSIVolumeDriver}[kind]
    return driver(stub).get_config(info, disk_info).to_xml()


class RewrittenDisksTestCase(testtools.TestCase):
    """Every pair of disk types, plain and with all that a type can say."""

    rich: dict[str, object] = {
        'access_mode': 'ro', 'qos_specs': {'total_iops_sec': 100}}
    scenarios = [
        (f'{here}-{there}-{info["type"]}-{"-".join(more) or "plain"}',
         {'here': here, 'there': there, 'info': info, 'more': more})
        for here, there, info, more in itertools.product(
            ('block', 'network'), ('block', 'network'), (DISK, LUN),
            ((), ('here',), ('there',)))
        # A SCSI pass-through has no limits of QEMU's.
        if not (info is LUN and more)]

    here: str
    there: str
    info: dict[str, str]
    more: tuple[str, ...]

    conn: libvirt.virConnect

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        nova.conf.CONF([], project='nova', default_config_files=[])
        libvirtd = daemon.Libvirtd()
        libvirtd.setUp()
        cls.addClassCleanup(libvirtd.cleanUp)
        cls.conn = libvirtd.conn

    def test_libvirt_defines_both(self) -> None:
        source = disk_of(self.here, 'a', self.info,
                         self.rich if 'here' in self.more else {})
        dest = disk_of(self.there, 'b', self.info,
                       self.rich if 'there' in self.more else {})
        before = self._define(DOMAIN.format(disk=source))
        xml = etree.fromstring(before)
        disk_migration.update_disks(
            xml, migrate_data.LibvirtLiveMigrateData(bdms=[
                migrate_data.LibvirtLiveMigrateBDMInfo(
                    serial=VOLUME, dev=self.info['dev'],
                    connection_info={'a': 1}, disk_xml=dest)]), mock.Mock())
        after = self._define(etree.tostring(xml, encoding='unicode'))
        # As libvirt defines the guest anew from the destination's disk, so
        # it defines the rewritten one, but for the address it had given it.
        fresh = self._define(DOMAIN.format(disk=dest))
        self.assertEqual(self._host_side(fresh), self._host_side(after))
        self.assertEqual(self._address(before), self._address(after))

    def _define(self, xml: str) -> str:
        domain = self.conn.defineXMLFlags(
            xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        try:
            return domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        finally:
            domain.undefine()

    @staticmethod
    def _disk(xml: str) -> etree._Element:
        [disk] = etree.fromstring(
            xml, etree.XMLParser(remove_blank_text=True)).findall(
                './devices/disk')
        return disk

    def _host_side(self, xml: str) -> list[str]:
        disk = self._disk(xml)
        kept = [etree.tostring(child, encoding='unicode') for child in disk
                if child.tag not in ('address', 'backingStore')]
        return [disk.get('type', ''), *sorted(kept)]

    def _address(self, xml: str) -> dict[str, str]:
        return dict(self._disk(xml).find('address').attrib)
