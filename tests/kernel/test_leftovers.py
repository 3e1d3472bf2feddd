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
"""Connections that end at a step: by an error, or by the service's death.

What is left of a volume on a host that has no right to it any more is what
CVE-2023-2088 was about.
"""

from blockpath.testbed import agent
from blockpath.testbed import volumes
from tests.kernel import base

#: What os-brick calls on the way, with two portals: a part of each command.
STEPS = ('--op new', 'node.session.scan', 'initial_login_retry_max',
         '--login', 'node.startup -v automatic', 'multipath -C')
#: Those without which there is no connection.
NEEDED = ('--op new', '--login', 'multipath -C')


class TestLeftovers(base.KernelTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.volume = self.data(self.lio(networks=2, chap=base.CHAP), 0, 2,
                                base.CHAP)

    def test_killed(self) -> None:
        """Whoever disconnects the volume then leaves nothing."""
        for step in STEPS:
            with self.subTest(step):
                self.hold(step)
                call = self.initiator.start_call(
                    f'{volumes.INITIATOR}:connect', self.volume,
                    multipath=True)
                self.held()
                call.kill()
                self.assertEqual('', self.assertRaises(
                    agent.CallFailed, call.wait).kind)
                self.initiator.shell('rm -f /run/testbed/hold')
                self.inside('disconnect', self.volume, None, multipath=True)
                self.assert_clean()

    def test_failed(self) -> None:
        """An attach that fails cleans up."""
        for step in NEEDED:
            with self.subTest(step):
                self.let_fail(step)
                self.assertRaises(agent.CallFailed, self.inside, 'connect',
                                  self.volume, multipath=True, settings={
                                      'wait_mpath_device_attempts': 1})
                self.recover()
                self.assert_clean()
