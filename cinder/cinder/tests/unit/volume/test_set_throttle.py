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
"""volume_copy_bps_limit on a host without the tools of cgroups."""

from cinder.privsep import cgroup
from cinder.tests import fake_driver
from cinder.tests.unit import test
from cinder.volume import configuration
from cinder.volume import throttling


class SetThrottleTestCase(test.TestCase):

    def test_no_tools(self):
        self.addCleanup(throttling.Throttle.set_default, None)
        self.flags(volume_copy_bps_limit=1024)
        self.mock_object(cgroup, 'cgroup_create',
                         side_effect=FileNotFoundError('cgcreate'))
        driver = fake_driver.FakeLoggingVolumeDriver(
            configuration=configuration.Configuration([]))
        driver.set_throttle()
        with throttling.Throttle.get_default().subcommand('a', 'b') as found:
            self.assertEqual([], found['prefix'])
