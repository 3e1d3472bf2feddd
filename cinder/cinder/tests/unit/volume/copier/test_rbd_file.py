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
"""RBD images as volume files, on a librbd that is made up."""

import errno
import gc
import os
import types
import weakref

import ddt

from cinder.tests.unit import test
from cinder.volume.copier import engine
from cinder.volume.copier import rbd_file
from cinder.volume.copier import volume_file

MIB = 1 << 20
OBJECT = 4 * MIB
FAST_DIFF = 16
THICK = 1
EXTENT = volume_file.Extent
DATA = volume_file.Kind.DATA
HOLE = volume_file.Kind.HOLE


class FakeError(Exception):

    def __init__(self, number, text='injected'):
        super().__init__(text)
        self.errno = number


class Referable(bytearray):
    """Bytes whose end can be seen."""


class FakeImage:
    """An image that completes nothing until it is told to."""

    def __init__(self, size, features=FAST_DIFF):
        self.content = bytearray(size)
        self.written = set()    # numbers of objects
        self.number = features
        self.watchers = [{'id': 1, 'addr': '192.0.2.1:0/1'}]
        self.results = {}       # what to return, by operation
        self.diffs = []
        self.flags = []
        self.lengths = []       # of what was written
        self.pending = []
        self.calls = []

    def size(self):
        return len(self.content)

    def features(self):
        return self.number

    def watchers_list(self):
        return iter(self.watchers)

    def flush(self):
        self.calls.append('flush')

    def close(self):
        self.calls.append('close')

    def discard(self, offset, length):
        raise FakeError(errno.EROFS)

    def diff_iterate(self, offset, length, snapshot, note,
                     include_parent=False, whole_object=False):
        self.diffs.append((offset, length, include_parent, whole_object))
        if 'diff' in self.results:
            raise FakeError(self.results['diff'])
        for number in sorted(self.written):
            if offset < (number + 1) * OBJECT and (
                    number * OBJECT < offset + length):
                note(number * OBJECT, OBJECT, True)
        note(0, OBJECT, False)

    def _complete(self, name, length, function, *args):
        result = self.results.get(name, length)
        if isinstance(result, Exception):
            raise result
        self.pending.append(lambda: function(types.SimpleNamespace(
            get_return_value=lambda: result), *args))

    def aio_read(self, offset, length, done):
        data = bytes(self.content[offset:offset + length])
        if 'short' in self.results:
            data = data[:self.results['short']]
        self._complete('read', len(data), done, data)

    def aio_write(self, data, offset, done):
        self.lengths.append(len(data))
        # As the real one: the caller's buffer, and no reference to it.
        data = weakref.ref(data)

        def write():
            self.content[offset:offset + len(data())] = data()
            self.written.add(offset // OBJECT)
        self._complete('write', 0, lambda *args: (write(), done(*args)))

    def aio_write_zeroes(self, offset, length, done, flags):
        self.flags.append(flags)
        self.content[offset:offset + length] = bytes(length)
        self._complete('zero', 0, done)


class FakeClient:

    def __init__(self, **settings):
        self.settings = settings
        self.calls = []
        self.failures = {}

    def _do(self, *call):
        self.calls.append(call)
        if call[0] in self.failures:
            raise self.failures[call[0]]

    def conf_set(self, name, value):
        self.settings[name] = value

    def connect(self):
        self._do('connect')

    def open_ioctx(self, pool):
        self._do('open_ioctx', pool)
        return types.SimpleNamespace(close=lambda: self._do('close_ioctx'))

    def get_instance_id(self):
        return 1

    def shutdown(self):
        self._do('shutdown')


@ddt.ddt
class RBDFileTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.image = FakeImage(10 * MIB)
        self.client = FakeClient()
        self.opened = []
        self.mock_object(rbd_file, 'rbd', types.SimpleNamespace(
            Image=self._open_image, RBD_FEATURE_FAST_DIFF=FAST_DIFF,
            Error=OSError,
            RBD_WRITE_ZEROES_FLAG_THICK_PROVISION=THICK))
        # bytes themselves know no weak references
        self.mock_object(rbd_file, 'bytes', Referable, create=True)
        self.mock_object(rbd_file, 'rados', types.SimpleNamespace(
            Rados=self._make_client))

    def _make_client(self, **settings):
        self.client.settings |= settings
        return self.client

    def _open_image(self, ioctx, name, **kwargs):
        self.opened.append((name, kwargs))
        if isinstance(self.image, Exception):
            raise self.image
        return self.image

    def conf(self, text):
        path = self.useFixture(test.fixtures.TempDir()).join('ceph.conf')
        with open(path, 'w') as conf:
            conf.write(text)
        return path

    def open(self, writable=False, snapshot=None, **cluster):
        return rbd_file.RBDFile.open(
            rbd_file.Cluster('cinder', **cluster), 'pool', 'image', writable,
            snapshot)

    def test_killed_beside(self):
        """Waits for those that came since it was opened, and no others."""
        self.image.watchers.append({'id': 7, 'addr': '192.0.2.7:0/7'})
        volume = self.open()
        self.image.watchers.append({'id': 8, 'addr': '192.0.2.1:0/8'})
        looks = []

        def watchers_list():
            looks.append(len(self.image.watchers))
            if len(looks) == 2:
                self.image.watchers.pop()
            return list(self.image.watchers)
        self.mock_object(self.image, 'watchers_list', watchers_list)
        volume.killed_beside()
        self.assertEqual([3, 3], looks)
        volume.killed_beside()
        self.assertEqual(3, len(looks))

    def test_killed_beside_for_ever(self):
        volume = self.open(writable=True)
        self.mock_object(rbd_file, '_WATCHED_SECONDS', 0.1)
        self.image.watchers.append({'id': 8, 'addr': '192.0.2.1:0/8'})
        volume.killed_beside()

    def ended(self, start, *args, **kwargs):
        """What an operation ends with, once the image completes it."""
        ends = []
        start(*args, lambda *end: ends.append(end), **kwargs)
        for complete in self.image.pending:
            self.assertEqual([], ends)
            complete()
        self.image.pending.clear()
        return ends

    # Opening

    def test_settings(self):
        self.open(mon_host='192.0.2.9', key='s3cret', timeout=30)
        self.assertEqual({
            'rados_id': 'cinder', 'clustername': 'ceph', 'conffile': None,
            'rbd_cache': 'false', 'rbd_disable_zero_copy_writes': 'false',
            'client_mount_timeout': '30', 'rados_mon_op_timeout': '30',
            'rados_osd_op_timeout': '30', 'mon_host': '192.0.2.9',
            'key': 's3cret'}, self.client.settings)

    def test_the_operators_settings_are_kept(self):
        self.open(timeout=30, conffile=self.conf(
            '[client]\nrbd cache=true\nrados-mon-op_timeout = 5\n'))
        self.assertNotIn('rbd_cache', self.client.settings)
        self.assertNotIn('rados_mon_op_timeout', self.client.settings)
        self.assertEqual('30', self.client.settings['rados_osd_op_timeout'])

    @ddt.data(({}, {}, {}),
              ({'conffile': '/ceph.conf'}, {'conf': '/ceph.conf'}, {}),
              ({'mon_host': '192.0.2.9:3300,[2001:db8::9]:3300',
                'key': 'AQI='},
               {'key-secret': 'cephx', 'server': [
                   {'host': '192.0.2.9', 'port': '3300'},
                   {'host': '2001:db8::9', 'port': '3300'}]},
               {'cephx': b'\x01\x02'}))
    @ddt.unpack
    def test_how_qemu_opens_it(self, given, node, secrets):
        cluster = rbd_file.Cluster('cinder', **given)
        self.assertEqual(({'driver': 'rbd', 'pool': 'p', 'image': 'i',
                           'user': 'cinder'} | node, secrets),
                         cluster.qemu('p', 'i'))

    @ddt.data({'name': 'west'}, {'user': None}, {'mon_host': '192.0.2.9'},
              {'key': 'no base64!'})
    def test_how_qemu_can_not_open_it(self, given):
        cluster = rbd_file.Cluster(**{'user': 'cinder'} | given)
        self.assertIsNone(cluster.qemu('p', 'i'))

    def test_no_bindings(self):
        self.mock_object(rbd_file, 'rbd', None)
        error = self.assertRaises(volume_file.VolumeOpenError, self.open)
        self.assertEqual(errno.ENOSYS, error.errno)

    @ddt.data('connect', 'open_ioctx')
    def test_a_cluster_that_refuses(self, call):
        self.client.failures[call] = FakeError(-errno.EACCES, 'denied')
        error = self.assertRaises(volume_file.VolumeOpenError, self.open,
                                  key='s3cret')
        self.assertEqual(errno.EACCES, error.errno)
        self.assertIn('denied', str(error))
        self.assertNotIn('s3cret', str(error))
        self.assertEqual(('shutdown',), self.client.calls[-1])

    def test_an_image_that_is_not_there(self):
        self.image = FakeError(errno.ENOENT, 'no such image')
        error = self.assertRaises(volume_file.VolumeOpenError, self.open)
        self.assertEqual(errno.ENOENT, error.errno)
        self.assertIn('pool/image', str(error))
        self.assertEqual([('close_ioctx',), ('shutdown',)],
                         self.client.calls[-2:])

    @ddt.data((None, False), ('snapshot', True))
    @ddt.unpack
    def test_what_is_read_is_watched(self, snapshot, read_only):
        self.open(snapshot=snapshot)
        self.assertEqual([('image', {'snapshot': snapshot,
                                     'read_only': read_only})], self.opened)

    def test_what_others_have_open_is_not_written(self):
        self.image.watchers.append({'id': 7, 'addr': '192.0.2.7:0/7'})
        error = self.assertRaises(volume_file.VolumeOpenError, self.open,
                                  writable=True)
        self.assertEqual(errno.EBUSY, error.errno)
        self.assertIn('192.0.2.7', str(error))
        self.assertEqual(['close'], self.image.calls)
        self.assertEqual(('shutdown',), self.client.calls[-1])
        self.assertEqual({'192.0.2.7:0/7'}, self.open().others)

    def test_closing_releases_all(self):
        volume = self.open(writable=True)
        volume.close()
        volume.close()
        self.assertEqual(['flush', 'close'], self.image.calls)
        self.assertEqual([('close_ioctx',), ('shutdown',)],
                         self.client.calls[-2:])

    def test_a_failing_close_releases_the_rest(self):
        volume = self.open()
        self.mock_object(self.image, 'close', side_effect=FakeError(5))
        self.assertRaises(FakeError, volume.close)
        self.assertEqual([('close_ioctx',), ('shutdown',)],
                         self.client.calls[-2:])

    # Extents

    @ddt.data((FAST_DIFF, True), (0, False))
    @ddt.unpack
    def test_extents(self, features, whole):
        self.image = FakeImage(5 * OBJECT - 1, features)
        self.image.written = {1, 2, 4}
        self.assertEqual(
            [EXTENT(0, OBJECT, HOLE), EXTENT(OBJECT, 2 * OBJECT, DATA),
             EXTENT(3 * OBJECT, OBJECT, HOLE),
             EXTENT(4 * OBJECT, OBJECT - 1, DATA)],
            list(self.open().extents()))
        self.assertEqual([(0, 5 * OBJECT - 1, True, whole)],
                         self.image.diffs)

    def test_extents_of_a_range(self):
        self.image.written = {0}
        self.assertEqual([EXTENT(MIB, 3 * MIB, DATA),
                          EXTENT(4 * MIB, MIB, HOLE)],
                         list(self.open().extents(MIB, 4 * MIB)))

    def test_extents_come_in_steps(self):
        self.mock_object(rbd_file, '_EXTENTS_STEP', OBJECT)
        self.image.written = {1}
        self.assertEqual(
            [EXTENT(0, OBJECT, HOLE), EXTENT(OBJECT, OBJECT, DATA),
             EXTENT(2 * OBJECT, 2 * MIB, HOLE)],
            list(self.open().extents()))

    def test_extents_that_can_not_be_listed(self):
        self.image.results['diff'] = errno.ETIMEDOUT
        error = self.assertRaises(volume_file.VolumeIOError, list,
                                  self.open().extents())
        self.assertEqual((errno.ETIMEDOUT, 0, 10 * MIB),
                         (error.errno, error.offset, error.length))

    # Reading and writing

    def test_read(self):
        self.image.content[7:10] = b'abc'
        self.assertEqual([(None, b'abc')],
                         self.ended(self.open().start_read, 7, 3))

    @ddt.data(('short', 0), ('short', 2), ('read', 2), ('read', -errno.EIO))
    @ddt.unpack
    def test_a_read_of_less(self, name, result):
        self.image.results[name] = result
        [(error, data)] = self.ended(self.open().start_read, 7, 3)
        self.assertIsNone(data)
        self.assertEqual((7, 3), (error.offset, error.length))
        self.assertEqual(result >= 0,
                         isinstance(error, volume_file.VolumeEndError))

    @ddt.data('read', 'write')
    def test_what_can_not_be_started(self, name):
        self.image.results[name] = FakeError(errno.ENOTCONN)
        volume = self.open(writable=True)
        [(error, __)] = (self.ended(volume.start_read, 7, 3)
                         if name == 'read' else
                         self.ended(volume.start_write, 7, b'abc'))
        self.assertEqual((errno.ENOTCONN, 7, 3),
                         (error.errno, error.offset, error.length))

    def test_the_data_lives_until_it_is_written(self):
        volume = self.open(writable=True)
        ends = []
        volume.start_write(7, memoryview(b'abc'),
                           lambda *end: ends.append(end))
        gc.collect()
        self.image.pending.pop()()
        self.assertEqual([(None, None)], ends)
        self.assertEqual(b'abc', self.image.content[7:10])

    @ddt.data((True, 0), (False, THICK))
    @ddt.unpack
    def test_zero(self, unmap, flags):
        self.image.content[:] = b'x' * (10 * MIB)
        volume = self.open(writable=True)
        self.assertEqual([(None, None)], self.ended(
            volume.start_zero, MIB, 2 * MIB, unmap=unmap))
        self.assertEqual([flags], self.image.flags)
        self.assertEqual(2 * MIB, self.image.content.count(0))

    @ddt.data('write', 'zero')
    def test_a_failing_change(self, name):
        self.image.results[name] = -errno.ENOSPC
        volume = self.open(writable=True)
        [(error, __)] = (self.ended(volume.start_write, 7, b'abc')
                         if name == 'write' else
                         self.ended(volume.start_zero, 7, 3))
        self.assertEqual((errno.ENOSPC, 7, 3),
                         (error.errno, error.offset, error.length))

    def test_a_discard_that_fails(self):
        error = self.assertRaises(volume_file.VolumeIOError,
                                  self.open(writable=True).discard, 7, 3)
        self.assertEqual((errno.EROFS, 7, 3),
                         (error.errno, error.offset, error.length))

    def test_a_smaller_image_is_noticed(self):
        volume = self.open()
        volume.check()
        del self.image.content[MIB:]
        self.assertRaises(volume_file.VolumeEndError, volume.check)

    def test_a_copy(self):
        """From one image to another, the last started ending first."""
        random = os.urandom(OBJECT)
        self.image.content[OBJECT:2 * OBJECT] = random
        self.image.written = {1}

        def drive(self, timeout):
            if self._image.pending:
                self._image.pending.pop()()
        self.mock_object(rbd_file.RBDFile, 'driven', True)
        self.mock_object(rbd_file.RBDFile, 'drive', drive)
        source = self.open()
        self.image = FakeImage(10 * MIB)
        destination = self.open(writable=True)
        progress = engine.copy(source, destination, 10 * MIB, engine.Options(
            verify=engine.Verify.FULL))
        self.assertEqual(OBJECT, progress.written)
        self.assertEqual([2 * MIB] * 2, self.image.lengths)
        self.assertEqual(random, self.image.content[OBJECT:2 * OBJECT])
