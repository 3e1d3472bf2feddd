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
"""Copies by qemu-img between a tgtd's LUN and others, all of them real."""

import os
import pathlib
import re
import shutil
import signal
import threading
import time
import typing as ty
import unittest

from cinder.volume.copier import engine
from cinder.volume.copier import local_file
from cinder.volume.copier import native
from cinder.volume.copier import nbd_file
from cinder.volume.copier import qemu_copy
from cinder.volume.copier import qemu_export
from cinder.volume.copier import rbd_file
import fixtures
import rados
import rbd
import testtools

from blockpath.daemons import ceph
from tests.copier import test_iscsi

MIB = 1 << 20
SIZE = test_iscsi.SIZE


def command_lines() -> dict[int, list[str]]:
    """Of the copiers' programs that this process has started."""
    found = {}
    for folder in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            line = (folder / 'cmdline').read_bytes().decode().split('\0')
            parent = (folder / 'stat').read_text().rsplit(')', 1)[1].split()[1]
        except OSError:
            continue
        if (line[0] in ('qemu-img', 'qemu-storage-daemon') and
                int(parent) == os.getpid()):
            found[int(folder.name)] = line
    return found


@unittest.skipUnless(shutil.which('tgtd'), 'needs tgtd (package tgt)')
class QEMUCopyTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.tgtd = self.enterContext(test_iscsi.Tgtd())
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.before = set(command_lines())
        self.descriptors = len(os.listdir('/proc/self/fd'))

    def lun(self, writable: bool = False) -> nbd_file.NBDFile:
        volume = qemu_export.open_iscsi({
            'target_portal': self.tgtd.portals[0],
            'target_iqn': test_iscsi.IQN, 'target_lun': 1,
            'auth_method': 'CHAP', 'auth_username': test_iscsi.USER,
            'auth_password': test_iscsi.PASSWORD}, test_iscsi.INITIATOR,
            writable, 20)
        self.addCleanup(volume.close)
        return volume

    def file(self, content: bytes, writable: bool = False
             ) -> local_file.LocalFile:
        path = self.folder / 'file'
        path.write_bytes(content)
        volume = local_file.LocalFile.open(str(path), writable)
        # Unlike devices, which only root may open, QEMU opens it by itself.
        volume.qemu = {'driver': 'file', 'filename': str(path)}, {}
        self.addCleanup(volume.close)
        return volume

    def slow(self) -> None:
        """Let tgtd stop while it is written to."""
        os.kill(self.tgtd.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.tgtd.process.pid, signal.SIGCONT)

    def test_there_and_back(self) -> None:
        content = (os.urandom(5 * MIB + 512) + bytes(20 * MIB) +
                   os.urandom(3 * MIB) + bytes(4 * MIB - 512))
        self.tgtd.disk.write_bytes(b'\xff' * SIZE)
        with self.file(content) as file, self.lun(True) as lun:
            progress = native.copy(file, lun, SIZE)
        self.assertEqual((SIZE, SIZE, None), (progress.done, progress.length,
                                           progress.written))
        self.assertEqual(content, self.tgtd.disk.read_bytes())
        with self.lun() as lun, self.file(b'\xff' * (SIZE + 9), True) as file:
            native.copy(lun, file, SIZE - 512)
        self.assertEqual(
            content[:SIZE - 512] + b'\xff' * (512 + 9),
            (self.folder / 'file').read_bytes())

    def test_zeros_are_left_out_only_of_what_reads_as_zeros(self) -> None:
        with self.file(bytes(SIZE)) as file, self.lun(True) as lun:
            for told, expected in ((True, 0xff), (None, 0), (False, 0)):
                self.tgtd.disk.write_bytes(b'\xff' * SIZE)
                native.copy(file, lun, SIZE, engine.Options(
                    destination_is_zero=told))
                self.assertEqual(bytes([expected]) * SIZE,
                                 self.tgtd.disk.read_bytes())

    def test_from_and_to_an_image(self) -> None:
        cluster = self.useFixture(Ceph())
        content = os.urandom(6 * MIB) + bytes(20 * MIB) + os.urandom(6 * MIB)
        self.tgtd.disk.write_bytes(content)
        for by in (cluster.by_conf, cluster.by_key):
            name = cluster.image(SIZE)
            self.tgtd.disk.write_bytes(content)
            with self.lun() as lun, rbd_file.RBDFile.open(
                    by, cluster.pool, name, True) as image:
                native.copy(lun, image, SIZE)
            self.assertEqual(content, cluster.read(name))
            self.tgtd.disk.write_bytes(bytes(SIZE))
            with self.lun(True) as lun, rbd_file.RBDFile.open(
                    by, cluster.pool, name) as image:
                native.copy(image, lun, SIZE)
            self.assertEqual(content, self.tgtd.disk.read_bytes())

    def test_what_is_left_to_the_engine(self) -> None:
        with self.file(bytes(SIZE)) as file, self.lun() as lun:
            self.assertTrue(qemu_copy.suits(lun, file, engine.Options()))
            for options in (engine.Options(start=512),
                            engine.Options(checkpoint=print),
                            engine.Options(verify=engine.Verify.SAMPLED)):
                self.assertFalse(qemu_copy.suits(lun, file, options))
            self.assertFalse(qemu_copy.suits(file, file, engine.Options()))
            file.qemu = None
            self.assertFalse(qemu_copy.suits(lun, file, engine.Options()))

    def copy_until(self, action: ty.Callable[[], ty.Any], **options: ty.Any
                   ) -> tuple[BaseException, list[str]]:
        """How a copy ends during which something happens."""
        lines: list[str] = []
        with self.file(os.urandom(SIZE)) as file, self.lun(True) as lun:
            self.slow()

            def act() -> None:
                time.sleep(1)
                lines.extend(part for line in command_lines().values()
                             for part in line)
                action()
            thread = threading.Thread(target=act)
            thread.start()
            # In a thread, so that ours also runs where it is eventlet's.
            error = self.assertRaises(
                engine.CopyError, native.call, qemu_copy.copy, file, lun,
                SIZE, engine.Options(**options))
            thread.join()
            os.kill(self.tgtd.process.pid, signal.SIGCONT)
        self.assertEqual(self.before, set(command_lines()))
        return error, lines

    def test_told_to_stop(self) -> None:
        stop: list[int] = []
        error, lines = self.copy_until(
            lambda: stop.append(1), cancelled=lambda: bool(stop))
        self.assertIsInstance(error, engine.Cancelled)
        self.assertIn('qemu-img', lines)
        self.assertFalse([line for line in lines
                          if test_iscsi.PASSWORD in line])

    def test_nothing_goes_on(self) -> None:
        began = time.monotonic()
        error, _lines = self.copy_until(lambda: None, stall=2)
        self.assertIn('2 s', str(error))
        self.assertLess(time.monotonic() - began, 15)

    def test_it_is_killed(self) -> None:
        def kill() -> None:
            for pid, line in command_lines().items():
                if line[0] == 'qemu-img':
                    os.kill(pid, signal.SIGKILL)
        error, _lines = self.copy_until(kill)
        self.assertIn('-9', str(error))

    def test_what_can_not_be_opened(self) -> None:
        with self.file(bytes(SIZE)) as file, self.lun(True) as lun:
            os.unlink(self.folder / 'file')
            error = self.assertRaises(engine.CopyError, qemu_copy.copy, file,
                                      lun, SIZE)
            self.assertIn('No such file', str(error))
            self.assertNotIn(test_iscsi.PASSWORD, str(error))
            self.assertRaises(engine.CopyError, qemu_copy.copy, file, lun,
                              SIZE + 1)

    def test_a_write_that_fails(self) -> None:
        with self.file(os.urandom(SIZE)) as file, self.lun(True) as lun:
            self.tgtd.disk.open('r+b').truncate(MIB)
            error = self.assertRaises(engine.CopyError, native.copy, lun,
                                      file, SIZE)
        self.assertIn('error while reading', str(error))

    def test_no_program(self) -> None:
        self.useFixture(fixtures.MonkeyPatch(
            'cinder.volume.copier.qemu_copy._PROGRAM', 'no-such-program'))
        with self.file(bytes(SIZE)) as file, self.lun(True) as lun:
            self.assertRaises(engine.CopyError, qemu_copy.copy, file, lun,
                              SIZE)
        self.assertEqual(self.descriptors, len(os.listdir('/proc/self/fd')))

    def test_progress(self) -> None:
        said = _Said('    (0.00/100%)\r    (12.34/100%)\rno\n\nspace')
        self.assertEqual((12.34, 'no space'), (said.percent(), said.reason()))
        self.assertEqual(0, _Said('').percent())


