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
"""What a generic migration leaves behind when it gets no destination volume.

The destination is a second, real manager with a driver that keeps its volumes
in a set. Its RPC calls run in threads, as they do in a service.
"""

import threading

from oslo_config import cfg
from oslo_utils import importutils

from cinder.common import constants
from cinder import exception
from cinder import objects
from cinder.tests.unit import utils as tests_utils
from cinder.tests.unit import volume as base
from cinder.volume import rpcapi

CONF = cfg.CONF
DEST = 'newhost@backend'
TIMEOUT = 30


class CreateFails(Exception):
    pass


class FakeBackend:
    """Volumes, and a creation that can take its time or fail at the end."""

    def __init__(self):
        self.volumes = set()
        self.creating = threading.Event()
        self.proceed = threading.Event()
        self.error = None

    def create_volume(self, volume):
        self.creating.set()
        self.proceed.wait(TIMEOUT)
        self.volumes.add(volume.id)
        if self.error:
            raise self.error

    def delete_volume(self, volume):
        self.volumes.discard(volume.id)


class MigrationWithoutDestinationTestCase(base.BaseVolumeTestCase):
    MOCK_TOOZ = False

    def setUp(self):
        super().setUp()
        tests_utils.create_service(
            self.context, values={'host': DEST,
                                  'binary': constants.VOLUME_BINARY})
        self.backend = FakeBackend()
        self.dest = importutils.import_object(CONF.volume_manager, host=DEST)
        self.dest.driver.set_initialized()
        self.dest.stats = self.volume.stats
        for method in ('create_volume', 'delete_volume'):
            self.mock_object(self.dest.driver, method,
                             getattr(self.backend, method))
        self.mock_object(self.dest.driver, 'remove_export')
        self.mock_object(self.dest, '_driver_shares_targets',
                         return_value=False)
        self.rpcs = []
        self.mock_object(rpcapi.VolumeAPI, 'create_volume', self._create)
        self.mock_object(rpcapi.VolumeAPI, 'delete_volume', self._delete)

    def _cast(self, method, ctxt, volume, **kwargs):
        """Run a method of the destination as an RPC cast would."""
        volume = objects.Volume.get_by_id(ctxt, volume.id)

        def run():
            try:
                method(ctxt, volume, **kwargs)
            except Exception:
                pass    # A cast has nobody to tell.

        thread = threading.Thread(target=run, daemon=True)
        self.rpcs.append(thread)
        thread.start()

    def _create(self, ctxt, volume, *args, allow_reschedule=True):
        self._cast(self.dest.create_volume, ctxt, volume,
                   allow_reschedule=allow_reschedule)
        self.assertTrue(self.backend.creating.wait(TIMEOUT))

    def _delete(self, ctxt, volume):
        self._cast(self.dest.delete_volume, ctxt, volume)

    def _migrate(self):
        volume = tests_utils.create_volume(
            self.context, host=CONF.host, migration_status='migrating')
        self.assertRaises(exception.VolumeMigrationFailed,
                          self.volume._migrate_volume_generic,
                          self.context, volume, {'host': DEST}, None)
        return volume

    def _assert_only_source_is_left(self, volume):
        for rpc in self.rpcs:
            rpc.join(TIMEOUT)
            self.assertFalse(rpc.is_alive())
        self.assertEqual(set(), self.backend.volumes)
        self.assertEqual(
            [volume.id],
            [left.id for left in objects.VolumeList.get_all(self.context)])

    def test_creation_ends_after_the_timeout(self):
        self.override_config('migration_create_volume_timeout_secs', -1)
        volume = self._migrate()
        # Let a deletion that does not wait for the creation come first.
        for rpc in self.rpcs[1:]:
            rpc.join(0.5)
        self.backend.proceed.set()
        self._assert_only_source_is_left(volume)

    def test_creation_fails_after_it_created(self):
        self.backend.error = CreateFails()
        self.backend.proceed.set()
        self._assert_only_source_is_left(self._migrate())
