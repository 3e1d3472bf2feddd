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
"""Faults are undone, also when what happens under them fails."""

from collections.abc import Callable
import json
import os
import socket
from unittest import mock

from blockpath.cloud import fault_injection
from blockpath.cloud import services
from blockpath.daemons import tgt
from blockpath.machine import errors
from blockpath.machine import topology
from tests.unit import lab_base


class FakeTgtd:
    """Remembers accounts as tgtd does: a removed one is bound nowhere."""

    def __init__(self) -> None:
        self.passwords = {'chap-cmp1': 'one', 'chap-cmp2': 'two'}
        self.bound = {'chap-cmp2'}
        self.portal_list = ['10.77.0.21:3260', '10.77.0.22:3260']

    def show(self) -> list[tgt.Target]:
        return [tgt.Target(2, 'iqn.2010-10.org.openstack:host-1', {2: '/x'},
                           acl=['iqn.2026-01.lab.blockpath:cmp2']),
                tgt.Target(3, 'iqn.2010-10.org.openstack:volume-1',
                           {1: '/y'}, acl=['ALL'])]

    def accounts(self) -> list[str]:
        return list(self.passwords)

    def remove_account(self, user: str) -> None:
        del self.passwords[user]
        self.bound.discard(user)

    def add_account(self, user: str, password: str) -> None:
        self.passwords[user] = password

    def bind_account(self, tid: int, user: str) -> None:
        self.bound.add(user)

    def portals(self) -> list[str]:
        return self.portal_list

    def remove_portal(self, portal: str) -> None:
        self.portal_list.remove(portal)

    def add_portal(self, portal: str) -> None:
        self.portal_list.append(portal)


class TestFaults(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.tgtd = FakeTgtd()
        daemons = services.Daemons(self.site)
        daemons.tgtd = lambda: self.tgtd  # type: ignore
        self.storage = fault_injection.Storage(daemons)
        folder = self.site.targets / 'hosts'
        folder.mkdir(parents=True)
        (folder / 'storage@files.json').write_text(json.dumps({
            f'iqn.2026-01.lab.blockpath:{host}': {
                'user': f'chap-{host}', 'password': password}
            for host, password in (('cmp1', 'one'), ('cmp2', 'two'))}))

    def test_wrong_chap(self) -> None:
        with self.storage.wrong_chap('cmp2'):
            self.assertNotEqual('two', self.tgtd.passwords['chap-cmp2'])
            self.assertEqual('one', self.tgtd.passwords['chap-cmp1'])
            self.assertEqual({'chap-cmp2'}, self.tgtd.bound)
        self.assertEqual('two', self.tgtd.passwords['chap-cmp2'])
        self.assertEqual({'chap-cmp2'}, self.tgtd.bound)

    def test_nothing_mapped(self) -> None:
        error = self.assertRaises(
            errors.LabError, self.storage.wrong_chap('storage').__enter__)
        self.assertEqual('nothing is mapped to storage', str(error))

    def test_repaired_after_a_failure(self) -> None:
        def fail() -> None:
            with self.storage.wrong_chap('cmp2'):
                raise KeyError

        self.assertRaises(KeyError, fail)
        self.assertEqual('two', self.tgtd.passwords['chap-cmp2'])

    def test_hung_portal(self) -> None:
        # Loopback has the address of the storage host's namespace. It is of
        # this process alone: others run this test at the same time.
        pid = os.getpid()
        here = f'127.{pid >> 16 & 63 | 64}.{pid >> 8 & 255}.{pid & 255}'

        def run_in(name: str, function: Callable[[str], object],
                   address: str) -> object:
            self.assertEqual(self.site.netns('storage'), name)
            return function({'10.77.0.22': here}[address])

        with mock.patch.object(fault_injection.namespaces, 'run_in', run_in):
            with self.storage.hung_portal('cmp2'):
                self.assertEqual(['10.77.0.21:3260'], self.tgtd.portal_list)
                client = socket.create_connection((here, 3260), timeout=10)
                self.addCleanup(client.close)
                # It takes a login, and never answers.
                client.sendall(bytes(48))
                client.settimeout(0.3)
                self.assertRaises(TimeoutError, client.recv, 1)
        self.assertRaises(ConnectionResetError, client.recv, 1)
        self.assertRaises(ConnectionRefusedError, socket.create_connection,
                          (here, 3260))
        self.assertEqual(['10.77.0.21:3260', '10.77.0.22:3260'],
                         self.tgtd.portal_list)

    def test_heal(self) -> None:
        self.tgtd.portal_list.clear()
        self.tgtd.passwords = {'chap-cmp2': 'wrong'}
        self.storage.heal()
        self.assertEqual([host.portal for host in topology.CLIENTS],
                         self.tgtd.portal_list)
        self.assertEqual({'chap-cmp1': 'one', 'chap-cmp2': 'two'},
                         self.tgtd.passwords)

    def test_units_and_passwords(self) -> None:
        self.assertEqual({2: '/x'}, self.storage.luns('cmp2'))
        self.assertEqual({}, self.storage.luns('cmp1'))
        self.assertEqual({'one', 'two'}, self.storage.passwords())
