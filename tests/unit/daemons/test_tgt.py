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

from blockpath.daemons import tgt
from blockpath.machine import topology
from tests.unit import lab_base

_, CMP2 = topology.COMPUTES
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

    def test_refused(self) -> None:
        error = self.assertRaises(
            tgt.TgtError, self.exchange, struct.pack('<II', 20, 8),
            'resize_unit', 1, 5, '/x')
        self.assertEqual(20, error.number)
        self.assertEqual('tgtd: update unit: the logical unit is active',
                         str(error))


class TestDaemon(lab_base.LabTest):
    """With a real tgtd, in namespaces of its own."""

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        if not pathlib.Path('/usr/sbin/tgtd').exists():
            self.skipTest('needs tgtd')
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

    def is_own_run(self) -> bool:
        return os.stat('/run').st_dev != os.stat(
            f'/proc/{self.tgtd.pid}/root/run').st_dev

    def stop(self) -> None:
        self.tgtd.kill()
        self.tgtd.wait()

    def test_portals_come_and_go(self) -> None:
        self.client.add_portal('127.0.0.2:3260')
        self.assertEqual(['127.0.0.1:3260', '127.0.0.2:3260'],
                         sorted(self.client.portals()))
        self.client.remove_portal('127.0.0.1:3260')
        self.assertEqual(['127.0.0.2:3260'], self.client.portals())
        error = self.assertRaises(tgt.TgtError, self.client.allow, 9, 'x')
        self.assertEqual(tgt.NO_TARGET, error.number)
