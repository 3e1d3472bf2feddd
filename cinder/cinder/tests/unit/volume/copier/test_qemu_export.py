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


import collections.abc
import glob
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import typing as ty
import unittest
from unittest import mock

import ddt
from eventlet import tpool
import fixtures

from cinder.tests.unit import test
from cinder.volume.copier import nbd_file
from cinder.volume.copier import qemu_export
from cinder.volume.copier import volume_file

KIB = 1 << 10
MIB = 1 << 20
IQN = 'iqn.2010-10.org.openstack:volume-1'
INITIATOR = 'iqn.1994-05.com.example:host'
PASSWORD = 'correct horse battery staple'
DATA = {'target_portal': '127.0.0.1:3260', 'target_iqn': IQN, 'target_lun': 1,
        'auth_method': 'CHAP', 'auth_username': 'user',
        'auth_password': PASSWORD}

missing = [program for program in ('qemu-storage-daemon', 'qemu-img')
           if not shutil.which(program)]
if not importlib.util.find_spec('nbd'):
    missing.append('the Python module nbd')
needs_qemu = unittest.skipIf(missing, 'needs ' + ', '.join(missing))


def daemons(parent: int | None = None) -> list[int]:
    """The processes that this one, or `parent`, has started and that run."""
    found: list[int] = []
    for path in glob.glob(f'/proc/{parent or os.getpid()}/task/*/children'):
        for child in map(int, pathlib.Path(path).read_text().split()):
            if pathlib.Path(f'/proc/{child}/comm').read_text().startswith(
                    'qemu-storage-d'):
                found.append(child)
    return found


def wait_until(condition: collections.abc.Callable[[], ty.Any],
               seconds: float = 10) -> ty.Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError('waited in vain')
        time.sleep(0.02)
    return result


def running(pid: int) -> bool:
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(')')[2].split()[0] != 'Z'


class QEMUTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = self.useFixture(fixtures.TempDir()).path
        # Where sockets would be left behind.
        self.temporary = self.useFixture(fixtures.TempDir()).path
        self.useFixture(fixtures.MonkeyPatch('tempfile.tempdir',
                                             self.temporary))
        self.addCleanup(self._nothing_left)

    def _nothing_left(self) -> None:
        self.assertEqual([], daemons())
        self.assertEqual([], os.listdir(self.temporary))

    def _file(self, name: str = 'volume', size: int = 4 * MIB) -> str:
        path = os.path.join(self.folder, name)
        with open(path, 'wb') as image:
            image.truncate(size)
        return path

    def _image(self, name: str, *options: str) -> str:
        path = os.path.join(self.folder, name)
        subprocess.run(['qemu-img', 'create', '-q', *options, path, '4M'],
                       check=True, stdin=subprocess.DEVNULL)
        return path

    def _open(self, *args: ty.Any, **more: ty.Any) -> nbd_file.NBDFile:
        volume = qemu_export.open_image(*args, timeout=20, **more)
        self.addCleanup(volume.close)
        return volume


