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
"""What the testbed offers to tests of os-brick."""

from blockpath.testbed import agent
from blockpath.testbed import volumes
from tests.kernel import base


class TestTestbed(base.KernelTestCase):

    def test_killed_at_a_step(self) -> None:
        """os-brick is held before its login, seen from outside, killed."""
        iqn = self.lio()
        self.hold('--login')
        call = self.initiator.start_call(f'{volumes.INITIATOR}:connect',
                                         self.data(iqn, 0))
        self.held()
        line = self.initiator.shell(
            "tr '\\0' ' ' </proc/$(cat /run/testbed/held)/cmdline")
        self.assertIn(f'{iqn}', line)
        self.assertIn('--login', line)
        call.kill()
        self.assertEqual('', self.assertRaises(agent.CallFailed,
                                               call.wait).kind)
        self.assertEqual(self.before['sessions'],
                         self.leftovers()['sessions'])

    def test_secrets_are_seen(self) -> None:
        """The scan finds what is on a command line, and only that."""
        sleeping = self.initiator.start_call(
            'blockpath.testbed.server:run', ['sleep', '31.4159'])
        self.assertEqual(['sleep'], self.inside('scan', '31.4159', 1))
        sleeping.kill()
        self.assertEqual([], self.inside('scan', '27.1828', 1))
