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
"""The commands help without root, and say what is wrong in one line."""

import os
from unittest import mock

from click import testing

from blockpath.cloud import cloud
from blockpath import lab_cli
from blockpath.machine import topology
from blockpath import scenarios
from tests.unit import lab_base


class TestCli(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        # What names the class has to be imported before it is replaced.
        self.assertTrue(cloud.Lab)
        patcher = mock.patch.object(topology, 'Site', lambda: self.site)
        patcher.start()
        self.addCleanup(patcher.stop)

    def invoke(self, *arguments: str, uid: int = 0) -> testing.Result:
        with mock.patch.object(os, 'geteuid', lambda: uid):
            return testing.CliRunner().invoke(lab_cli.group, arguments)

    def test_help_needs_no_root(self) -> None:
        for command in ((), ('up',), ('run',), ('run', 'smoke')):
            result = self.invoke(*command, '--help', uid=1000)
            self.assertEqual(0, result.exit_code, result.output)

    def test_all_else_does(self) -> None:
        for command in (('up',), ('down',), ('status',), ('run', 'smoke'),
                        ('openstack', 'server', 'list')):
            result = self.invoke(*command, uid=1000)
            self.assertEqual((1, 'Error: the lab needs root; run this with '
                              'sudo\n'), (result.exit_code, result.output))

    def test_scenarios_are_listed(self) -> None:
        result = self.invoke('run', '--help')
        for name in scenarios.names():
            self.assertTrue(scenarios.summary(name), name)
            self.assertIn(scenarios.summary(name)[:40], result.output)

    def test_unknown_scenario(self) -> None:
        result = self.invoke('run', 'nothing')
        self.assertEqual(2, result.exit_code)
        self.assertIn("No such command 'nothing'", result.output)

    def test_status_of_what_is_left(self) -> None:
        result = self.invoke('status')
        self.assertEqual(1, result.exit_code)
        self.assertIn('the next up clears it', result.output)

    def test_down_twice(self) -> None:
        for _ in range(2):
            result = self.invoke('down')
            self.assertEqual((0, 'the lab is down\n'),
                             (result.exit_code, result.output))
        self.assertIn('the lab is down', self.invoke('status').output)