class _Said(qemu_copy._Convert):

    def __init__(self, text: str) -> None:
        self._program = 'qemu-img'
        self.text = text

    def said(self) -> str:
        return self.text


class Ceph(fixtures.Fixture):
    """A cluster of the test's own."""

    def _setUp(self) -> None:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        cluster = ceph.Cluster(folder / 'ceph')
        cluster.__enter__()
        self.addCleanup(cluster.__exit__, None, None, None)
        self.pool = cluster.pools[0]
        conf = str(cluster.conf)
        self.by_conf = rbd_file.Cluster(ceph.USER, conf)
        self._client = rados.Rados(rados_id=ceph.USER, conffile=conf)
        self._client.connect()
        self.addCleanup(self._client.shutdown)
        self._ioctx = self._client.open_ioctx(self.pool)
        self.addCleanup(self._ioctx.close)
        # As Cinder tells it of a cluster that it has no configuration of.
        self.by_key = rbd_file.Cluster(
            ceph.USER, None, key=cluster.key(), mon_host=re.sub(
                r'[^0-9]*v2:([0-9.:]+).*', r'\1',
                self._client.conf_get('mon_host')))

    def image(self, size: int) -> str:
        name = f'image{time.monotonic_ns()}'
        rbd.RBD().create(self._ioctx, name, size, old_format=False)
        return name

    def read(self, name: str) -> bytes:
        with rbd.Image(self._ioctx, name, read_only=True) as image:
            return bytes(image.read(0, image.size()))
