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

"""Cinder's volumes by QEMU's initiator, against a tgtd of the test's own."""

import multiprocessing
from multiprocessing import connection
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import typing as ty
import unittest

from cinder.volume.copier import engine
from cinder.volume.copier import local_file
from cinder.volume.copier import nbd_file
from cinder.volume.copier import qemu_copy
from cinder.volume.copier import qemu_export
from cinder.volume.copier import volume_file
import fixtures
import testtools

from blockpath.daemons.standalone_cinder import daemon

MIB = 1 << 20
SIZE = 32 * MIB
IQN = 'iqn.2026-01.org.example:copier'
INITIATOR = 'iqn.1994-05.org.example:cinder'
USER, PASSWORD = 'copier', 'not-to-be-seen'
#: Anything but the host's own tgtd, which is 0.
CONTROL = 7
#: Opcodes of iSCSI.
COMMAND, LOGOUT = 1, 6
#: SCSI's SYNCHRONIZE CACHE (10).
SYNCHRONIZE_CACHE = 0x35


def format_luks(path: pathlib.Path, passphrase: str) -> None:
    """Make a LUKS volume of 8 MiB."""
    for _again in range(10):
        made = subprocess.run(
            ['qemu-img', 'create', '-q', '--object',
             'secret,id=s,file=/dev/stdin', '-f', 'luks', '-o',
             'key-secret=s,iter-time=100', str(path), '8M'],
            input=passphrase.encode(), stderr=subprocess.PIPE)
        # QEMU measures how fast it is, and gives up if the clock is coarse.
        if b'accurate CPU usage' not in made.stderr:
            break
    made.check_returncode()


class Tgtd(daemon.Tgtd):
    """With one target, whose LUN 1 is a file."""

    def __init__(self, portals: int = 1, ipv6: bool = False) -> None:
        super().__init__(portals, ipv6, CONTROL)

    def start(self) -> None:
        super().start()
        self.disk = self.folder / 'disk'
        with self.disk.open('wb') as disk:
            disk.truncate(SIZE)
        self.client.add_target(1, IQN)
        self.client.add_account(USER, PASSWORD)
        self.client.bind_account(1, USER)
        self.client.allow(1, INITIATOR)
        self.client.add_unit(1, 1, str(self.disk), 'copier')


