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
"""iSER over a software RDMA device on each host's third card.

The kernel of user-mode Linux has no RDMA, so the hosts are emulated.
"""

from tests.kernel import base

CARD = 2


class TestIser(base.KernelTestCase):

    hosts = staticmethod(base.guests)

    def setUp(self) -> None:
        super().setUp()
        for guest in (self.storage, self.initiator):
            guest.shell(f'rdma link show rxe0/1 >/dev/null 2>&1 || '
                        f'rdma link add rxe0 type rxe netdev eth{CARD}')

    def target(self) -> tuple[str, str]:
        """A target on that card alone; returns its IQN and portal."""
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'lio_clear')
        address = self.storage.addresses[CARD]
        iqn = self.outside('lio_target', self.name, base.SIZE_MIB, [address],
                           self.initiator.iqn, iser=True)
        return iqn, f'{address}:3260'

    def test_login_by_hand(self) -> None:
        """open-iscsi and LIO speak iSER here: what all else builds on."""
        iqn, portal = self.target()
        which = f'iscsiadm -m node -T {iqn} -p {portal} -I iser'
        self.initiator.shell(f'{which} -o new; {which} --login')
        self.assertIn('iser:', self.initiator.run('iscsiadm', '-m',
                                                  'session'))
        path = f'/dev/disk/by-path/ip-{portal}-iscsi-{iqn}-lun-0'
        self.wait('disk', 30, f'test -e {path}')
        self.check_data(path, f'/var/lib/testbed/{self.name}')
        self.initiator.shell(f'{which} --logout; {which} -o delete')
        self.assertEqual(self.before['sessions'],
                         self.leftovers()['sessions'])

    def test_connect_volume(self) -> None:
        """os-brick with the transport that Nova gives for ``iser``."""
        iqn, portal = self.target()
        data = self.data(iqn, 0) | {'target_portal': portal}
        device = self.inside('connect', data, protocol='ISER',
                             transport='iser')
        self.assertIn('iser:', self.initiator.run('iscsiadm', '-m',
                                                  'session'))
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device, protocol='ISER',
                    transport='iser')
        self.assert_clean()
