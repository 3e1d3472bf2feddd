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
"""Services with other options, or killed; which processes run."""

import os
import subprocess
import types

from blockpath.cloud import lab_hosts
from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import wait
from tests.unit import lab_base


class TestConfigured(lab_base.LabTest):

    def test_options_are_there_for_the_block_only(self) -> None:
        path = self.site.etc / 'storage' / 'cinder.conf'
        path.parent.mkdir()
        path.write_text('[DEFAULT]\na = 1\n')
        seen: list[str] = []
        fake = types.SimpleNamespace(
            _daemons=services.Daemons(self.site),
            restart=lambda name: seen.append(path.read_text()))

        def use() -> None:
            with lab_hosts.Hosts.configured(
                    fake, 'cinder-volume',  # type: ignore[arg-type]
                    DEFAULT={'a': 2}, rbd={'b': 3}):
                raise errors.LabError('in the block')

        self.assertRaises(errors.LabError, use)
        self.assertEqual('[DEFAULT]\na = 1\n\n[DEFAULT]\na = 2\n'
                         '[rbd]\nb = 3\n', seen[0])
        self.assertEqual(['[DEFAULT]\na = 1\n'] * 2,
                         [seen[1], path.read_text()])


class TestKilled(lab_base.LabTest):

    def test_serves_again_whatever_happens(self) -> None:
        seen: list[str] = []
        fake = types.SimpleNamespace(
            kill=lambda name: seen.append(f'kill {name}'),
            restart=lambda name: seen.append(f'restart {name}'))

        def use() -> None:
            with lab_hosts.Hosts.killed(
                    fake, 'cinder-volume'):  # type: ignore[arg-type]
                seen.append('dead')
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, use)
        self.assertEqual(['kill cinder-volume', 'dead',
                          'restart cinder-volume'], seen)


class TestRunning(lab_base.LabTest):

    def running(self, program: str) -> list[int]:
        shell = types.SimpleNamespace(run=lambda argv: subprocess.run(
            argv, capture_output=True, text=True))
        fake = types.SimpleNamespace(shell=lambda host: shell)
        return lab_hosts.Hosts.running(
            fake, 'storage', program)  # type: ignore[arg-type]

    def test_by_the_name_of_the_program(self) -> None:
        # The kernel cuts this name.
        name = f'{os.getpid()}-a-program-of-a-test'
        path = self.folder / name
        path.symlink_to('/usr/bin/sleep')
        self.assertEqual([], self.running(name))
        child = subprocess.Popen([path, '60'])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        wait.until(lambda: child.pid in self.running(name),
                   'the program to run', 10)
        self.assertEqual([], self.running(name[1:]))
