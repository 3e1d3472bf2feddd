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
"""Hosts never share what must be theirs."""

import ipaddress
import pathlib

import testtools

from blockpath.machine import namespaces
from blockpath.machine import topology

#: Linux's IFNAMSIZ, less the byte that ends a name.
LONGEST = 15


class TestHosts(testtools.TestCase):

    def test_hosts_share_nothing(self) -> None:
        for attribute in ('name', 'address'):
            values = {getattr(host, attribute) for host in topology.HOSTS}
            self.assertEqual(len(topology.HOSTS), len(values), attribute)
        for attribute in ('second', 'initiator', 'uuid', 'portals'):
            values = {getattr(host, attribute) for host in topology.KERNELS}
            self.assertEqual(len(topology.KERNELS), len(values), attribute)

    def test_networks(self) -> None:
        """The storage host has a portal on each, in reach of all hosts."""
        bits = topology.NETWORK_BITS
        for number, address in enumerate(topology.STORAGE.addresses):
            network = ipaddress.ip_network(f'{address}/{bits}', strict=False)
            for host in topology.KERNELS:
                self.assertIn(ipaddress.ip_address(host.addresses[number]),
                              network)
        self.assertEqual(('10.77.0.20:3260', '10.78.0.20:3260'),
                         topology.STORAGE.portals)

    def test_libvirt_takes_the_uuids(self) -> None:
        for host in topology.KERNELS:
            self.assertRegex(host.uuid, '^[0-9a-f-]{36}$')
            self.assertGreater(len(set(host.uuid)), 2)

    def test_by_name(self) -> None:
        self.assertEqual('10.77.0.12', topology.compute('cmp2').address)
        self.assertIs(topology.STORAGE, topology.kernel('storage'))
        for function, name in ((topology.compute, 'storage'),
                               (topology.kernel, 'control')):
            self.assertRaises(KeyError, function, name)
        self.assertEqual(
            {'storage', 'cmp1', 'cmp2'},
            {host.name for host in topology.HOSTS
             if topology.is_kernel(host.name)})

    def test_releases(self) -> None:
        """A guest meets two of Debian's."""
        self.assertEqual(2, len({host.suite for host in topology.COMPUTES}))


class TestNames(testtools.TestCase):

    def taps(self) -> list[str]:
        return [namespaces.tap(host, network) for host in topology.KERNELS
                for network in (*topology.NETWORKS, topology.GUESTS)]

    def test_interfaces(self) -> None:
        """All are in one namespace, with the bridges."""
        ends = [f'{bridge[0]}-{host.name}' for host in topology.NAMESPACES
                for bridge in (topology.NETWORKS[0], topology.GUESTS)]
        names = [*self.taps(), *ends, *topology.NETWORKS, topology.GUESTS]
        self.assertEqual(len(names), len(set(names)))
        for name in names:
            self.assertLessEqual(len(name), LONGEST, name)

    def test_checkouts_have_own_namespaces(self) -> None:
        one = topology.Site(pathlib.Path('/a/.lab'))
        other = topology.Site(pathlib.Path('/b/.lab'))
        self.assertNotEqual(one.netns('control'), other.netns('control'))
        self.assertNotEqual(one.sockets, other.sockets)
        self.assertEqual(
            one.netns('control'),
            topology.Site(pathlib.Path('/a/.lab')).netns('control'))

    def test_sockets(self) -> None:
        """The path of a socket has 107 bytes at most."""
        site = topology.Site(pathlib.Path('/' + 'a' * 200))
        for host in topology.KERNELS:
            # ssh adds 17 bytes while it makes the socket.
            path = f'{site.sockets}/{host.name}' + '.' * 17
            self.assertLess(len(path), 107)
            self.assertLess(len(f'{site.sockets}/uml/{host.name}/mconsole'),
                            107)
