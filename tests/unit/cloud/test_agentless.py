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
import subprocess
import tempfile
from unittest import mock

import fixtures
import testtools

from blockpath.cloud.plugins import agentless
from blockpath.cloud import services
from blockpath.machine import namespaces
from blockpath.machine import topology
from blockpath.machine import wait
from tests.unit import lab_base


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
        self.useFixture(fixtures.MockPatchObject(agentless, 'subprocess'))
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


class TestServer(lab_base.LabTest):
    """With the lab's own DHCP server, and a client beside it."""

    NAME = f'bp-leases-{os.getpid()}'
    MACS = ('fa:16:3e:00:00:01', 'fa:16:3e:00:00:02')
    ADDRESS = '192.168.77.5'

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.run_ip('netns', 'add', self.NAME)
        self.addCleanup(self.run_ip, 'netns', 'delete', self.NAME)
        for arguments in (
                f'link add {topology.GUESTS} type veth peer name client',
                f'addr add {topology.GATEWAY}/24 dev {topology.GUESTS}',
                f'link set {topology.GUESTS} up', 'link set lo up'):
            self.run_ip('-n', self.NAME, *arguments.split())
        self.site.leases.mkdir(parents=True)
        with mock.patch.object(agentless.cfg, 'CONF') as conf:
            conf.state_path = str(self.site.leases.parent)
            self.driver = agentless.AgentlessDriver()
            self.driver.initialize()
        server = services.table(self.site)[services.DHCP]
        process = subprocess.Popen(
            ['ip', 'netns', 'exec', self.NAME, *server.argv],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait.until((self.site.leases.parent / agentless.DHCP_PID).exists,
                   'the DHCP server', 10)

    def run_ip(self, *arguments: str) -> None:
        subprocess.run(['ip', *arguments], check=True)

    def port(self, number: int) -> mock.Mock:
        return mock.Mock(current={
            'id': f'p{number}', 'mac_address': self.MACS[number],
            'fixed_ips': [{'ip_address': self.ADDRESS}]})

    def ask(self, number: int) -> bool:
        """Whether a guest with this MAC is given its address."""
        for arguments in ('link set client down',
                          f'link set client address {self.MACS[number]}',
                          'link set client up'):
            self.run_ip('-n', self.NAME, *arguments.split())
        done = subprocess.run(
            ['ip', 'netns', 'exec', self.NAME, 'busybox', 'udhcpc', '-i',
             'client', '-n', '-q', '-t', '3', '-T', '1', '-s', '/bin/true'],
            capture_output=True, text=True)
        return f'lease of {self.ADDRESS} obtained' in done.stderr

    def test_an_address_that_another_had(self) -> None:
        """Neutron gives it away as soon as it is free."""
        self.driver.create_port_postcommit(self.port(0))
        wait.until(lambda: self.ask(0), 'an address', 10)
        namespaces.run_in(self.NAME, self.driver.delete_port_postcommit,
                          self.port(0))
        self.driver.create_port_postcommit(self.port(1))
        wait.until(lambda: self.ask(1), 'the same address', 10)