@needs_qemu
class OpenImageTestCase(QEMUTestCase):

    def test_raw(self):
        path = self._file()
        volume = self._open(path, 'raw', True)
        self.assertEqual(4 * MIB, volume.size)
        data = os.urandom(100000)
        volume.write_at(12345, data)
        volume.write_zeroes(12345 + 50000, 1000)
        expected = data[:50000] + bytes(1000) + data[51000:]
        self.assertEqual(expected, volume.read_at(12345, 100000))
        volume.close()
        with open(path, 'rb') as image:
            image.seek(12345)
            self.assertEqual(expected, image.read(100000))

    def test_many_in_flight(self):
        path = self._file()
        pattern = os.urandom(4 * MIB)
        pathlib.Path(path).write_bytes(pattern)
        volume = self._open(path, 'raw', False)
        ends: dict[int, list[ty.Any]] = {}
        for offset in range(0, 4 * MIB, 64 * KIB):
            ends[offset] = []
            volume.start_read(
                offset, 64 * KIB, lambda error, data, ends=ends[offset]:
                    ends.append(error or data))
        while not all(ends.values()):
            volume.drive(1)
        for offset, end in ends.items():
            self.assertEqual([pattern[offset:offset + 64 * KIB]], end)

    def test_larger_than_a_request(self):
        path = self._file(size=80 * MIB)
        volume = self._open(path, 'raw', True)
        data = os.urandom(MIB) * 70
        volume.write_at(MIB, data)
        self.assertEqual(data, volume.read_at(MIB, len(data)))
        volume.close()
        with open(path, 'rb') as image:
            image.seek(MIB)
            self.assertEqual(data, image.read(len(data)))

    def test_qcow2_is_what_the_guest_sees(self):
        path = self._image('volume', '-f', 'qcow2')
        volume = self._open(path, 'qcow2', True)
        self.assertEqual(4 * MIB, volume.size)
        self.assertEqual(bytes(512), volume.read_at(0, 512))
        volume.write_at(MIB, b'guest' * 1000)
        volume.close()
        self.assertEqual(b'QFI\xfb', pathlib.Path(path).read_bytes()[:4])
        subprocess.run(['qemu-img', 'check', '-q', path], check=True)
        raw = os.path.join(self.folder, 'raw')
        subprocess.run(['qemu-img', 'convert', '-O', 'raw', path, raw],
                       check=True)
        self.assertEqual(
            bytes(MIB) + b'guest' * 1000 + bytes(3 * MIB - 5000),
            pathlib.Path(raw).read_bytes())
        # As raw it is the file itself, whatever that holds.
        volume = self._open(path, 'raw', False)
        self.assertEqual(b'QFI\xfb', volume.read_at(0, 4))

    def test_extents(self):
        path = self._image('volume', '-f', 'qcow2')
        volume = self._open(path, 'qcow2', True)
        volume.write_at(MIB, b'x' * 64 * KIB)
        volume.write_at(MIB + 128 * KIB, b'x' * 128 * KIB)
        volume.write_zeroes(MIB + 128 * KIB, 64 * KIB)
        volume.flush()
        data, hole = volume_file.Kind.DATA, volume_file.Kind.HOLE
        Extent = volume_file.Extent
        expected = [
            Extent(0, MIB, hole), Extent(MIB, 64 * KIB, data),
            Extent(MIB + 64 * KIB, 128 * KIB, hole),
            Extent(MIB + 192 * KIB, 64 * KIB, data),
            Extent(MIB + 256 * KIB, 3 * MIB - 256 * KIB, hole)]
        self.assertEqual(expected, list(volume.extents()))
        # In small requests, whose answers are put together.
        with mock.patch.object(nbd_file, '_LARGEST_RANGE', 64 * KIB):
            self.assertEqual(expected, list(volume.extents()))
        self.assertEqual(
            [Extent(MIB - 512, 512, hole), Extent(MIB, 100, data)],
            list(volume.extents(MIB - 512, 612)))
        self.assertEqual([], list(volume.extents(MIB, 0)))

    def test_kinds_of_extents(self):
        volume = self._open(self._file(), 'raw', False)
        hole, zero = 1, 2
        with mock.patch.object(volume, '_block_status') as status:
            # A hole alone reads as anything; the last goes beyond the end.
            status.side_effect = [
                [512, 0, 512, hole, 512, zero, 512, zero],
                [512, zero | hole, 8 * MIB, 0]]
            extents = list(volume.extents(0, MIB))
            self.assertEqual([mock.call(0, MIB), mock.call(2048, MIB - 2048)],
                             status.mock_calls)
        self.assertEqual([
            (0, 1024, volume_file.Kind.DATA),
            (1024, 1024, volume_file.Kind.ZERO),
            (2048, 512, volume_file.Kind.HOLE),
            (2560, MIB - 2560, volume_file.Kind.DATA)],
            [(extent.offset, extent.length, extent.kind)
             for extent in extents])
        with mock.patch.object(volume, '_block_status', return_value=[]):
            self.assertRaises(volume_file.VolumeIOError, list,
                              volume.extents())

    def test_zeroing_frees_space_if_it_may(self):
        path = self._file(size=8 * MIB)
        with open(path, 'wb') as image:
            image.write(b'x' * 8 * MIB)
        volume = self._open(path, 'raw', True)
        volume.write_zeroes(0, 4 * MIB)
        volume.flush()
        self.assertLess(os.stat(path).st_blocks * 512, 5 * MIB)
        volume.write_zeroes(4 * MIB, 4 * MIB, unmap=False)
        volume.close()
        self.assertGreaterEqual(os.stat(path).st_blocks * 512, 4 * MIB)
        self.assertEqual(bytes(8 * MIB), pathlib.Path(path).read_bytes())

    def test_discard_frees_space(self):
        path = self._file()
        pathlib.Path(path).write_bytes(b'x' * 4 * MIB)
        volume = self._open(path, 'raw', True)
        volume.discard(0, 4 * MIB)
        volume.close()
        self.assertLess(os.stat(path).st_blocks * 512, MIB)

    def test_read_only(self):
        path = self._file()
        volume = self._open(path, 'raw', False)
        self.assertRaises(volume_file.VolumeIOError, volume.write_at, 0, b'x')

    def test_backing_file(self):
        base = self._file('base')
        pathlib.Path(base).write_bytes(b'base' * MIB)
        path = self._image('volume', '-f', 'qcow2', '-b', base, '-F', 'raw')
        error = self.assertRaises(qemu_export.ExportFailed, self._open, path,
                                  'qcow2', False)
        self.assertIn('names another file', str(error))
        volume = self._open(path, 'qcow2', False, backing=True)
        self.assertEqual(b'base', volume.read_at(2 * MIB, 4))

    def test_data_file(self):
        path = self._image('volume', '-f', 'qcow2', '-o',
                           'data_file=' + os.path.join(self.folder, 'data'))
        for backing in False, True:
            error = self.assertRaises(
                qemu_export.ExportFailed, self._open, path, 'qcow2', False,
                backing=backing)
            self.assertIn('names another file', str(error))

    def test_what_is_no_image(self):
        path = self._file()
        for path, fmt in ((path, 'qcow2'), (path, 'vmdk'), (path, None),
                          (path, 'luks'), (path + 'x', 'raw'),
                          (path + 'x', 'qcow2'), (self.folder, 'raw')):
            error = self.assertRaises(qemu_export.ExportFailed, self._open,
                                      path, fmt, False)
            self.assertIn(path, str(error))

    def test_qemus_own_reason(self):
        path = self._file(size=1000)
        with open(path, 'r+b') as image:
            image.write(b'QFI\xfb' + bytes(3) + b'\x09')
        error = self.assertRaises(qemu_export.ExportFailed, self._open, path,
                                  'qcow2', False)
        self.assertEqual(f'QEMU cannot open {path}: Unsupported qcow2 '
                         'version 9', str(error))

    @mock.patch.object(qemu_export, '_DAEMON', 'no-such-program')
    def test_no_daemon(self):
        error = self.assertRaises(qemu_export.ExportFailed, self._open,
                                  self._file(), 'raw', False)
        self.assertIn('no-such-program: No such file', str(error))

    def test_luks(self):
        path = os.path.join(self.folder, 'volume')
        for _again in range(10):
            made = subprocess.run(
                ['qemu-img', 'create', '-q', '--object',
                 'secret,id=s,file=/dev/stdin', '-f', 'luks', '-o',
                 'key-secret=s,iter-time=100', path, '4M'],
                input=PASSWORD.encode(), stderr=subprocess.PIPE)
            # QEMU measures how fast it is, and a coarse clock makes it fail.
            if b'accurate CPU usage' not in made.stderr:
                break
        made.check_returncode()
        for _again in range(2):
            volume = self._open(path, 'luks', True, passphrase=PASSWORD)
            self.assertEqual(4 * MIB, volume.size)
            volume.write_at(MIB, b'plain text' * 100)
            self.assertEqual(b'plain text', volume.read_at(MIB, 10))
            volume.close()
        self.assertNotIn(b'plain text', pathlib.Path(path).read_bytes())
        error = self.assertRaises(qemu_export.ExportFailed, self._open, path,
                                  'luks', True, passphrase='another')
        self.assertIn('Invalid password', str(error))


