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
import subprocess
import sys
import time
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
        for command in ((), ('up',), ('logs',), ('console',), ('run',),
                        ('run', 'smoke')):
            result = self.invoke(*command, '--help', uid=1000)
            self.assertEqual(0, result.exit_code, result.output)

    def test_all_else_does(self) -> None:
        for command in (('up',), ('down',), ('status',), ('run', 'smoke'),
                        ('logs',), ('logs', 'cmp1'), ('console', 'cmp1'),
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

    def test_list_of_logs(self) -> None:
        (self.site.log / 'cmp1').mkdir()
        (self.site.log / 'cmp1' / 'console-1.log').write_text('')
        (self.site.log / 'cmp1.log').write_text('x' * 2500)
        result = self.invoke('logs')
        self.assertEqual(
            (0, 'host           3 KiB  cmp1\n'
                'guest          0 KiB  cmp1/console-1\n'),
            (result.exit_code, result.output))

    def test_list_names_servers(self) -> None:
        server = '60f6b7e8-652c-434e-b601-657fc16c17b8'
        (self.site.log / 'nova-compute-cmp1.log').write_text(
            f'<uuid>{server}</uuid> <nova:name>demo</nova:name>')
        (self.site.log / 'cmp1').mkdir()
        (self.site.log / 'cmp1' / f'console-{server}.log').write_text('')
        self.assertEqual(f'guest          0 KiB  cmp1/console-{server}  demo',
                         self.invoke('logs').output.splitlines()[1])

    def test_no_logs(self) -> None:
        result = self.invoke('logs')
        self.assertEqual((1, 'Error: there are no logs; no lab was started '
                          'yet\n'), (result.exit_code, result.output))

    def test_a_log(self) -> None:
        (self.site.log / 'cmp1.log').write_bytes(b'\x1b[1mLinux\xff\n')
        for command in ('logs', 'console'):
            result = self.invoke(command, 'cmp1')
            self.assertEqual((0, b'\x1b[1mLinux\xff\n'),
                             (result.exit_code, result.stdout_bytes))
            result = self.invoke(command, 'nothing')
            self.assertEqual(1, result.exit_code)
            self.assertIn('blockpath lab logs', result.output)

    def test_follow_what(self) -> None:
        result = self.invoke('logs', '--follow')
        self.assertEqual(2, result.exit_code)
        self.assertIn('--follow needs the name of a log', result.output)

    def test_follow(self) -> None:
        """A process prints the log, and what is added to it."""
        lines = [f'line {number}\n' for number in range(20)]
        log = self.site.log / 'cmp1.log'
        code = ('import os, pathlib, sys\n'
                'from blockpath import lab_cli\n'
                'from blockpath.machine import topology\n'
                'site = topology.Site(pathlib.Path(sys.argv.pop(1)))\n'
                'topology.Site = lambda: site\n'
                'os.geteuid = lambda: 0\n'
                'lab_cli.group()\n')
        for command in ('logs', 'console'):
            log.write_text(''.join(lines))
            with subprocess.Popen(
                    [sys.executable, '-c', code, str(self.site.state),
                     command, 'cmp1', '-f'],
                    stdout=subprocess.PIPE, text=True) as child:
                self.addCleanup(child.kill)
                assert child.stdout
                self.assertEqual(
                    lines, [child.stdout.readline() for _ in lines])
                # The last read of a process that does not follow is over.
                time.sleep(0.5)
                with open(log, 'a') as file:
                    file.write('more\n')
                self.assertEqual('more\n', child.stdout.readline())
                child.kill()
