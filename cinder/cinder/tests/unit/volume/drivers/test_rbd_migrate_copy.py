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
"""What an assisted RBD migration leaves in the target pool when it fails.

librbd's copy creates the target image itself. It can fail before that (the
image is there already, no permission) or after it (an I/O error). Only in the
latter case is there something for the driver to remove.
"""

import contextlib
import types
from unittest import mock

from os_brick.initiator import linuxrbd

from cinder import context
from cinder.tests.unit import fake_constants
from cinder.tests.unit import fake_volume
from cinder.tests.unit import test
from cinder.volume import configuration
from cinder.volume.drivers import rbd as driver

FSID = 'e5a3ad2c-9f7b-4d0f-8dbf-3b1f4c1d8f0e'


class FakeError(Exception):
    pass


class FakeImageExists(FakeError):
    pass


class FakeImageNotFound(FakeError):
    pass


class FakePermissionError(FakeError):
    pass


class FakeIOError(FakeError):
    pass


class FakePool(dict):
    """An ioctx: the pool's images, as {name: data}, and its faults."""

    before_create: Exception | None = None
    after_create: Exception | None = None
    hidden: frozenset[str] = frozenset()    # created a moment later


class FakeImage:
    def __init__(self, ioctx, name, snapshot=None, read_only=False):
        if name not in ioctx or name in ioctx.hidden:
            raise FakeImageNotFound()
        self.data = ioctx[name]

    def copy(self, dest_ioctx, dest_name):
        dest_ioctx.hidden = frozenset()
        if dest_ioctx.before_create:
            raise dest_ioctx.before_create
        if dest_name in dest_ioctx:
            raise FakeImageExists()
        dest_ioctx[dest_name] = b''
        if dest_ioctx.after_create:
            raise dest_ioctx.after_create
        dest_ioctx[dest_name] = self.data

    def close(self):
        pass


class FakeRBD:
    def remove(self, ioctx, name):
        try:
            del ioctx[name]
        except KeyError:
            raise FakeImageNotFound()


fake_rbd = mock.MagicMock(
    Error=FakeError, ImageExists=FakeImageExists,
    ImageNotFound=FakeImageNotFound, Image=FakeImage, RBD=FakeRBD)


class RBDMigrateCopyTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.volume = fake_volume.fake_volume_obj(
            context.get_admin_context(), id=fake_constants.VOLUME_ID,
            status='available')
        self.source = FakePool({self.volume.name: b'the volume'})
        self.target = FakePool({'another': b'other'})
        conf = configuration.Configuration(driver.RBD_OPTS, 'ceph')
        self.driver = driver.RBDDriver(configuration=conf, rbd=fake_rbd)
        self.override_config('rbd_pool', 'volumes', group='ceph')
        self.mock_object(self.driver, '_get_fsid', return_value=FSID)
        self.mock_object(self.driver, '_connect_to_rados',
                         return_value=(mock.sentinel.client, self.source))
        self.mock_object(self.driver, '_disconnect_from_rados')
        self.mock_object(self.driver, 'delete_volume',
                         lambda volume: self.source.pop(volume.name))
        self.mock_object(linuxrbd, 'RBDClient', self._client)

    @contextlib.contextmanager
    def _client(self, user, pool, **kwargs):
        yield types.SimpleNamespace(
            ioctx=self.target,
            client=types.SimpleNamespace(get_fsid=lambda: FSID))

    def _migrate(self):
        return self.driver.migrate_volume(
            context.get_admin_context(), self.volume,
            {'capabilities': {
                'storage_protocol': self.driver.STORAGE_PROTOCOL,
                'location_info': 'ceph:/ceph.conf:%s:cinder:vol2' % FSID}})

    def _assert_fails(self, error):
        """Migration raises error, and the pools are as they were."""
        source, target = dict(self.source), dict(self.target)
        self.assertRaises(error, self._migrate)
        self.assertEqual(target, self.target)
        self.assertEqual(source, self.source)

    def test_copied(self):
        self.assertEqual((True, None), self._migrate())
        self.assertEqual({'another': b'other',
                          self.volume.name: b'the volume'}, self.target)
        self.assertEqual({}, self.source)

    def test_image_was_there_before(self):
        self.target[self.volume.name] = b'not ours'
        self._assert_fails(FakeImageExists)

    def test_image_was_there_and_copy_fails_otherwise(self):
        self.target[self.volume.name] = b'not ours'
        self.target.before_create = FakePermissionError()
        self._assert_fails(FakePermissionError)

    def test_image_comes_up_after_the_check(self):
        self.target[self.volume.name] = b'not ours'
        self.target.hidden = frozenset({self.volume.name})
        self._assert_fails(FakeImageExists)

    def test_partial_copy_is_removed(self):
        self.target.after_create = FakeIOError()
        self._assert_fails(FakeIOError)

    def test_nothing_created(self):
        self.target.before_create = FakePermissionError()
        self._assert_fails(FakePermissionError)
