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
"""Neutron's ports, as the lab's DHCP server reads them."""

import os
import pathlib
import signal
import tempfile
from unittest import mock

import testtools

from blockpath.lab.plugins import agentless


class TestLeases(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = pathlib.Path(folder.name)
        with mock.patch.object(agentless.cfg, 'CONF') as conf:
            conf.state_path = folder.name
            self.driver = agentless.AgentlessDriver()
            self.driver.initialize()
        (self.state / agentless.DHCP_PID).write_text(f'{os.getpid()}\n')
        self.told = 0
        before = signal.signal(signal.SIGHUP, self._count)
        self.addCleanup(signal.signal, signal.SIGHUP, before)

    def _count(self, number: int, frame: object) -> None:
        self.told += 1

    def leases(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in
                (self.state / agentless.LEASES).iterdir()}

    def port(self, address: str) -> mock.Mock:
        return mock.Mock(current={
            'id': 'p', 'mac_address': 'fa:16:3e:00:00:01',
            'fixed_ips': [{'ip_address': address}]})

    def test_a_port_through_its_life(self) -> None:
        self.driver.create_port_postcommit(self.port('192.168.77.5'))
        wanted = {'p': 'fa:16:3e:00:00:01,192.168.77.5,2m\n'}
        self.assertEqual(wanted, self.leases())
        # Nothing of it has changed; the server would say that it is there.
        self.driver.update_port_postcommit(self.port('192.168.77.5'))
        self.assertEqual(0, self.told)
        self.driver.update_port_postcommit(self.port('192.168.77.6'))
        self.assertEqual({'p': wanted['p'].replace('.5', '.6')},
                         self.leases())
        self.assertEqual(1, self.told)
        self.driver.delete_port_postcommit(self.port('192.168.77.6'))
        self.assertEqual({}, self.leases())
        self.assertEqual(2, self.told)

    def test_without_the_server(self) -> None:
        (self.state / agentless.DHCP_PID).unlink()
        self.driver.create_port_postcommit(self.port('192.168.77.5'))
        self.driver.delete_port_postcommit(self.port('192.168.77.5'))
        self.assertEqual({}, self.leases())
