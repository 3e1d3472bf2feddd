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

"""A network disk that QEMU reaches as an iSCSI initiator of its own."""

from lxml import etree

from nova import test
from nova.virt.libvirt import config

DISK = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='none'/>
  <source protocol='iscsi' name='iqn.2026-01.com.example:a/3'>
    <host name='192.0.2.1' port='3260'/>
    <initiator><iqn name='iqn.1994-05.com.example:host'/></initiator>
    {in_source}
  </source>
  {in_disk}
  <target dev='vdb' bus='virtio'/>
</disk>
"""
AUTH = """
<auth username='u'>
  <secret type='iscsi' uuid='5ec00000-0000-4000-8000-000000000001'/>
</auth>
"""


class ISCSIDiskConfigTestCase(test.NoDBTestCase):

    def _parse(self, in_disk='', in_source=''):
        disk = config.LibvirtConfigGuestDisk()
        disk.parse_str(DISK.format(in_disk=in_disk, in_source=in_source))
        return disk

    def test_there_and_back(self):
        # A disk read from a domain and given to libvirt again, to detach it
        # for instance, keeps its credentials and the name QEMU logs in as.
        for parsed in (self._parse(in_disk=AUTH), self._parse(in_source=AUTH)):
            parser = etree.XMLParser(remove_blank_text=True)
            expected = etree.fromstring(
                DISK.format(in_disk=AUTH, in_source=''), parser)
            self.assertXmlEqual(
                etree.tostring(expected, encoding='unicode'), parsed.to_xml())

    def test_secret_by_usage(self):
        # Nova names secrets by UUID only; another's reference is left out
        # rather than turned into one to no secret at all.
        disk = self._parse(in_disk=AUTH.replace('uuid=', 'usage='))
        self.assertIsNone(disk.auth_secret_type)
        self.assertNotIn('<auth', disk.to_xml())

    def test_no_initiator(self):
        disk = config.LibvirtConfigGuestDisk()
        disk.parse_str("<disk type='network' device='disk'>"
                       "<source protocol='rbd' name='p/v'/></disk>")
        self.assertIsNone(disk.initiator_iqn)
