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

from blockpath.lab import layout


class TestLayout(testtools.TestCase):

    def test_hosts_share_nothing(self) -> None:
        for attribute in ('address', 'portal', 'initiator'):
            values = {getattr(host, attribute) for host in layout.CLIENTS}
            self.assertEqual(len(layout.CLIENTS), len(values), attribute)
        self.assertEqual(len(layout.COMPUTES),
                         len({host.uuid for host in layout.COMPUTES}))

    def test_storage_has_every_portal(self) -> None:
        self.assertEqual([host.portal_address for host in layout.CLIENTS],
                         list(layout.STORAGE.extra_addresses))

    def test_checkouts_have_own_namespaces(self) -> None:
        one = layout.Site(pathlib.Path('/a/.lab'))
        other = layout.Site(pathlib.Path('/b/.lab'))
        self.assertNotEqual(one.netns('cmp1'), other.netns('cmp1'))
        self.assertEqual(one.netns('cmp1'),
                         layout.Site(pathlib.Path('/a/.lab')).netns('cmp1'))
