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

"""A libvirt secret is either there with its value, or not there."""

from unittest import mock

import fixtures

from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt.libvirt import host


class SecretFailureTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.host = host.Host('qemu:///system')
        self.conn = mock.Mock(spec=fakelibvirt.Connection)
        self.useFixture(fixtures.MockPatchObject(
            self.host, 'get_connection', return_value=self.conn))

    @staticmethod
    def _error(code):
        return fakelibvirt.make_libvirtError(
            fakelibvirt.libvirtError, 'no', error_code=code)

    def test_find_absent(self):
        self.conn.secretLookupByUsage.side_effect = self._error(
            fakelibvirt.VIR_ERR_NO_SECRET)
        self.assertIsNone(self.host.find_secret('volume', 'v'))

    def test_find_fails(self):
        # Were this None, the caller would take an encrypted volume for a
        # plain one and hand the guest its ciphertext.
        self.conn.secretLookupByUsage.side_effect = self._error(
            fakelibvirt.VIR_ERR_INTERNAL_ERROR)
        self.assertRaises(
            fakelibvirt.libvirtError, self.host.find_secret, 'volume', 'v')

    def test_create_fails_to_set_the_value(self):
        secret = self.conn.secretDefineXML.return_value
        secret.setValue.side_effect = self._error(
            fakelibvirt.VIR_ERR_INTERNAL_ERROR)
        self.assertRaises(
            fakelibvirt.libvirtError, self.host.create_secret, 'volume', 'v',
            password='p')
        secret.undefine.assert_called_once_with()

    def test_create_fails_to_define(self):
        self.conn.secretDefineXML.side_effect = self._error(
            fakelibvirt.VIR_ERR_INTERNAL_ERROR)
        self.assertRaises(
            fakelibvirt.libvirtError, self.host.create_secret, 'volume', 'v',
            password='p')

    def test_delete_fails_to_look_up(self):
        # A secret is the least of what is cleaned up with it.
        self.conn.secretLookupByUsage.side_effect = self._error(
            fakelibvirt.VIR_ERR_INTERNAL_ERROR)
        self.host.delete_secret('volume', 'v')
