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
"""os-brick attaches the volumes that Cinder's LVM driver exports."""

from typing import Any
import uuid

from tests.kernel import base

#: Cinder starts each of its commands as a new Python, which is slow here.
SLOW_S = 240.0
IPV6 = 'fd77::'


class TestLvm(base.KernelTestCase):

    def setUp(self) -> None:
        super().setUp()
        base.volume_group()

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
        """Three portals, of which two have a port of their own; data."""
        self.add_ipv6()
        first, second, _ = self.storage.addresses
        portals = [f'{first}:3260', f'{second}:3261', f'[{IPV6}1]:3262']
        self.cinder('configure', helper, [first, *portals[1:]], 'iscsi')
        connector = self.inside('properties',
                                self.initiator.addresses[0], True)
        self.assertTrue(connector['multipath'])
        made = self.cinder('attach', str(uuid.uuid4()), connector)
        data = made['info']['data']
        self.assertEqual(portals, data['target_portals'])
        device = self.inside('connect', data, multipath=True)
        self.check_data(device['path'], made['path'])
        self.assertEqual(3, len(self.leftovers()['sessions']))
        self.inside('disconnect', data, device, multipath=True)
        self.assert_clean()
        self.check_one_path(made, connector, portals[0])
        self.cinder('detach', made['volume'], connector)

    def check_one_path(self, made: dict[str, Any], connector: dict[str, Any],
                       portal: str) -> None:
        """The same volume, by a connector without multipathing."""
        info = self.cinder('connection', made['volume'],
                           connector | {'multipath': False})['data']
        self.assertEqual({'target_portal': portal,
                          'target_iqn': made['info']['data']['target_iqn']},
                         {key: info[key] for key in info if
                          key.startswith(('target_portal', 'target_iqn'))})
        device = self.inside('connect', info)
        self.check_data(device['path'], made['path'])
        self.inside('disconnect', info, device)
        self.assert_clean()

    def add_ipv6(self) -> None:
        for host, number in ((self.storage, 1), (self.initiator, 2)):
            host.shell(f'ip -6 address replace {IPV6}{number}/64 dev vec2 '
                       'nodad')