@needs_qemu
class DaemonTestCase(QEMUTestCase):

    def test_close_ends_it(self):
        volume = self._open(self._file(), 'raw', True)
        [pid] = daemons()
        # Nothing that others could connect to, at no time after opening.
        self.assertEqual([], os.listdir(self.temporary))
        descriptors = os.listdir('/proc/self/fd')
        volume.close()
        self.assertFalse(running(pid))
        self.assertLess(len(os.listdir('/proc/self/fd')), len(descriptors))

    def test_no_descriptor_is_left(self):
        path = self._file()
        counts = []
        for _i in range(4):
            qemu_export.open_image(path, 'raw', True, 20).close()
            self.assertRaises(qemu_export.ExportFailed, self._open, path,
                              'luks', True, passphrase='x')
            counts.append(len(os.listdir('/proc/self/fd')))
        self.assertEqual(counts[1], counts[3])

    def _stopped(self) -> tuple[nbd_file.NBDFile, int, dict[int, list]]:
        """With 16 operations in flight, none of which goes on."""
        volume = self._open(self._file(size=64 * MIB), 'raw', True)
        [pid] = daemons()
        os.kill(pid, signal.SIGSTOP)
        ends: dict[int, list] = {}
        for number in range(16):
            ends[number] = []

            def done(error: BaseException | None, data: ty.Any,
                     ends: list = ends[number]) -> None:
                ends.append(error)
            if number % 2:
                volume.start_read(number * MIB, MIB, done)
            else:
                volume.start_write(number * MIB, bytes(MIB), done)
        volume.drive(0.1)
        return volume, pid, ends

    def test_killed_with_operations_in_flight(self):
        volume, pid, ends = self._stopped()
        self.assertEqual([[]] * 16, list(ends.values()))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not all(ends.values()) and time.monotonic() < deadline:
            volume.drive(0.1)
        volume.drive(0.1)
        for number, end in ends.items():
            [error] = end
            self.assertIsInstance(error, volume_file.VolumeIOError)
            self.assertEqual((number * MIB, MIB),
                             (error.offset, error.length))
        # What was written before is not known to be on the disk.
        self.assertRaises(volume_file.VolumeIOError, volume.close)
        self.assertEqual(16, sum(map(len, ends.values())))
        self.assertFalse(running(pid))

    @mock.patch.object(qemu_export, '_GRACE', 0.2)
    def test_closed_with_operations_in_flight(self):
        volume, pid, ends = self._stopped()
        began = time.monotonic()
        volume.close()
        self.assertLess(time.monotonic() - began, 4)
        for end in ends.values():
            [error] = end
            self.assertIsInstance(error, volume_file.VolumeIOError)
        self.assertFalse(running(pid))

    def test_killed_before(self):
        volume = self._open(self._file(), 'raw', True)
        [pid] = daemons()
        os.kill(pid, signal.SIGKILL)
        self.assertRaises(volume_file.VolumeIOError, volume.read_at, 0, 512)
        volume.close()

    def test_dies_with_this_process(self):
        # Killed, so that it can clean up nothing.
        program = textwrap.dedent('''
            import os, signal, sys
            from cinder.volume.copier import qemu_export
            volume = qemu_export.open_image(sys.argv[1], 'raw', True, 20)
            print('open', flush=True)
            sys.stdin.read()
            os.kill(os.getpid(), signal.SIGKILL)
            ''')
        process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', program, self._file()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {'TMPDIR': self.temporary})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(b'open\n', process.stdout.readline())
        [pid] = daemons(process.pid)
        process.stdin.close()
        process.wait()
        process.stdout.close()
        wait_until(lambda: not running(pid))

    def test_outlives_the_thread_that_opened_it(self):
        path = self._file()
        opened = []
        # A native thread, also where threading has been replaced.
        program = threading.Thread(
            target=lambda: opened.append(self._open(path, 'raw', True)))
        program.start()
        program.join()
        opened[0].write_at(0, b'x')
        opened[0].close()

    def test_opened_and_closed_in_a_native_thread(self):
        path = self._file()

        def use() -> bytes:
            with qemu_export.open_image(path, 'raw', True, 20) as volume:
                volume.write_at(0, b'x')
                return bytes(volume.read_at(0, 1))
        self.assertEqual(b'x', tpool.execute(use))


