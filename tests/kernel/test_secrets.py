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
"""Credentials on their way to open-iscsi, and targets that check them."""

from blockpath import paths
from blockpath.testbed import agent
from blockpath.testbed import volumes
from tests.kernel import base

BASE = str(paths.TREES / '2026.2/base/os-brick')
MUTUAL = ['target-user', 'target-password-21']
OTHER = ['volume-user', 'another-password-33']
#: At most; the stop file ends the scan.
SCAN_S = 300


class TestSecrets(base.KernelTestCase):

    def scan(self, data: dict, **options: str) -> list[str]:
        """Programs with the password on their command line meanwhile."""
        stop = f'/run/{self.name}'
        scanning = self.initiator.start_call(
            f'{volumes.INITIATOR}:scan', data['auth_password'], SCAN_S, stop)
        try:
            device = self.inside('connect', data, **options)
            self.inside('disconnect', data, device, **options)
            self.assertTrue(scanning.running, 'the scan was too short')
        finally:
            self.initiator.shell(f'touch {stop}')
        return scanning.wait()

    def test_on_no_command_line_nor_log(self) -> None:
        data = self.data(self.lio(chap=base.CHAP), 0, chap=base.CHAP)
        self.assertEqual([], self.scan(data))
        self.assertEqual([], self.inside('found_in_logs', base.CHAP[1]))
        self.assert_clean()

    def test_found_with_the_base_release(self) -> None:
        """The same looks find it where it is."""
        chap = ['volume-user', 'base-password-77']
        data = self.data(self.lio(chap=chap), 0, chap=chap)
        self.assertIn('iscsiadm', ' '.join(self.scan(data, tree=BASE)))

    def test_record_is_private(self) -> None:
        data = self.data(self.lio(chap=base.CHAP), 0, chap=base.CHAP)
        device = self.inside('connect', data)
        self.assertEqual([], self.inside('found_in_logs', base.CHAP[1]))
        self.assertIn(base.CHAP[1], self.initiator.shell(
            'grep -rh auth.password /etc/iscsi/nodes'))
        self.inside('disconnect', data, device)
        self.assert_clean()

    def test_mutual(self) -> None:
        """The target proves itself, or there is no login."""
        iqn = self.lio(chap=base.CHAP, mutual=MUTUAL)
        data = self.data(iqn, 0, chap=base.CHAP) | {
            'mutual_auth_username': MUTUAL[0],
            'mutual_auth_password': MUTUAL[1]}
        device = self.inside('connect', data)
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.inside('disconnect', data, device)
        self.assert_clean()
        self.assertRaises(
            agent.CallFailed, self.inside, 'connect',
            data | {'mutual_auth_password': 'some-other-password'})
        self.assert_clean()

    def test_changed_while_a_session_is_in_use(self) -> None:
        """A second volume of the target, and other credentials."""
        iqn = self.lio(chap=base.CHAP)
        first = self.data(iqn, 0, chap=base.CHAP)
        device = self.inside('connect', first)
        self.outside('lio_lun', iqn, 1, f'{self.name}-1', base.SIZE_MIB)
        self.outside('lio_chap', iqn, *OTHER)
        session = self.leftovers()['sessions']
        wrong = self.data(iqn, 1, chap=['volume-user', 'wrong-password-9'])
        self.assertRaises(agent.CallFailed, self.inside, 'connect', wrong)
        self.assertEqual(session, self.leftovers()['sessions'])
        second = self.data(iqn, 1, chap=OTHER)
        added = self.inside('connect', second)
        self.assertEqual(session, self.leftovers()['sessions'])
        self.check_data(device['path'], f'/var/lib/testbed/{self.name}')
        self.check_data(added['path'], f'/var/lib/testbed/{self.name}-1')
        self.inside('disconnect', second, added)
        self.inside('disconnect', first, device)
        self.assert_clean()
