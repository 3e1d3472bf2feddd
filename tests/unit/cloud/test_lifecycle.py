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
"""One command at a time; what is left is found, and only that is ended."""

import os
import socket
import subprocess
import sys
from unittest import mock

from blockpath.cloud import lifecycle
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology
from tests.unit import lab_base


class TestState(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.records = processes.Records(self.site.run, self.site.log)

    def start(self) -> processes.Process:
        process = self.records.spawn('thing', ['sleep', '60'],
                                     dict(os.environ))
        self.addCleanup(processes.end, process, 0)
        return process

    def test_second_command_is_refused(self) -> None:
        for hold in (lifecycle.locked, lifecycle.playing):
            with hold(self.site):
                error = self.assertRaises(errors.LabError,
                                          hold(self.site).__enter__)
            self.assertIn(f'process {os.getpid()}', str(error))
            with hold(self.site):
                pass

    def test_a_lab_is_stopped_while_a_scenario_runs(self) -> None:
        with lifecycle.playing(self.site), lifecycle.locked(self.site):
            lifecycle.clear(self.site)
        self.assertIs(lifecycle.State.DOWN, lifecycle.find(self.site))

    def test_killed_command_does_not_hold_the_lock(self) -> None:
        code = ('import pathlib, sys, time\n'
                'from blockpath.cloud import lifecycle\n'
                'from blockpath.machine import topology\n'
                'site = topology.Site(pathlib.Path(sys.argv[1]))\n'
                'with lifecycle.locked(site):\n'
                '    print("locked", flush=True)\n'
                '    time.sleep(60)\n')
        with subprocess.Popen(
                [sys.executable, '-c', code, str(self.site.state)],
                stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()
            self.assertRaises(errors.LabError,
                              lifecycle.locked(self.site).__enter__)
            child.kill()
        with lifecycle.locked(self.site):
            pass

    def test_what_is_found(self) -> None:
        self.assertIs(lifecycle.State.REMAINS, lifecycle.find(self.site))
        lifecycle.clear(self.site)
        self.assertIs(lifecycle.State.DOWN, lifecycle.find(self.site))
        self.site.run.mkdir()
        process = self.start()
        self.assertIs(lifecycle.State.REMAINS, lifecycle.find(self.site))
        lifecycle.mark_up(self.site)
        self.assertIs(lifecycle.State.UP, lifecycle.find(self.site))
        # As after the machine was restarted.
        processes.end(process, 0)
        self.assertIs(lifecycle.State.REMAINS, lifecycle.find(self.site))

    def test_clear_keeps_logs(self) -> None:
        process = self.start()
        (self.site.log / 'thing.log').write_text('said')
        with lifecycle.locked(self.site):
            lifecycle.clear(self.site)
        self.assertFalse(process.alive)
        self.assertEqual(['lock', 'log'],
                         sorted(os.listdir(self.site.state)))
        self.assertEqual('said',
                         (self.site.log / 'thing.log').read_text())

    def test_clear_removes_sockets(self) -> None:
        """Else ssh would use the connection to a host that has gone."""
        sockets = self.folder / 'sockets'
        (sockets / 'uml' / 'cmp1').mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as kept:
            kept.bind(str(sockets / 'cmp1'))
        with mock.patch.object(topology.Site, 'sockets', sockets):
            lifecycle.clear(self.site)
            self.assertFalse(sockets.exists())
            # There are none when a start has failed early.
            lifecycle.clear(self.site)

    def test_clear_keeps_consoles_of_guests(self) -> None:
        console = self.site.host('cmp2') / 'nova/instances/one/console.log'
        console.parent.mkdir(parents=True)
        console.write_text('last words')
        lifecycle.clear(self.site)
        self.assertEqual(
            'last words',
            (self.site.log / 'cmp2/console-one.log').read_text())

    def test_clear_spares_who_got_the_number(self) -> None:
        process = self.start()
        path = self.site.run / 'thing.json'
        path.write_text(path.read_text().replace(
            f'"start": {process.start}', f'"start": {process.start - 1}'))
        lifecycle.clear(self.site)
        self.assertTrue(process.alive)


class TestNamespaces(lab_base.LabTest):
    """With real namespaces, that no other lab has."""

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.addCleanup(lifecycle.clear, self.site)
        namespaces.create(self.site)

    def test_cleared_with_who_lives_there(self) -> None:
        """The kernels of hosts live in the switch."""
        children = []
        for host in (topology.CONTROL.name, topology.SWITCH):
            children.append(lab_base.start_in(self, self.site.netns(host)))
        lifecycle.clear(self.site)
        self.assertEqual([], namespaces.existing(self.site))
        for child in children:
            self.assertIsNone(processes.start_ticks(child.pid))

    def test_found_by_its_namespaces(self) -> None:
        for entry in (self.site.run, self.site.etc):
            entry.rmdir()
        self.assertIs(lifecycle.State.REMAINS, lifecycle.find(self.site))
