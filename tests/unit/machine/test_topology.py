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

import pathlib

import testtools

from blockpath.machine import topology


class TestLayout(testtools.TestCase):

    def test_hosts_share_nothing(self) -> None:
        for attribute in ('address', 'portal', 'initiator'):
            values = {getattr(host, attribute) for host in topology.CLIENTS}
            self.assertEqual(len(topology.CLIENTS), len(values), attribute)
        self.assertEqual(len(topology.COMPUTES),
                         len({host.uuid for host in topology.COMPUTES}))

    def test_storage_has_every_portal(self) -> None:
        self.assertEqual([host.portal_address for host in topology.CLIENTS],
                         list(topology.STORAGE.extra_addresses))

    def test_checkouts_have_own_namespaces(self) -> None:
        one = topology.Site(pathlib.Path('/a/.lab'))
        other = topology.Site(pathlib.Path('/b/.lab'))
        self.assertNotEqual(one.netns('cmp1'), other.netns('cmp1'))
        self.assertEqual(one.netns('cmp1'),
                         topology.Site(pathlib.Path('/a/.lab')).netns('cmp1'))
