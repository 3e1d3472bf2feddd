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
"""RBD images through librbd, on a cluster of this test's own."""

import errno
import hashlib
import os
import pathlib
import tempfile
import time
import types
import typing as ty
import unittest

import rados
import rbd

from blockpath.daemons import ceph
from cinder.volume.copier import engine
from cinder.volume.copier import local_file
from cinder.volume.copier import openers
from cinder.volume.copier import rbd_file
from cinder.volume.copier import volume_file

MIB = 1 << 20
DATA = volume_file.Kind.DATA
#: layering only, exclusive lock, object map, and fast diff
FEATURES = (1, 5, 13, 29)


class RBDTest(unittest.TestCase):

    folder: pathlib.Path
    ceph: ceph.Cluster
    conf: str
    pool: str
    ioctx: ty.Any

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.ceph = ceph.Cluster(cls.folder / 'ceph')
        cls.enterClassContext(cls.ceph)
        cls.conf = str(cls.ceph.conf)
        cls.pool = cls.ceph.pools[0]
        client = rados.Rados(rados_id=ceph.USER, conffile=cls.conf)
        client.connect()
        cls.addClassCleanup(client.shutdown)
        cls.ioctx = client.open_ioctx(cls.pool)
        cls.addClassCleanup(cls.ioctx.close)

    def image(self, size: int, features: int = 29) -> str:
        name = self.id().rsplit('.', 1)[1] + str(time.monotonic_ns())
        rbd.RBD().create(self.ioctx, name, size, old_format=False,
                         features=features)
        return name

    def open(self, name: str, writable: bool = False, **cluster: ty.Any
             ) -> rbd_file.RBDFile:
        given: dict[str, ty.Any] = {'conffile': self.conf} | cluster
        opened = rbd_file.RBDFile.open(
            rbd_file.Cluster(ceph.USER, **given), self.pool, name, writable)
        self.addCleanup(opened.close)
        return opened

    def file(self, size: int, *parts: tuple[int, bytes]) -> pathlib.Path:
        fd, path = tempfile.mkstemp(dir=self.folder)
        with open(fd, 'wb') as made:
            made.truncate(size)
            for offset, content in parts:
                made.seek(offset)
                made.write(content)
        return pathlib.Path(path)

    def test_there_and_back_with_every_set_of_features(self) -> None:
        size = 24 * MIB + 512
        path = self.file(size, (5 * MIB, os.urandom(6 * MIB + 3)),
                         (16 * MIB, bytes(MIB)), (size - 7, b'the end'))
        for features in FEATURES:
            name = self.image(size, features)
            with self.open(name, True) as image, \
                    local_file.LocalFile.open(str(path)) as file:
                progress = engine.copy(file, image, size, engine.Options(
                    verify=engine.Verify.FULL))
            self.assertEqual(size, progress.verified)
            self.assertLess(progress.written, 7 * MIB + MIB)
            back = self.file(size)
            with self.open(name) as image, \
                    local_file.LocalFile.open(str(back), True) as file:
                progress = engine.copy(image, file, size)
            self.assertEqual(*(hashlib.sha256(p.read_bytes()).digest()
                               for p in (path, back)))
            self.assertLess(back.stat().st_blocks * 512, 8 * MIB)

    def test_a_stream_is_the_whole_image_or_an_error(self) -> None:
        content = os.urandom(MIB) + bytes(20 * MIB) + os.urandom(MIB + 7)
        name = self.image(len(content))
        with rbd.Image(self.ioctx, name) as image:
            image.write(content, 0)
        driver = types.SimpleNamespace(
            open_volume=lambda context, volume, mode: self.open(name),
            close_volume=lambda context, file: file.close())
        with openers.stream(driver, None, None) as stream:
            self.assertEqual(len(content), stream.seek(0, os.SEEK_END))
            stream.seek(0)
            # As the client of the image service reads.
            self.assertEqual(content, b''.join(
                iter(lambda: stream.read(65536), b'')))
            rbd.Image(self.ioctx, name).resize(MIB)
            stream.seek(0)
            with self.assertRaises(volume_file.VolumeIOError):
                stream.read()
        rbd.RBD().remove(self.ioctx, name)

    def test_a_dirty_image_gets_zeros(self) -> None:
        name = self.image(12 * MIB)
        with self.open(name, True) as image:
            for at in range(3):
                image.write_at(at * 4 * MIB, b'\xff' * 4 * MIB)
            with local_file.LocalFile.open(str(self.file(
                    12 * MIB, (5 * MIB, b'x')))) as file:
                engine.copy(file, image, 12 * MIB)
            self.assertEqual(bytes(5 * MIB) + b'x' + bytes(7 * MIB - 1),
                             image.read_at(0, 12 * MIB))
            image.write_zeroes(5 * MIB, 1, unmap=False)
            self.assertEqual(bytes(12 * MIB), image.read_at(0, 12 * MIB))

    def test_extents(self) -> None:
        for features in FEATURES:
            with self.open(self.image(40 * MIB, features), True) as image:
                self.assertEqual([volume_file.Kind.HOLE],
                                 [e.kind for e in image.extents()])
                image.write_at(9 * MIB, b'x')
                for begin, length in ((0, 40 * MIB), (9 * MIB, 20 * MIB)):
                    found = list(engine.covered(image.extents(begin, length),
                                                begin, begin + length))
                    data = [e for e in found if e.kind is DATA]
                    self.assertEqual(1, len(data))
                    self.assertTrue(data[0].offset <= 9 * MIB < data[0].end)
                    self.assertLessEqual(data[0].length, 4 * MIB)

    def test_a_clone_has_what_its_parent_has(self) -> None:
        parent = self.image(8 * MIB)
        with rbd.Image(self.ioctx, parent) as image:
            image.write(b'parent', 5 * MIB)
            image.create_snap('s')
            image.protect_snap('s')
        child = parent + '-child'
        rbd.RBD().clone(self.ioctx, parent, 's', self.ioctx, child,
                        features=29)
        with self.open(child) as image:
            self.assertTrue(any(
                e.kind is DATA and e.offset <= 5 * MIB < e.end
                for e in image.extents()))
            self.assertEqual(b'parent', image.read_at(5 * MIB, 6))

    def test_is_not_written_while_another_has_it_open(self) -> None:
        name = self.image(MIB, features=1)
        with rbd.Image(self.ioctx, name):
            with self.assertRaises(volume_file.VolumeOpenError) as caught:
                self.open(name, True)
            self.assertEqual(errno.EBUSY, caught.exception.errno)
            with self.open(name) as image:
                self.assertEqual(1, len(image.others))
        with self.open(name, True) as image:
            self.assertFalse(image.others)

    def test_what_can_not_be_opened_is_named_and_leaves_nothing(self) -> None:
        name = self.image(MIB)
        before = set(os.listdir(tempfile.gettempdir()))
        threads = len(os.listdir('/proc/self/task'))
        for image, cluster, word in (
                ('none', {}, 'none'),
                (name, {'conffile': '/nonexistent/ceph.conf'}, 'ceph.conf'),
                (name, {'key': 'AQAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA==',
                        'timeout': 5}, 'cinder')):
            with self.assertRaises(volume_file.VolumeOpenError) as caught:
                self.open(image, **cluster)
            self.assertIn(word, str(caught.exception))
            self.assertNotIn('AQAAA', str(caught.exception))
        self.assertEqual(before, set(os.listdir(tempfile.gettempdir())))
        self.assertEqual(threads, len(os.listdir('/proc/self/task')))

    def test_a_cluster_that_is_down_is_not_waited_for_for_ever(self) -> None:
        conf = self.folder / 'down.conf'
        conf.write_text('[global]\nmon_host = 127.0.0.1:1\n')
        began = time.monotonic()
        with self.assertRaises(volume_file.VolumeOpenError):
            self.open('any', conffile=str(conf), timeout=2)
        self.assertLess(time.monotonic() - began, 20)

    def test_an_image_that_shrinks_meanwhile(self) -> None:
        name = self.image(16 * MIB)
        with self.open(name) as image:
            with rbd.Image(self.ioctx, name) as other:
                other.resize(8 * MIB)
            # Until the notice of it has come it reads as zeros.
            with local_file.LocalFile.open(
                    str(self.file(16 * MIB)), True) as file, \
                    self.assertRaises(volume_file.VolumeEndError):
                engine.copy(image, file, 16 * MIB)
            with self.assertRaises(volume_file.VolumeEndError) as caught:
                image.read_at(4 * MIB, 8 * MIB)
            self.assertEqual((4 * MIB, 8 * MIB), (caught.exception.offset,
                                                  caught.exception.length))

    def test_a_source_can_not_be_removed_meanwhile(self) -> None:
        name = self.image(MIB)
        with self.open(name):
            self.assertRaises(rbd.ImageBusy, rbd.RBD().remove, self.ioctx,
                              name)
        rbd.RBD().remove(self.ioctx, name)

    def test_the_operators_tuning_is_kept(self) -> None:
        conf = self.folder / 'tuned.conf'
        conf.write_text('[client]\nrbd cache = true\n'
                        'rados-osd-op_timeout = 7\n')
        tuned = rbd_file.Cluster(ceph.USER, str(conf), timeout=60)
        settings = tuned._settings()
        self.assertNotIn('rbd_cache', settings)
        self.assertNotIn('rados_osd_op_timeout', settings)
        self.assertEqual('60', settings['rados_mon_op_timeout'])

    def test_a_key_shows_nowhere(self) -> None:
        self.assertNotIn('s3cret', repr(rbd_file.Cluster('u', key='s3cret')))