@needs_qemu
class OpenISCSITestCase(QEMUTestCase):
    """Without a target; blockpath's own tests have one."""

    def setUp(self):
        super().setUp()
        # Accepts, by its backlog, and never answers.
        self.hung = socket.socket()
        self.addCleanup(self.hung.close)
        self.hung.bind(('127.0.0.1', 0))
        self.hung.listen()
        self.portal = '127.0.0.1:%d' % self.hung.getsockname()[1]
        with socket.socket() as closed:
            closed.bind(('127.0.0.1', 0))
            self.refusing = '127.0.0.1:%d' % closed.getsockname()[1]

    def _fail(self, timeout: float, **data: ty.Any) -> tuple[str, float]:
        began = time.monotonic()
        error = self.assertRaises(
            qemu_export.ExportFailed, qemu_export.open_iscsi, DATA | data,
            INITIATOR, True, timeout)
        self.assertNotIn(PASSWORD, str(error))
        return str(error), time.monotonic() - began

    def test_portal_that_never_answers(self):
        message, seconds = self._fail(1, target_portal=self.portal)
        self.assertEqual(
            f'QEMU cannot open LUN 1 of {IQN}: {self.portal}: no answer '
            'within 1 seconds', message)
        self.assertGreater(1.5, seconds)
        self.assertLess(0.9, seconds)

    def test_portal_that_refuses(self):
        message, seconds = self._fail(10, target_portal=self.refusing)
        self.assertIn(f'{self.refusing}: Failed to connect to LUN', message)
        self.assertNotIn('{', message)
        self.assertGreater(5, seconds)

    def test_each_portal_has_its_share_of_the_time(self):
        message, seconds = self._fail(
            2, target_portals=[self.portal, self.refusing, self.portal])
        first, second, third = message.split('; ')
        self.assertIn('no answer within 0.667 seconds', first)
        self.assertIn('Failed to connect', second)
        self.assertIn('no answer within', third)
        self.assertGreater(2.5, seconds)

    def test_the_password_is_nowhere(self):
        seen = {}

        def look() -> None:
            [pid] = wait_until(daemons)
            # As soon as it has become what it is to be.
            for name in 'cmdline', 'environ':
                seen[name] = pathlib.Path(f'/proc/{pid}/{name}').read_bytes()
            time.sleep(0.5)
            for link in glob.glob(f'/proc/{pid}/fd/*'):
                seen[link] = os.readlink(link)
            seen['temporary'] = os.listdir(self.temporary)

        thread = threading.Thread(target=look)
        thread.start()
        self._fail(1.5, target_portal=self.portal)
        thread.join()
        self.assertIn(IQN.encode(), seen['cmdline'])
        self.assertNotIn(PASSWORD.encode(), seen['cmdline'])
        self.assertNotIn(PASSWORD.encode(), seen['environ'])
        self.assertEqual([], seen['temporary'])
        # It did log in: the secret was there.
        self.assertIn('socket:', ''.join(
            value for value in seen.values() if isinstance(value, str)))


