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
"""When a service is ready; with other options; killed; what runs."""

import os
import subprocess
import types
from unittest import mock

from blockpath.cloud import cloud
from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.machine import wait
from tests.unit import lab_base


class TestReports(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.daemons = services.Daemons(self.site)
        self.counts: dict[str, int] = {}
        patch = mock.patch.object(self.daemons, '_report_counts',
                                  lambda service: dict(self.counts))
        patch.start()
        self.addCleanup(patch.stop)

    def check(self, name: str):
        return self.daemons._reports(self.daemons.table[name])

    def test_first_start_has_a_line_a_backend(self) -> None:
        ready = self.check('cinder-volume')
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] = 0
        self.assertTrue(ready())

    def test_after_a_restart_every_backend_counts_on(self) -> None:
        self.counts = {f'storage@{backend}': 5
                       for backend in topology.BACKENDS}
        ready = self.check('cinder-volume')
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] += 1
        self.assertTrue(ready())

    def test_other_services_have_one_line(self) -> None:
        ready = self.check('nova-scheduler')
        self.assertFalse(ready())
        self.counts['control'] = 0
        self.assertTrue(ready())


class TestConfigured(lab_base.LabTest):

    def test_options_are_there_for_the_block_only(self) -> None:
        path = self.site.etc / 'storage' / 'cinder.conf'
        path.parent.mkdir()
        path.write_text('[DEFAULT]\na = 1\n')
        seen: list[str] = []
        lab = types.SimpleNamespace(
            daemons=services.Daemons(self.site),
            restart=lambda name: seen.append(path.read_text()))

        def use() -> None:
            with cloud.Lab.configured(
                    lab, 'cinder-volume',  # type: ignore[arg-type]
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
        lab = types.SimpleNamespace(
            kill=lambda name: seen.append(f'kill {name}'),
            restart=lambda name: seen.append(f'restart {name}'))

        def use() -> None:
            with cloud.Lab.killed(
                    lab, 'cinder-volume'):  # type: ignore[arg-type]
                seen.append('dead')
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, use)
        self.assertEqual(['kill cinder-volume', 'dead',
                          'restart cinder-volume'], seen)


class TestRunning(lab_base.LabTest):

    def test_by_the_program_and_of_the_lab_only(self) -> None:
        children = [subprocess.Popen(
            ['sleep', '60'], executable='/usr/bin/sleep') for _ in 'ab']
        for child in children:
            self.addCleanup(child.wait)
            self.addCleanup(child.kill)
        gone = subprocess.Popen(['true'])
        gone.wait()
        lab = types.SimpleNamespace(processes=lambda: {
            children[0].pid: 'storage', os.getpid(): 'storage',
            gone.pid: 'storage'})
        wait.until(lambda: cloud.Lab.running(
            lab, 'sleep') == [children[0].pid],  # type: ignore[arg-type]
            'the program to run', 10)
        self.assertEqual([], cloud.Lab.running(
            lab, 'leep'))  # type: ignore[arg-type]