class Tap(fixtures.Fixture):
    """A portal that passes everything on, and sees what is asked.

    A process of its own: libnbd blocks this one's threads where eventlet has
    replaced them.
    """

    def __init__(self, portal: str) -> None:
        self._to = portal

    def _setUp(self) -> None:
        listener = socket.create_server(('127.0.0.1', 0))
        self.portal = '127.0.0.1:%d' % listener.getsockname()[1]
        context = multiprocessing.get_context('fork')
        self._seen, seen = context.Pipe(duplex=False)
        self.addCleanup(self._seen.close)
        process = context.Process(target=self._serve, args=(listener, seen))
        process.start()
        self.addCleanup(process.join)
        self.addCleanup(process.kill)
        listener.close()
        seen.close()

    def asked(self) -> list[tuple[int, int]]:
        """What came since the last time: opcodes, and a command's first byte.
        """
        found = []
        while self._seen.poll(0.2):
            try:
                found.append(self._seen.recv())
            except EOFError:
                break
        return found

    def _serve(self, listener: socket.socket,
               seen: connection.Connection) -> None:
        host, _colon, port = self._to.rpartition(':')
        lock = threading.Lock()
        while True:
            initiator, _address = listener.accept()
            target = socket.create_connection((host, int(port)))
            for pass_on, *ends in (
                    (self._pass_on, target, initiator),
                    (self._look, initiator, target, seen, lock)):
                threading.Thread(target=pass_on, args=ends,
                                 daemon=True).start()

    @staticmethod
    def _look(initiator: socket.socket, target: socket.socket,
              seen: connection.Connection, lock: threading.Lock) -> None:
        with initiator.makefile('rb') as sent:
            while header := sent.read(48):
                # RFC 7143: words of other headers, and bytes of data.
                length = (header[4] * 4 +
                          (int.from_bytes(header[5:8], 'big') + 3) // 4 * 4)
                opcode = header[0] & 0x3f
                if opcode in (COMMAND, LOGOUT):
                    # Of data there is more than the pipe would hold.
                    with lock:
                        seen.send((opcode, header[32]
                                   if opcode == COMMAND else 0))
                target.sendall(header + sent.read(length))

    @staticmethod
    def _pass_on(source: socket.socket, destination: socket.socket) -> None:
        while data := source.recv(MIB):
            destination.sendall(data)


@unittest.skipUnless(shutil.which('tgtd'), 'needs tgtd (package tgt)')
class ISCSITest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.tgtd = self.enterContext(Tgtd(portals=2))

    def _open(self, writable: bool = True, timeout: float = 20,
              **data: ty.Any) -> nbd_file.NBDFile:
        volume = qemu_export.open_iscsi({
            'target_portal': self.tgtd.portals[0], 'target_iqn': IQN,
            'target_lun': 1, 'auth_method': 'CHAP', 'auth_username': USER,
            'auth_password': PASSWORD} | data, INITIATOR, writable, timeout)
        self.addCleanup(volume.close)
        return volume

    def _refused(self, timeout: float = 20, **data: ty.Any) -> str:
        error = self.assertRaises(qemu_export.ExportFailed, self._open,
                                  timeout=timeout, **data)
        self.assertNotIn(PASSWORD, str(error))
        return str(error)

    def test_written_is_on_the_target(self) -> None:
        volume = self._open()
        self.assertEqual(SIZE, volume.size)
        data = os.urandom(3 * MIB)
        volume.write_at(MIB + 100, data)
        volume.write_zeroes(2 * MIB, MIB)
        volume.flush()
        expected = bytearray(SIZE)
        expected[MIB + 100:4 * MIB + 100] = data
        expected[2 * MIB:3 * MIB] = bytes(MIB)
        self.assertEqual(expected, self.tgtd.disk.read_bytes())
        self.assertEqual(expected, volume.read_at(0, SIZE))

    def test_flush_and_logout_reach_the_target(self) -> None:
        tap = self.useFixture(Tap(self.tgtd.portals[0]))
        volume = self._open(target_portal=tap.portal)
        volume.write_at(0, b'x' * 4096)
        self.assertNotIn((COMMAND, SYNCHRONIZE_CACHE), tap.asked())
        volume.flush()
        self.assertEqual([(COMMAND, SYNCHRONIZE_CACHE)], tap.asked())
        volume.close()
        self.assertIn((LOGOUT, 0), tap.asked())

    def test_flushes_what_others_have_written(self) -> None:
        tap = self.useFixture(Tap(self.tgtd.portals[0]))
        volume = self._open(target_portal=tap.portal)
        content = os.urandom(SIZE)
        self.tgtd.disk.write_bytes(content)
        tap.asked()
        volume.flush()
        self.assertEqual([], tap.asked())
        volume.written_past()
        volume.flush()
        self.assertIn((COMMAND, SYNCHRONIZE_CACHE), tap.asked())
        self.assertEqual(content, self.tgtd.disk.read_bytes())

    def test_the_only_flush_is_ours(self) -> None:
        """A target may tell of an error once, and qemu-img hears it not."""
        tap = self.useFixture(Tap(self.tgtd.portals[0]))
        lun = self._open(target_portal=tap.portal)
        content = os.urandom(SIZE)
        path = self.useFixture(fixtures.TempDir()).join('source')
        with open(path, 'wb') as file:
            file.write(content)
        source = local_file.LocalFile.open(path)
        self.addCleanup(source.close)
        source.qemu = {'driver': 'file', 'filename': path}, {}
        qemu_copy.copy(source, lun, SIZE, engine.Options(
            destination_is_zero=True, stall=20))
        asked = tap.asked()
        self.assertEqual(1, asked.count((COMMAND, SYNCHRONIZE_CACHE)))
        self.assertEqual((COMMAND, SYNCHRONIZE_CACHE), asked[-1])
        self.assertEqual(content, self.tgtd.disk.read_bytes())

    def test_logs_in_by_the_name(self) -> None:
        self._open()
        self.assertEqual([INITIATOR], self.tgtd.sessions())

    def test_wrong_password(self) -> None:
        began = time.monotonic()
        message = self._refused(auth_password='wrong-' + 'x' * 8)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn('Failed to log in to target', message)
        self.assertNotIn('wrong-', message)

    def test_no_password(self) -> None:
        self.assertIn('Failed to', self._refused(
            auth_method=None, auth_password=None))

    def test_absent_target(self) -> None:
        self.assertIn('Target not found', self._refused(target_iqn=IQN + 'x'))

    def test_absent_lun(self) -> None:
        began = time.monotonic()
        message = self._refused(target_lun=9)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn('LUN 9', message)

    def test_what_is_no_disk(self) -> None:
        # tgtd's own LUN 0, a controller.
        self.assertIn('LUN 0', self._refused(target_lun=0))

    def test_first_portal_that_works(self) -> None:
        hung = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(hung.close)
        self._open(target_portals=[
            '127.0.0.1:%d' % hung.getsockname()[1],
            '127.0.0.1:%d' % daemon.free_port(socket.AF_INET, '127.0.0.1'),
            *self.tgtd.portals], timeout=4).read_at(0, 512)

    def test_target_that_stops_in_the_midst(self) -> None:
        volume = self._open()
        self.tgtd.process.kill()
        ends: list[BaseException | None] = []
        for number in range(16):
            volume.start_write(number * MIB, bytes(MIB),
                               lambda error, data: ends.append(error))
        volume.drive(0.5)
        # QEMU would try to log in again for ever.
        began = time.monotonic()
        volume.close()
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(16, len(ends))
        for error in ends:
            self.assertIsInstance(error, volume_file.VolumeIOError)

    def test_ipv6(self) -> None:
        try:
            tgtd = self.enterContext(Tgtd(ipv6=True))
        except OSError as error:
            self.skipTest(f'no IPv6: {error}')
        volume = self._open(target_portal=tgtd.portals[0])
        volume.write_at(0, b'six')
        volume.flush()
        self.assertEqual(b'six', tgtd.disk.read_bytes()[:3])

    def test_luks(self) -> None:
        format_luks(self.tgtd.disk, 'feedbeef')
        properties = {'target_portal': self.tgtd.portals[0],
                      'target_iqn': IQN, 'target_lun': 1,
                      'auth_method': 'CHAP', 'auth_username': USER,
                      'auth_password': PASSWORD}
        # Its size is read when the unit is made.
        self.tgtd.client.resize_unit(1, 1, str(self.tgtd.disk))
        with qemu_export.open_iscsi(properties, INITIATOR, True, 20,
                                    passphrase='feedbeef') as volume:
            self.assertEqual(8 * MIB, volume.size)
            volume.write_at(MIB, b'plain text')
            self.assertEqual(b'plain text', volume.read_at(MIB, 10))
        self.assertNotIn(b'plain text', self.tgtd.disk.read_bytes())
