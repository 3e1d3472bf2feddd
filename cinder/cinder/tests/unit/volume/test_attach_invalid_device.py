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
"""A volume that the manager connects and then cannot use."""

from cinder import exception
from cinder.tests.unit import utils as tests_utils
from cinder.tests.unit import volume as base
from cinder.volume import volume_utils


class BrokenExport(Exception):
    pass


class FakeHost:
    """A connector with a host's state: the devices and what was done."""

    def __init__(self, valid):
        self.valid = valid
        self.devices = set()
        self.calls = []

    def connect_volume(self, connection_properties):
        self.calls.append('connect')
        self.devices.add('/dev/fake')
        return {'type': 'block', 'path': '/dev/fake'}

    def check_valid_device(self, path, run_as_root=True):
        if isinstance(self.valid, Exception):
            raise self.valid
        return self.valid

    def disconnect_volume(self, connection_properties, device_info,
                          force=False, ignore_errors=False):
        self.calls.append('disconnect')
        self.devices.remove(device_info['path'])


class AttachInvalidDeviceTestCase(base.BaseVolumeTestCase):

    def _prepare(self, valid):
        self.host = FakeHost(valid)
        self.mock_object(volume_utils, 'brick_get_connector',
                         return_value=self.host)
        self.mock_object(self.volume, 'initialize_connection',
                         return_value={'driver_volume_type': 'iscsi',
                                       'data': {}})
        self.mock_object(self.volume, 'terminate_connection',
                         lambda *a, **k: self.host.calls.append('terminate'))
        self.mock_object(self.volume, 'remove_export',
                         lambda *a, **k: self.host.calls.append('unexport'))

    def _attach(self):
        volume = tests_utils.create_volume(self.context)
        return self.volume._attach_volume(self.context, volume, {})

    def _assert_clean(self):
        self.assertEqual(set(), self.host.devices)
        self.assertEqual(['connect', 'disconnect', 'terminate', 'unexport'],
                         self.host.calls)

    def test_valid_device_stays(self):
        self._prepare(True)
        self.assertEqual('/dev/fake', self._attach()['device']['path'])
        self.assertEqual({'/dev/fake'}, self.host.devices)

    def test_invalid_device_is_disconnected(self):
        self._prepare(False)
        self.assertRaises(exception.DeviceUnavailable, self._attach)
        self._assert_clean()

    def test_device_is_disconnected_if_the_check_fails(self):
        self._prepare(ValueError('no such wwn'))
        self.assertRaises(ValueError, self._attach)
        self._assert_clean()

    def test_first_error_is_raised(self):
        self._prepare(False)
        self.mock_object(self.host, 'disconnect_volume', side_effect=OSError)
        self.mock_object(self.volume, 'remove_export',
                         side_effect=BrokenExport)
        self.assertRaises(exception.DeviceUnavailable, self._attach)
        self.assertEqual(['connect', 'terminate'], self.host.calls)
