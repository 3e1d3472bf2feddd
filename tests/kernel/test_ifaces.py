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
"""Sessions over ifaces of open-iscsi, one or several at once."""

from typing import Any

from blockpath.testbed import agent
from tests.kernel import base

BOTH = {'iscsi_ifaces': ['left=tcp.vec0', 'right=tcp.vec1']}


class TestIfaces(base.KernelTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.initiator.shell, 'rm -f /etc/iscsi/ifaces/*')

    def assert_nothing_but_ifaces(self) -> None:
        left = self.leftovers()
        left['ifaces'] = self.before['ifaces']
        self.assertEqual(self.before, left)

    def test_two_over_two(self) -> None:
        """Two ifaces, two portals: four paths. Nova's list, made first."""
        self.cross()
        data = self.data(self.lio(networks=2, chap=base.CHAP), 0, 2,
                         base.CHAP)
        device = self.inside('connect', data, multipath=True, settings=BOTH)
        self.assertEqual(
            [(address, iface) for address in self.storage.addresses[:2]
             for iface in ('left', 'right')], self.sessions())
        self.wait('four active paths', 30, self.paths('active', 4))
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.assertEqual(['left', 'right'], self.leftovers()['ifaces'])
        # As after a change of the configuration.
        self.inside('disconnect', data, device, multipath=True)
        self.assert_nothing_but_ifaces()

    def test_named(self) -> None:
        """As Nova's single option: an iface of the operator's."""
        self.initiator.shell(
            'iscsiadm -m iface -I mine --op new; iscsiadm -m iface -I mine '
            '--op update -n iface.net_ifacename -v vec1')
        self.cross()
        data = self.data(self.lio(), 0)
        device = self.inside('connect', data, transport='mine')
        self.assertEqual([(self.storage.addresses[0], 'mine')],
                         self.sessions())
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device, transport='mine')
        self.assert_nothing_but_ifaces()

    def test_after_a_discovery(self) -> None:
        """Its records do not decide over what the session is."""
        self.cross()
        iqn = self.lio(networks=2)
        data = self.data(iqn, 0)
        settings = {'iscsi_ifaces': ['right=tcp.vec1']}
        device = self.inside('connect', data, multipath=True,
                             settings=settings)
        self.assertEqual([(address, 'right')
                          for address in self.storage.addresses[:2]],
                         self.sessions())
        self.inside('disconnect', data, device, multipath=True,
                    settings=settings)
        left = self.leftovers()
        self.assertEqual(self.before['sessions'], left['sessions'])
        self.assertEqual(self.before['nodes'], left['nodes'])

    def lost(self, **settings: Any) -> dict[str, Any]:
        """Connect over a card that no portal can be reached by."""
        data = self.data(self.lio(networks=2), 0, 2)
        self.inside('connect', data,
                    settings={'iscsi_ifaces': ['lost=tcp.vec2'], **settings})
        return data

    def test_default_instead(self) -> None:
        data = self.lost()
        self.assertEqual([(self.storage.addresses[0], 'default')],
                         self.sessions())
        self.inside('disconnect', data, None)
        self.assert_nothing_but_ifaces()

    def test_default_not_allowed(self) -> None:
        self.assertRaises(agent.CallFailed, self.lost,
                          iscsi_iface_fallback=False)
        self.assert_nothing_but_ifaces()

    def test_hardware_that_is_absent(self) -> None:
        data = self.data(self.lio(), 0)
        error = self.assertRaises(
            agent.CallFailed, self.inside, 'connect', data,
            settings={'iscsi_ifaces': ['x=cxgb4i.00:07:43:28:b2:58'],
                      'iscsi_iface_fallback': False})
        self.assertIn('/sys/class/iscsi_transport/cxgb4i', str(error))
        self.assert_clean()
