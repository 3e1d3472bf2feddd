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
"""os-brick attaches volumes of LIO and tgt with a kernel's initiator."""

from blockpath.testbed import volumes
from tests.kernel import base

#: One block waits for as long as a path takes to be given up.
STALL_S = 30.0


class TestIscsi(base.KernelTestCase):

    def test_chap_over_one_path(self) -> None:
        """LIO, one portal, CHAP."""
        iqn = self.lio(chap=base.CHAP)
        data = self.data(iqn, 0, chap=base.CHAP)
        device = self.inside('connect', data)
        self.assertTrue(device['path'].startswith('/dev/'))
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device)
        self.assert_clean()

    def test_two_portals_of_lio(self) -> None:
        """Two networks, a path in each, one map."""
        iqn = self.lio(networks=2, chap=base.CHAP)
        self.check_multipath(self.data(iqn, 0, 2, base.CHAP))

    def test_two_portals_of_tgt(self) -> None:
        iqn = self.tgt(chap=base.CHAP)
        self.check_multipath(self.data(iqn, 1, 2, base.CHAP))

    def check_multipath(self, data: dict) -> None:
        device = self.inside('connect', data, multipath=True)
        self.assertIn('multipath_id', device)
        self.wait('two active paths', 30, self.paths('active', 2))
        self.assertEqual(2, len(self.leftovers()['sessions']))
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device, multipath=True)
        self.assert_clean()

    def test_path_loss_and_return(self) -> None:
        """A cable is pulled and plugged in again while data is written."""
        iqn = self.lio(networks=2)
        data = self.data(iqn, 0, 2)
        device = self.inside('connect', data, multipath=True)
        self.wait('two active paths', 30, self.paths('active', 2))
        stop = f'/run/{self.name}'
        writing = self.initiator.start_call(
            f'{volumes.INITIATOR}:write_until', stop, device['path'],
            base.DATA_MIB, 2)
        self.addCleanup(writing.kill)
        self.initiator.link(1, up=False)
        self.addCleanup(self.initiator.link, 1, up=True)
        lost = self.wait('lost path', 30, self.paths('failed', 1))
        self.initiator.link(1, up=True)
        back = self.wait('path back', 40, self.paths('active', 2))
        self.initiator.shell(f'touch {stop}')
        result = writing.wait()
        self.detail(lost=f'{lost:.1f}', back=f'{back:.1f}',
                    writing=str(result))
        self.assertLess(result['longest'], STALL_S)
        self.assertEqual(result['sha256'], self.outside(
            'digest', f'/var/lib/testbed/{self.name}', base.DATA_MIB))
        self.inside('disconnect', data, device, multipath=True)
        self.assert_clean()
