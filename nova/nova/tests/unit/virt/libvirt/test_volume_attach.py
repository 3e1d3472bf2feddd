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

"""Attach and detach of volumes by the libvirt driver: what failure leaves."""

import copy
from unittest import mock

import fixtures
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_instance
from nova.virt import fake
from nova.virt.libvirt import driver


class AttachFailureTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.ctxt = context.get_admin_context()
        self.drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        self.instance = fake_instance.fake_instance_obj(
            self.ctxt, uuid=uuids.instance, system_metadata={},
            expected_attrs=['system_metadata'])
        self.instance.flavor = objects.Flavor(
            memory_mb=64, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0,
            extra_specs={})
        self.useFixture(fixtures.MockPatchObject(
            self.drvr._host, 'get_guest'))
        self.volume_driver = mock.Mock()
        self.useFixture(fixtures.MockPatchObject(
            self.drvr, '_get_volume_driver',
            return_value=self.volume_driver))
        self.useFixture(fixtures.MockPatchObject(
            self.drvr, '_attach_encryptor'))
        self.useFixture(fixtures.MockPatchObject(
            self.drvr, '_detach_encryptor'))
        self.connection_info = {
            'driver_volume_type': 'iscsi', 'serial': uuids.volume,
            'data': {'volume_id': uuids.volume, 'access_mode': 'frobnicate'}}

    def test_no_config_for_a_connected_volume(self):
        # A volume whose disk can not be described was left connected to the
        # host, and nothing would have disconnected it.
        self.volume_driver.get_config.side_effect = (
            exception.InvalidVolumeAccessMode(access_mode='frobnicate'))
        self.assertRaises(
            exception.InvalidVolumeAccessMode, self.drvr.attach_volume,
            self.ctxt, copy.deepcopy(self.connection_info), self.instance,
            '/dev/vdb', disk_bus='virtio')
        self.volume_driver.connect_volume.assert_called_once()
        self.volume_driver.disconnect_volume.assert_called_once()
