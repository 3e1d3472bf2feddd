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
"""The hosts' networks, made of real namespaces that no other lab has."""

import json
import os
import pathlib
import socket
import subprocess
from typing import Any

from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import topology
from tests.unit import lab_base


class TestNetworks(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.addCleanup(
            lambda: namespaces.delete(namespaces.existing(self.site)))
        before = socket.if_nameindex()
        namespaces.create(self.site)
        # The machine sees nothing of it.
        self.assertEqual(before, socket.if_nameindex())
        self.switch = self.site.netns(topology.SWITCH)

    def links(self, host: str) -> dict[str, dict[str, Any]]:
        said = subprocess.run(
            ['ip', '-json', '-netns', self.site.netns(host), 'address'],
            check=True, capture_output=True, text=True).stdout
        return {link['ifname']: link for link in json.loads(said)}

    def test_namespaces(self) -> None:
        self.assertEqual(
            sorted(self.site.netns(name)
                   for name in ('ceph', 'control', 'switch')),
            namespaces.existing(self.site))

    def test_hosts_of_namespaces_reach_each_other(self) -> None:
        def listen() -> socket.socket:
            return socket.create_server((topology.CEPH.address, 3300))

        def connect() -> None:
            socket.create_connection((topology.CEPH.address, 3300),
                                     timeout=5).close()

        with namespaces.run_in(self.site.netns('ceph'), listen):
            namespaces.run_in(self.site.netns('control'), connect)

    def test_a_tap_for_each_interface(self) -> None:
        links = self.links(topology.SWITCH)
        on_bridge = {name: link.get('master')
                     for name, link in links.items() if name != 'lo'}
        wanted: dict[str, str | None] = dict.fromkeys(
            (*topology.NETWORKS, topology.GUESTS))
        wanted |= {namespaces.tap(host, network): network
                   for host in topology.KERNELS
                   for network in topology.NETWORKS}
        wanted |= {namespaces.tap(host, topology.GUESTS): topology.GUESTS
                   for host in topology.COMPUTES}
        wanted |= {'f-control': 'first', 'f-ceph': 'first',
                   'g-control': 'guests'}
        self.assertEqual(wanted, on_bridge)
        for name in wanted:
            self.assertIn('UP', links[name]['flags'], name)

    def test_addresses(self) -> None:
        def addresses(host: str) -> dict[str, list[str]]:
            return {name: [each['local'] for each in link['addr_info']
                           if each['family'] == 'inet']
                    for name, link in self.links(host).items()}

        self.assertEqual({'lo': ['127.0.0.1'], 'eth0': ['10.77.0.30']},
                         addresses('ceph'))
        self.assertEqual({'lo': ['127.0.0.1'], 'eth0': ['10.77.0.10'],
                          'guests': ['192.168.77.1', '169.254.169.254']},
                         addresses('control'))
        self.assertEqual(
            {'lo': ['127.0.0.1'], 'first': ['10.77.0.1'],
             'second': ['10.78.0.1']},
            {name: found for name, found in addresses(
                topology.SWITCH).items() if found})

    def test_members(self) -> None:
        name = self.site.netns('control')
        child = lab_base.start_in(self, name)
        self.assertEqual({child.pid: name}, namespaces.members(
            namespaces.existing(self.site)))
        self.assertEqual({}, namespaces.members([self.site.netns('ceph')]))

    def test_clients_give_up_a_host_that_has_gone(self) -> None:
        retries = pathlib.Path('/proc/sys/net/ipv4/tcp_retries2')
        before = retries.read_text()
        self.assertEqual('6\n', namespaces.run_in(
            self.site.netns('control'), retries.read_text))
        self.assertEqual(before, retries.read_text())

    def test_made_twice(self) -> None:
        error = self.assertRaises(errors.LabError, namespaces.create,
                                  self.site)
        self.assertIn('File exists', error.message)


class TestRunIn(lab_base.LabTest):

    def test_members_are_others(self) -> None:
        self.patch(namespaces, 'path',
                   lambda name: pathlib.Path('/proc/self/ns/net'))
        found = namespaces.members(['own'])
        self.assertNotIn(os.getpid(), found)
        self.assertIn(os.getppid(), found)

    def test_no_such_namespace(self) -> None:
        error = self.assertRaises(errors.LabError, namespaces.run_in,
                                  'bp-none', lambda: None)
        self.assertIn('blockpath lab up', str(error))
