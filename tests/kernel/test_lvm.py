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
"""What Cinder's LVM driver tells is what os-brick attaches."""

from typing import Any
import uuid

from tests.kernel import base

#: A volume has 1 GiB, and a failed test leaves its own.
GROUP_MIB = 3200
#: Each of Cinder's commands is a Python of its own, on an emulated CPU.
SLOW_S = 240.0


class TestLvm(base.RigTestCase):

    prepared = False

    def setUp(self) -> None:
        super().setUp()
        if not TestLvm.prepared:
            self.cinder('prepare', GROUP_MIB)
            TestLvm.prepared = True

    def cinder(self, function: str, *args: Any) -> Any:
        return self.storage.call(f'tests.kernel.lvm:{function}', *args,
                                 timeout=SLOW_S)

    def test_lio(self) -> None:
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'lio_clear')
        self.check('lioadm')

    def test_tgt(self) -> None:
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'tgt_stop')
        self.outside('tgt_start')
        self.check('tgtadm')

    def check(self, helper: str) -> None:
        """Two portals, ``initialize_connection(multipath=True)``, data."""
        self.cinder('configure', helper, self.storage.addresses[:2], 'iscsi')
        connector = self.inside('properties', True)
        self.assertTrue(connector['multipath'])
        made = self.cinder('attach', str(uuid.uuid4()), connector)
        data = made['info']['data']
        self.assertEqual(2, len(data['target_portals']))
        device = self.inside('connect', data, multipath=True)
        self.check_data(device['path'], made['path'])
        self.assertEqual(2, len(self.leftovers()['sessions']))
        self.inside('disconnect', data, device, multipath=True)
        self.assert_clean()
        self.cinder('detach', made['volume'], connector)
