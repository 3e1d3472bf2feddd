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
"""The management socket, with a tgtd of the test's own where there is one."""

import os
import pathlib
import socket
import struct
import subprocess
import threading
import time

from blockpath.lab import layout
from blockpath.lab import targets
from blockpath.lab import tgt
from tests.unit.lab import lab_base

CMP1, CMP2 = layout.COMPUTES
SHOWN = '''\
Target 2: iqn.2026-01.lab.blockpath:storage.cmp2
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 7
            Initiator: iqn.2026-01.lab.blockpath:cmp2 alias: none
            Connection: 0
                IP Address: 10.77.0.12
        I_T nexus: 8
            Initiator: iqn.2026-01.lab.blockpath:cmp2 alias: none
            Connection: 0
                IP Address: 10.77.0.12
    LUN information:
        LUN: 0
            Type: controller
            Backing store path: None
        LUN: 101
            Type: disk
            Backing store path: /a folder/volume-1
            Backing store flags: 
    Account information:
        chap-cmp2
    ACL information:
        iqn.2026-01.lab.blockpath:cmp2
'''  # noqa: W291


class TestParse(lab_base.LabTest):

    def test_targets(self) -> None:
        [target] = tgt.parse_targets(SHOWN)
        self.assertEqual((2, 'iqn.2026-01.lab.blockpath:storage.cmp2'),
                         (target.tid, target.iqn))
        self.assertEqual({101: '/a folder/volume-1'}, target.units)
        self.assertEqual([7, 8], [each.sid for each in target.sessions])
        self.assertEqual(['10.77.0.12'], target.sessions[1].addresses)
        self.assertEqual([CMP2.initiator], target.acl)
        self.assertEqual(['chap-cmp2'], target.accounts)

    def test_nothing(self) -> None:
        self.assertEqual([], tgt.parse_targets(''))


class TestRequests(lab_base.LabTest):
    """What is sent is, byte for byte, what tgtadm 1.0.85 sends."""

    def exchange(self, answer: bytes, method: str, *args: object) -> bytes:
        path = self.folder / 'socket'
        sent: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                sent.append(connection.recv(65536))
                connection.sendall(answer)

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            thread = threading.Thread(target=serve)
            thread.start()
            try:
                getattr(tgt.Client(path), method)(*args)
            finally:
                thread.join()
        return sent[0]

    def test_account(self) -> None:
        sent = self.exchange(struct.pack('<II', 0, 8), 'add_account', 'u',
                             'p')
        self.assertEqual(
            struct.pack('<II', 7, 0) + b'iscsi'.ljust(64, b'\0') +
            bytes.fromhex('8a000000 ffffffff 00000000 00000000'
                          'ffffffff ffffffff') + bytes(24) +
            b'user=u,password=p\0', sent)

    def test_forced_removal(self) -> None:
        sent = self.exchange(struct.pack('<II', 0, 8), 'remove_target', 1,
                             True)
        self.assertEqual(120, len(sent))
        self.assertEqual(struct.pack('<II', 1, 1), sent[:8])
        self.assertEqual(1, sent[-4])

    def test_refused(self) -> None:
        error = self.assertRaises(
            tgt.TgtError, self.exchange, struct.pack('<II', 20, 8),
            'remove_unit', 1, 5)
        self.assertEqual(tgt.UNIT_ACTIVE, error.number)
        self.assertEqual('tgtd: delete unit: the logical unit is active',
                         str(error))