@ddt.ddt
class ISCSIPropertiesTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        patch = mock.patch.object(qemu_export, '_open')
        self.open = patch.start()
        self.addCleanup(patch.stop)

    def _opened(self, **data: ty.Any) -> list[tuple[str, str, int]]:
        """The paths that are tried when none works."""
        self.open.reset_mock()
        self.open.side_effect = qemu_export.ExportFailed(name='', reason='')
        self.assertRaises(qemu_export.ExportFailed, qemu_export.open_iscsi,
                          DATA | data, INITIATOR, True, 10)
        nodes = [call.args[0] for call in self.open.mock_calls]
        return [(node['portal'], node['target'], node['lun'])
                for node in nodes]

    def test_one_path(self):
        self.assertEqual([('127.0.0.1:3260', IQN, 1)], self._opened())
        node, secrets = self.open.mock_calls[0].args[:2]
        self.assertEqual({'chap': PASSWORD}, secrets)
        self.assertNotIn(PASSWORD, str(node))
        self.assertEqual(('user', 'chap', INITIATOR), (
            node['user'], node['password-secret'], node['initiator-name']))

    def test_several(self):
        self.assertEqual(
            [('10.0.0.1:3260', IQN + 'a', 1), ('[fd00::2]:3261', IQN, 255)],
            self._opened(target_portals=['10.0.0.1:3260', '[fd00::2]:3261'],
                         target_iqns=[IQN + 'a', IQN], target_luns=[1, '255'])
        )
        self.assertEqual(
            [('a.example:1', IQN, 1), ('b.example:2', IQN, 1)],
            self._opened(target_portals=['a.example:1', 'b.example:2']))

    def test_the_first_that_works(self):
        self.open.side_effect = [
            qemu_export.ExportFailed(name='', reason=''), mock.Mock(size=1)]
        qemu_export.open_iscsi(
            DATA | {'target_portals': ['10.0.0.1:3260', '10.0.0.2:3260',
                                       '10.0.0.3:3260']}, None, True, 10)
        self.assertEqual(2, self.open.call_count)
        self.assertNotIn('initiator-name', self.open.mock_calls[1].args[0])

    def test_no_size(self):
        self.open.side_effect = [mock.Mock(size=0)]
        error = self.assertRaises(
            qemu_export.ExportFailed, qemu_export.open_iscsi, DATA, INITIATOR,
            True, 10)
        self.assertIn('it has no size', str(error))

    @ddt.data(
        ('target_portal', None), ('target_portal', 5), ('target_portal', ''),
        ('target_portal', '10.0.0.1'), ('target_portal', '10.0.0.1:0'),
        ('target_portal', '10.0.0.1:65536'), ('target_portal', '10.0.0.1:x'),
        ('target_portal', 'fd00::1:3260'), ('target_portal', '[fd00::1]'),
        ('target_portal', '[fd00::g]:3260'), ('target_portal', 'a,b:3260'),
        ('target_portal', '[fe80::1%eth0]:3260'),
        ('target_portals', []), ('target_portals', 'a:1'),
        ('target_portals', ['a:1', None]),
        ('target_iqn', None), ('target_iqn', 'volume'), ('target_iqn', 1),
        ('target_iqn', 'iqn.2010-10.org:a b'), ('target_iqn', 'iqn.' * 60),
        ('target_lun', None), ('target_lun', -1), ('target_lun', 256),
        ('target_lun', '1,2'), ('target_lun', True), ('target_lun', 1.5),
        ('auth_method', 'SRP'), ('auth_method', None),
        ('auth_username', None), ('auth_username', ''),
        ('auth_password', None), ('auth_password', ''),
        ('auth_password', 'with\nnewline'), ('auth_password', 'x' * 5000))
    @ddt.unpack
    def test_bad_input(self, key, value):
        error = self.assertRaises(
            qemu_export.InvalidISCSIConnection, qemu_export.open_iscsi,
            DATA | {key: value}, INITIATOR, True, 10)
        self.assertIn(f'no valid {key}', str(error))
        self.assertNotIn(PASSWORD, str(error))
        if key == 'auth_password' and value:
            self.assertNotIn(value, str(error))
        self.open.assert_not_called()

    def test_lists_of_different_lengths(self):
        error = self.assertRaises(
            qemu_export.InvalidISCSIConnection, qemu_export.open_iscsi,
            DATA | {'target_portals': ['a:1', 'b:1', 'c:1'],
                    'target_iqns': [IQN, IQN]}, INITIATOR, True, 10)
        self.assertIn('target_iqns: 2 values for 3 paths', str(error))

    def test_bad_initiator(self):
        error = self.assertRaises(
            qemu_export.InvalidISCSIConnection, qemu_export.open_iscsi, DATA,
            'host', True, 10)
        self.assertIn('no valid initiator', str(error))
