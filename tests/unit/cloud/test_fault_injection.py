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
import types
from unittest import mock

from blockpath.cloud import fault_injection
from blockpath.machine import errors
from blockpath.machine import topology
from tests.unit import lab_base

IQN = 'iqn.2010-10.org.openstack:host'


class FakeLio:
    """The storage host: it shows its targets, and takes passwords."""

    def __init__(self) -> None:
        self.passwords = {f'{IQN}-cmp1': 'one', f'{IQN}-cmp2': 'two'}
        self.commands: list[str] = []

    def read(self, *argv: str) -> str:
        if argv[0] == 'ip':
            self.commands.append(' '.join(argv))
            return ''
        return json.dumps([
            {'iqn': iqn, 'acls': [{
                'initiator': topology.kernel(iqn[-4:]).initiator,
                'luns': {'2': f'/dev/lvm/{iqn[-4:]}'},
                'addresses': ['10.77.0.12', '10.78.0.12'],
                'user': f'chap-{iqn[-4:]}', 'password': password}]}
            for iqn, password in self.passwords.items()])

    def run(self, argv: list[str], input: str = '', check: bool = False
            ) -> None:
        if argv[0] == 'ip':
            self.commands.append(' '.join(argv))
            return
        [_tee, path] = argv
        _, iqn, group, _, initiator, *auth = path.removeprefix(
            '/sys/kernel/config/target').split('/')[1:]
        assert group == 'tpgt_1' and auth == ['auth', 'password'], path
        assert initiator == topology.kernel(iqn[-4:]).initiator, path
        if iqn not in self.passwords:
            raise FileNotFoundError(path)
        self.passwords[iqn] = input


class StorageTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.lio = FakeLio()
        self.storage = fault_injection.Storage(
            types.SimpleNamespace(  # type: ignore[arg-type]
                site=self.site, shell={'storage': self.lio}.__getitem__))
        # Loopback has the addresses of the switch. They are of this process
        # alone: others run this test at the same time.
        pid = os.getpid()
        here = f'127.{pid >> 16 & 63 | 64}.{pid >> 8 & 255}.{pid & 255}'
        self.here = [here, here.replace('127.', '127.1', 1)]
        #: The bridges of the switch's taps.
        self.bridges = {'f-storage': 'first', 's-storage': 'second'}
        run_in = mock.patch.object(fault_injection.namespaces, 'run_in',
                                   self.run_in)
        run_in.start()
        self.addCleanup(run_in.stop)

    def run_in(self, name: str, function: Callable[..., object],
               argument: str) -> object:
        self.assertEqual(self.site.netns('switch'), name)
        if function is fault_injection.namespaces.ip:
            tap, *state = argument.removeprefix('link set ').split()
            if state == ['nomaster']:
                del self.bridges[tap]
            else:
                [_master, self.bridges[tap]] = state
            return ''
        addresses = dict(zip(topology.SWITCHES, self.here))
        return function(addresses[argument])


class TestMappings(StorageTest):

    def test_mapped_to_a_host(self) -> None:
        self.assertEqual({'/dev/lvm/cmp2': (f'{IQN}-cmp2', 2)},
                         self.storage.luns('cmp2'))
        self.assertEqual(
            {f'{IQN}-cmp1': ('10.77.0.12', '10.78.0.12')},
            self.storage.sessions('cmp1'))
        self.assertEqual(['cmp1', 'cmp2'], [
            mapping.iqn[-4:] for mapping in self.storage.mappings()])

    def test_passwords(self) -> None:
        self.assertEqual({'one', 'two'}, self.storage.passwords())
        self.assertNotIn('one', repr(self.storage.mappings()))


class TestWrongChap(StorageTest):

    def test_restored(self) -> None:
        with self.storage.wrong_chap('cmp2'):
            self.assertNotEqual('two', self.lio.passwords[f'{IQN}-cmp2'])
            self.assertEqual('one', self.lio.passwords[f'{IQN}-cmp1'])
        self.assertEqual('two', self.lio.passwords[f'{IQN}-cmp2'])

    def test_restored_after_a_failure(self) -> None:
        def fail() -> None:
            with self.storage.wrong_chap('cmp2'):
                raise KeyError

        self.assertRaises(KeyError, fail)
        self.assertEqual('two', self.lio.passwords[f'{IQN}-cmp2'])

    def test_a_target_that_went_meanwhile(self) -> None:
        with self.storage.wrong_chap('cmp2'):
            del self.lio.passwords[f'{IQN}-cmp2']
        self.assertEqual({f'{IQN}-cmp1': 'one'}, self.lio.passwords)

    def test_nothing_mapped(self) -> None:
        self.lio.passwords.clear()
        error = self.assertRaises(
            errors.LabError, self.storage.wrong_chap('cmp1').__enter__)
        self.assertEqual('nothing is mapped to cmp1', str(error))


class TestPortals(StorageTest):

    def test_hung_portals(self) -> None:
        with self.storage.hung_portals() as portals:
            self.assertEqual(['10.77.0.1:3260', '10.78.0.1:3260'], portals)
            clients = []
            for address in self.here:
                client = socket.create_connection((address, 3260), timeout=10)
                self.addCleanup(client.close)
                # It takes a login, and never answers.
                client.sendall(bytes(48))
                client.settimeout(0.3)
                self.assertRaises(TimeoutError, client.recv, 1)
                clients.append(client)
        for client in clients:
            self.assertRaises(ConnectionResetError, client.recv, 1)

    def test_dead_portal(self) -> None:
        whole = dict(self.bridges)
        for number, other in enumerate(('s-storage', 'f-storage')):
            with self.storage.dead_portal(number):
                self.assertEqual({other}, set(self.bridges))
            self.assertEqual(whole, self.bridges)

    def test_added_dead_portal(self) -> None:
        with self.storage.added_dead_portal() as address:
            added = [line for line in self.lio.commands if ' add ' in line]
            self.assertEqual(
                [f'ip rule add from {address} blackhole',
                 f'ip address add {address}/32 dev vec0'], added)
            self.lio.commands.clear()
        # Of each there may be one only: deletion mirrors addition.
        self.assertEqual({line.replace(' add ', ' delete ')
                          for line in added}, set(self.lio.commands))

    def test_heal(self) -> None:
        whole = dict(self.bridges)
        self.bridges.clear()
        self.storage.heal()
        self.assertEqual(whole, self.bridges)