class TestTargets(lab_base.LabTest):
    """With a real tgtd, in namespaces of its own."""

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        if not pathlib.Path('/usr/sbin/tgtd').exists():
            self.skipTest('needs tgtd')
        self.site.volumes.mkdir()
        self.volumes = []
        for number in (1, 2):
            volume = f'00000000-0000-4000-8000-00000000000{number}'
            with open(self.site.volumes / f'volume-{volume}', 'wb') as file:
                file.truncate(1 << 20)
            self.volumes.append(volume)
        self.start()

    def start(self) -> None:
        self.tgtd = subprocess.Popen(
            ['unshare', '--net', '--mount', '--propagation', 'private', 'sh',
             '-c', 'mount -t tmpfs none /run && ip link set lo up && '
             'exec /usr/sbin/tgtd --foreground --iscsi '
             'portal=127.0.0.1:3260'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.stop)
        path = f'/proc/{self.tgtd.pid}/root/run/tgtd/socket.0'
        for _ in range(500):
            # Before it has its own /run, that would be the machine's.
            if os.path.exists(path) and self.is_own_run():
                break
            time.sleep(0.02)
        self.client = tgt.Client(path)
        self.targets = targets.Targets(self.site.volumes, self.client)
        self.targets.restore()

    def is_own_run(self) -> bool:
        return os.stat('/run').st_dev != os.stat(
            f'/proc/{self.tgtd.pid}/root/run').st_dev

    def stop(self) -> None:
        self.tgtd.kill()
        self.tgtd.wait()

    def shown(self) -> dict[str, list[int]]:
        return {target.iqn.rpartition('.')[2]: sorted(target.units)
                for target in self.client.show()}

    def test_each_host_its_own(self) -> None:
        one, other = (self.targets.map(self.volumes[0], host)
                      for host in layout.COMPUTES)
        for field in ('portal', 'iqn', 'lun', 'user', 'password'):
            self.assertNotEqual(getattr(one, field), getattr(other, field))
        self.assertLessEqual(len(one.password), 16)
        for target, host in zip(self.client.show(), layout.COMPUTES):
            self.assertEqual([host.initiator], target.acl)
            self.assertEqual([f'chap-{host.name}'], target.accounts)
            self.assertEqual(
                [str(self.targets.path(self.volumes[0]))],
                list(target.units.values()))

    def test_mapped_twice_is_mapped_once(self) -> None:
        self.assertEqual(self.targets.map(self.volumes[0], CMP1),
                         self.targets.map(self.volumes[0], CMP1))
        self.assertEqual({'cmp1': [1]}, self.shown())

    def test_lowest_free_lun(self) -> None:
        self.targets.map(self.volumes[0], CMP2)
        self.targets.map(self.volumes[1], CMP2)
        self.targets.unmap(self.volumes[0], CMP2)
        self.assertEqual({'cmp2': [102]}, self.shown())
        self.assertEqual(101, self.targets.map(self.volumes[0], CMP2).lun)

    def test_last_unmap_removes_the_target(self) -> None:
        for host in layout.COMPUTES:
            self.targets.map(self.volumes[0], host)
        self.targets.unmap(self.volumes[0], CMP1)
        self.assertEqual({'cmp2': [101]}, self.shown())
        self.assertTrue(self.targets.mapped(self.volumes[0]))
        self.targets.unmap(self.volumes[0], CMP2)
        self.targets.unmap(self.volumes[0], CMP2)
        self.assertEqual({}, self.shown())
        self.assertFalse(self.targets.mapped(self.volumes[0]))
        # The accounts stay, for faults to be put on them.
        self.assertEqual(['chap-cmp1', 'chap-cmp2', 'chap-storage'],
                         sorted(self.client.accounts()))

    def test_another_tgtd_is_filled(self) -> None:
        before = self.targets.map(self.volumes[0], CMP1)
        self.targets.map(self.volumes[1], CMP2)
        self.stop()
        self.start()
        self.assertEqual({'cmp1': [1], 'cmp2': [101]}, self.shown())
        self.assertEqual(before, self.targets.map(self.volumes[0], CMP1))

    def test_state_is_private(self) -> None:
        path = self.site.volumes / 'targets.json'
        self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_resized(self) -> None:
        self.targets.map(self.volumes[0], CMP1)
        os.truncate(self.targets.path(self.volumes[0]), 3 << 20)
        self.targets.resize(self.volumes[0])
        shown = self.client._request('show', 'target')
        self.assertIn('Size: 3 MB', shown)

    def test_same_serial_on_every_path(self) -> None:
        for host in layout.COMPUTES:
            self.targets.map(self.volumes[0], host)
        serial = targets.serial(self.volumes[0])
        shown = self.client._request('show', 'target')
        self.assertEqual(2, shown.count(f'SCSI ID: {serial}'))
        self.assertEqual(2, shown.count(f'SCSI SN: {serial}'))

    def test_portals_come_and_go(self) -> None:
        self.client.add_portal('127.0.0.2:3260')
        self.assertEqual(['127.0.0.1:3260', '127.0.0.2:3260'],
                         sorted(self.client.portals()))
        self.client.remove_portal('127.0.0.1:3260')
        self.assertEqual(['127.0.0.2:3260'], self.client.portals())
        error = self.assertRaises(tgt.TgtError, self.client.remove_target, 9)
        self.assertEqual(tgt.NO_TARGET, error.number)
