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
"""Paths that Cinder lists, that os-brick finds, and that lead nowhere."""

from blockpath.testbed import agent
from tests.kernel import base


class TestPaths(base.KernelTestCase):

    def count(self, text: str, began: int) -> int:
        return sum(text in ' '.join(call)
                   for call in self.inside('calls', began))

    def test_dead_portal_that_comes_back(self) -> None:
        """One path at first; both when the volume is connected again."""
        data = self.data(self.lio(networks=2), 0, 2)
        self.silence(1)
        device = self.inside('connect', data, multipath=True)
        self.assertIn('multipath_id', device)
        self.assertEqual([(self.storage.addresses[0], 'default')],
                         self.sessions())
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.outside('answer')
        again = self.inside('connect', data, multipath=True)
        self.assertEqual(device['path'], again['path'])
        self.wait('two active paths', 30, self.paths('active', 2))
        self.inside('disconnect', data, device, multipath=True)
        self.assert_clean()

    def test_told(self) -> None:
        """No discovery; one IQN for both portals."""
        data = self.data(self.lio(networks=2), 0, 2)
        del data['target_iqns'], data['target_luns']
        began = len(self.inside('calls'))
        device = self.inside('connect', data, multipath=True)
        self.assertEqual(2, len(self.sessions()))
        self.inside('disconnect', data, device, multipath=True)
        self.assertEqual(0, self.count('discovery', began))
        self.assert_clean()

    def test_found_by_discovery(self) -> None:
        """The other portal of the target; no other target."""
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'lio_clear')
        foreign = self.outside('lio_target', f'{self.name}-other',
                               base.SIZE_MIB, [self.storage.addresses[2]],
                               self.initiator.iqn)
        iqn = self.lio(networks=2)
        data = self.data(iqn, 0)
        began = len(self.inside('calls'))
        device = self.inside('connect', data, multipath=True)
        self.assertEqual(1, self.count('sendtargets', began))
        self.assertEqual([(address, 'default')
                          for address in self.storage.addresses[:2]],
                         self.sessions())
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device, multipath=True)
        self.assertEqual(0, self.count(f'{foreign} --login', began))
        left = self.leftovers()
        self.assertEqual(self.before['sessions'], left['sessions'])
        self.assertEqual(self.before['disks'], left['disks'])

    def test_paths_to_different_volumes(self) -> None:
        """Refused; what the host had of the other one stays."""
        iqn = self.lio(networks=2)
        self.outside('lio_lun', iqn, 1, f'{self.name}-1', base.SIZE_MIB)
        other = self.data(iqn, 1)
        there = self.inside('connect', other)
        data = self.data(iqn, 0, 2) | {'target_luns': [1, 0]}
        error = self.assertRaises(agent.CallFailed, self.inside, 'connect',
                                  data, multipath=True)
        self.assertIn('different volumes', str(error))
        self.check_data(there['path'], f'/var/lib/testbed/{self.name}-1')
        self.inside('disconnect', other, there)
        self.assert_clean()
