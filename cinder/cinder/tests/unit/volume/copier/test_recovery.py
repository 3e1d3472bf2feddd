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

import datetime
import errno
import itertools
import os
import tempfile
from unittest import mock

import ddt
from oslo_utils import timeutils
from sqlalchemy import event

from cinder import context
from cinder.db import api as db_api
from cinder.message import message_field
from cinder import objects
from cinder.objects import base as objects_base
from cinder import quota_utils
from cinder.tests.unit import fake_constants as fake
from cinder.tests.unit import test
from cinder.tests.unit import utils as tests_utils
from cinder.tests.unit.volume.copier import fake_cloud
from cinder.volume.copier import local_file
from cinder.volume.copier import migration
from cinder.volume.copier import recovery
from cinder.volume import manager

HERE = 'here@one'
THERE = 'there@two'
POOL = '#pool'


class Base(test.TestCase):
    """Two services, and a volume of the first that is migrated."""

    MOCK_WORKER = False

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.context = context.get_admin_context()
        self.cloud = cloud = fake_cloud.Cloud(folder.name)
        fake_cloud.FileDriver.cloud = cloud
        for host in (HERE, THERE):
            os.mkdir(cloud.path(host, ''))
            cloud.services[host] = self.create_service(host).id
        self.types = [tests_utils.create_volume_type(
            self.context, name=name, extra_specs={'tier': name})
            for name in ('old', 'new')]
        self.replace()
        self.restart()
        self.assists = self.in_use = False
        self.status, self.new_type_id = 'available', None

    def create_service(self, host, **values):
        return tests_utils.create_service(self.context, {
            'host': host, 'binary': 'cinder-volume', 'topic': 'cinder-volume',
            'rpc_current_version': manager.VolumeManager.RPC_API_VERSION,
            'object_current_version': objects_base.OBJ_VERSIONS.get_current()
        } | values)

    def replace(self):
        cloud = self.cloud
        self.patch('cinder.volume.rpcapi.VolumeAPI._get_cctxt',
                   lambda api, host=None, version=None, **kwargs:
                   fake_cloud.Client(cloud, host))
        self.patch('cinder.compute.API', lambda: fake_cloud.Nova(cloud))
        self.patch('cinder.volume.volume_utils.brick_get_connector',
                   lambda *args, **kwargs: fake_cloud.Connector(cloud))
        self.patch('cinder.volume.volume_utils.'
                   'brick_get_connector_properties',
                   lambda *args: {'host': 'here'})
        self.patch('cinder.keymgr.migration.migrate_fixed_key')
        self.patch('cinder.volume.copier.recovery.time', cloud)
        self.patch('cinder.volume.manager.time', cloud)
        # A thread that was killed would be waited for.
        self.patch('cinder.utils.tpool_wrap', lambda target: target)
        self.patch('cinder.coordination.COORDINATOR')
        real = local_file.LocalFile._write_at

        def write(file, offset, data):
            cloud.step('write')
            return real(file, offset, data)

        self.patch('cinder.volume.copier.local_file.LocalFile._write_at',
                   write)
        engine = db_api.main_context_manager.writer.get_engine()
        event.listen(engine, 'before_cursor_execute', cloud.write)
        self.addCleanup(event.remove, engine, 'before_cursor_execute',
                        cloud.write)

    def restart(self, recovers=True):
        """Start both services."""
        for host in (THERE, HERE):
            self.cloud.managers[host] = self.start_service(host, recovers)
        self.cloud.deliver()

    def start_service(self, host, recovers=True, **kwargs):
        if not recovers:
            with mock.patch.object(recovery, 'find'):
                return self.start_service(host, **kwargs)
        started = manager.VolumeManager(
            volume_driver=f'{fake_cloud.__name__}.FileDriver', host=host,
            **kwargs)
        started._add_to_threadpool = (
            lambda what, *args, **kwargs: what(*args, **kwargs))
        self.cloud.managers[host] = started
        started.init_host(service_id=self.cloud.services[host])
        started.init_host_with_rpc()
        return started

    def create_volume(self, **values):
        volume = tests_utils.create_volume(
            self.context, size=1, host=HERE + POOL,
            volume_type_id=self.types[0].id, **({
                'status': self.status, 'migration_status': 'starting',
                'previous_status': 'available', 'user_id': fake.USER_ID,
                'project_id': fake.PROJECT_ID} | values))
        self.cloud.create(self.cloud.location(volume), fake_cloud.DATA)
        if self.in_use:
            fake_cloud.attach(self.context, volume)
            volume.previous_status = 'in-use'
            volume.save()
        return volume

    def migrate(self, volume):
        host = {'host': THERE + POOL, 'capabilities': {}}
        volume = objects.Volume.get_by_id(self.context, volume.id)
        if self.new_type_id:
            self.cloud.managers[HERE].retype(
                self.context, volume, self.new_type_id, host, 'on-demand')
        else:
            self.cloud.managers[HERE].migrate_volume(self.context, volume,
                                                     host)
        self.cloud.deliver()

    def begin_and_kill(self, kill_at):
        volume = self.create_volume()
        self.assertTrue(self.cloud.run(lambda: self.migrate(volume), kill_at))
        return volume

    def kill_at(self, step, count=1):
        """Begin a migration and kill it before the count-th such step."""
        volume = self.create_volume()
        self.cloud.run(lambda: self.migrate(volume))
        found = [at for at, what in enumerate(self.cloud.trace, 1)
                 if what == step]
        self.clean_up()
        return self.begin_and_kill(found[count - 1])

    def attach_and_detach(self, volume):
        fake_cloud.attach(self.context, volume)
        volume.finish_detach(volume.volume_attachment[0].id)
        # Which is not given back as long as it is migrated.
        volume.status = 'available'
        volume.save()
        volume.refresh()

    def targets(self, volume):
        return list(objects.VolumeList.get_all(self.context, filters={
            'migration_status': f'target:{volume.id}'}))

    def clean_up(self):
        for volume in objects.VolumeList.get_all(self.context):
            for attachment in volume.volume_attachment or ():
                attachment.destroy()
            volume.destroy()
        for path in self.cloud.files():
            os.unlink(path)
        for message in db_api.message_get_all(self.context):
            db_api.message_destroy(self.context, message['id'])
        for things in (self.cloud.exports, self.cloud.connections,
                       self.cloud.devices, self.cloud.deleted):
            things.clear()

    # What has to hold

    def assert_sound(self, volume_id, leftover=()):
        """Nothing of a migration is left but a volume that can be used."""
        volume, = objects.VolumeList.get_all(self.context)
        self.assertEqual(volume_id, volume.id)
        status = 'in-use' if self.in_use else 'available'
        moved = volume.host == THERE + POOL
        self.assert_data(volume, moved, leftover)
        self.assertEqual(status, volume.status)
        self.assertIn(volume.migration_status,
                      ('success',) if moved else ('error', 'starting'))
        self.assertEqual(self.new_type_id if moved and self.new_type_id
                         else self.types[0].id, volume.volume_type_id)
        self.assertEqual(int(self.in_use), len(volume.volume_attachment))
        self.assertEqual({}, volume.admin_metadata)
        for things in (self.cloud.exports, self.cloud.connections,
                       self.cloud.devices):
            self.assertEqual(set(), things)
        self.assert_told(volume)

    def assert_data(self, volume, moved, leftover):
        path = self.cloud.location(volume)
        expected = fake_cloud.DATA
        if self.in_use and moved:
            expected = fake_cloud.GUEST + expected[len(fake_cloud.GUEST):]
        self.assertEqual([expected] * 2, self.cloud.read(path))
        self.assertEqual({path, *leftover}, self.cloud.files())

    def assert_told(self, volume):
        messages = db_api.message_get_all(self.context)
        if volume.migration_status == 'error':
            self.assertEqual(
                {(message_field.Action.MIGRATE_VOLUME[0],
                  message_field.Detail.MIGRATION_INTERRUPTED[0], volume.id,
                  volume.project_id)},
                {(one['action_id'], one['detail_id'], one['resource_uuid'],
                  one['project_id']) for one in messages})
        else:
            self.assertEqual([], messages)


@ddt.ddt
class KillTestCase(Base):
    """Kills at each step, restarts, and sees what is left."""

    def set_up(self, scenario):
        self.in_use = 'in-use' in scenario
        self.cloud.renames = 'rename' in scenario
        self.cloud.assists = 'assisted' in scenario
        # What Nova attached would go with the old data else, as upstream
        # requests its deletion first.
        self.cloud.late = 'late' in scenario or self.in_use
        if 'locked' in scenario:
            self.status = 'maintenance'
        if 'retype' in scenario:
            self.status = 'retyping'
            self.new_type_id = self.types[1].id

    def steps(self):
        volume = self.create_volume()
        self.assertFalse(self.cloud.run(lambda: self.migrate(volume)))
        self.assert_sound(volume.id)
        self.clean_up()
        return list(self.cloud.trace)

    def leftover(self, steps, at, volume):
        """The copy, if it was renamed without anybody being told."""
        path = self.cloud.path(THERE, volume.id)
        volume.refresh()
        return ({path} if volume.migration_status == 'error' and
                'update_migrated_volume' in steps[at - 3:at - 1] and
                os.path.exists(path) else ())

    @ddt.data(*itertools.product(
        ('available', 'locked, rename', 'retype, late', 'in-use',
         'in-use, retype, rename'), range(2)))
    @ddt.unpack
    def test_each_step(self, scenario, part):
        self.set_up(scenario)
        steps = self.steps()
        unsound = []
        for at, step in itertools.islice(enumerate(steps, 1), part, None, 2):
            volume = self.begin_and_kill(at)
            self.restart()
            try:
                self.assert_sound(volume.id, self.leftover(steps, at, volume))
            except Exception as error:
                unsound.append(f'{at} ({step}): {error}')
            self.clean_up()
        self.assertEqual([], unsound)

    # In parts, each of which is quick enough for a slow machine.
    @ddt.data(*itertools.product(('available', 'in-use, retype'), range(4)))
    @ddt.unpack
    def test_each_step_of_the_recovery(self, scenario, part):
        self.set_up(scenario)
        unsound = []
        for first in range(3 + 9 * part, len(self.steps()), 9 * 4):
            killed, second = True, 0
            while killed:
                second += 1
                volume = self.begin_and_kill(first)
                killed = self.cloud.run(self.restart, second)
                step = self.cloud.trace[-1]
                if killed:
                    self.restart()
                try:
                    self.assert_sound(volume.id)
                except Exception as error:
                    # Who is killed between taking any request to delete and
                    # noting that he did has lost it.
                    if step != 'UPDATE workers SET':
                        unsound.append(f'{first}, {second} ({step}): {error}')
                self.clean_up()
        self.assertEqual([], unsound)

    @ddt.data('retype, rename', 'in-use')
    def test_what_is_left_without_recovery(self, scenario):
        self.set_up(scenario)
        sound = []
        steps = self.steps()
        for at in range(1, len(steps) + 1, 2):
            volume = self.begin_and_kill(at)
            self.restart(recovers=False)
            try:
                self.assert_sound(volume.id)
            except Exception:
                self.clean_up()
                continue
            sound.append(at)
            self.clean_up()
        # The first step is the first that is seen of a migration alone, and
        # deletions go on without it.
        last = len(steps) - steps[::-1].index('cast delete_volume')
        self.assertEqual([], [at for at in sound if 1 < at <= last])

    def test_each_step_of_a_driver(self):
        self.set_up('assisted')
        unreadable = []
        for at, step in enumerate(self.steps(), 1):
            volume = self.begin_and_kill(at)
            self.restart()
            volume.refresh()
            if volume.status == 'error':
                # It has been moved, and nobody knows where.
                unreadable.append(step)
                self.assertEqual('error', volume.migration_status)
                self.assert_told(volume)
                self.assertEqual({self.cloud.path(THERE, volume.id)},
                                 self.cloud.files())
            else:
                self.assert_sound(volume.id)
            self.clean_up()
        self.assertEqual(['UPDATE volumes SET'], unreadable)


@ddt.ddt
class UndoTestCase(Base):

    def half_copied(self):
        return self.kill_at('write', 2)

    def test_a_request_that_was_on_its_way(self):
        volume = self.create_volume()
        self.cloud.casts.append(lambda: self.migrate(volume))
        self.restart()
        self.assert_sound(volume.id)
        volume.refresh()
        self.assertEqual('success', volume.migration_status)

    def test_a_request_that_was_lost(self):
        self.status = 'maintenance'
        volume = self.create_volume()
        self.restart()
        self.status = 'available'
        self.assert_sound(volume.id)
        self.assertNotIn('connect', self.cloud.trace)

    def test_a_destination_that_comes_back_later(self):
        volume = self.half_copied()
        del self.cloud.managers[THERE]
        sleeps = []

        def sleep(seconds):
            sleeps.append(seconds)
            if len(sleeps) == 3:
                self.start_service(THERE)

        self.cloud.sleep = sleep
        self.start_service(HERE)
        self.assertEqual([10, 30, 60], sleeps)
        self.assert_sound(volume.id)

    def test_a_destination_that_does_not_come_back(self):
        volume = self.half_copied()
        del self.cloud.managers[THERE]
        self.start_service(HERE)
        volume.refresh()
        self.assertEqual(('available', 'error'),
                         (volume.status, volume.migration_status))
        self.assertEqual('deleting', self.targets(volume)[0].status)
        self.assertNotIn((HERE, volume.id),
                         self.cloud.exports | self.cloud.connections)

    def assert_untouched(self, volume):
        before = self.cloud.files()
        self.restart()
        self.assertEqual(before, self.cloud.files())
        self.assertEqual([], self.cloud.deleted)
        found = objects.Volume.get_by_id(self.context, volume.id)
        self.assertEqual(volume.migration_status, found.migration_status)
        self.assertEqual(volume.status, found.status)
        return found

    def test_a_temporary_volume_that_is_just_being_created(self):
        volume = self.kill_at('create_volume')
        sleeps = []

        def sleep(seconds):
            sleeps.append(seconds)
            target, = self.targets(volume)
            self.assertEqual('creating', target.status)
            self.cloud.create(self.cloud.location(target))
            target.status = 'available'
            target.save()

        self.cloud.sleep = sleep
        self.start_service(HERE)
        self.assertEqual([recovery.POLL], sleeps)
        self.assert_sound(volume.id)

    def test_a_temporary_volume_that_is_attached_at_the_last_moment(self):
        volume = self.half_copied()
        volume.refresh()

        def close(*args):
            fake_cloud.attach(self.context, self.targets(volume)[0])
            return True

        with mock.patch.object(recovery.Recovery, '_close', close):
            self.assert_untouched(volume)

    def test_the_copy_of_a_volume_that_can_not_be_read_stays(self):
        volume = self.half_copied()
        os.unlink(self.cloud.location(volume))
        volume.refresh()
        self.assert_untouched(volume)
        self.assertEqual('available', self.targets(volume)[0].status)

    def test_a_temporary_volume_that_a_guest_had(self):
        volume = self.half_copied()
        target, = self.targets(volume)
        self.attach_and_detach(target)
        volume.refresh()
        self.assert_untouched(volume)

    def test_a_volume_that_was_attached_after_it_was_copied(self):
        # Before the rows are swapped, and after the destination has renamed.
        volume = self.kill_at('UPDATE volume_metadata SET')
        volume.refresh()
        self.assertEqual('completing', volume.migration_status)
        self.attach_and_detach(volume)
        self.assert_untouched(volume)

    def test_a_volume_that_was_attached_meanwhile(self):
        volume = self.half_copied()
        volume.refresh()
        fake_cloud.attach(self.context, volume)
        self.cloud.exports.clear()
        used = (HERE, volume.id)
        self.cloud.connections = {used}
        self.in_use = True
        self.restart()
        self.assertEqual({used}, self.cloud.connections)
        self.cloud.connections = set()
        self.cloud.devices.clear()
        self.assert_sound(volume.id)

    def test_a_volume_that_was_detached_meanwhile(self):
        volume = self.half_copied()
        volume.refresh()
        fake_cloud.attach(self.context, volume)
        volume.finish_detach(volume.volume_attachment[0].id)
        self.restart()
        self.assert_sound(volume.id)

    def test_a_migration_that_was_begun_anew(self):
        volume = self.half_copied()
        path, away = self.cloud.location(volume), self.cloud.folder + '/away'
        os.rename(path, away)

        def sleep(seconds):
            # After the first attempt.
            os.rename(away, path)
            tests_utils.create_volume(
                self.context, migration_status=f'target:{volume.id}')

        self.cloud.sleep = sleep
        self.restart()
        volume.refresh()
        self.assertEqual('migrating', volume.migration_status)
        self.assertEqual(2, len(self.targets(volume)))

    def test_a_volume_that_is_broken_does_not_hinder_the_next(self):
        first, second = self.half_copied(), self.half_copied_too()
        real = recovery.Recovery._undo

        def undo(self, volume, targets):
            if volume.id == first.id:
                raise RuntimeError('broken')
            real(self, volume, targets)

        with mock.patch.object(recovery.Recovery, '_undo', undo):
            self.restart()
        self.assertTrue(self.cloud.managers[HERE].is_working())
        first.refresh()
        self.assertEqual('migrating', first.migration_status)
        second.refresh()
        self.assertEqual('error', second.migration_status)
        self.assertEqual([], self.targets(second))

    def half_copied_too(self):
        at = 1 + self.cloud.trace.index('write')
        return self.begin_and_kill(at)

    @ddt.data('_move_attachments', 'Recovery', '_has_peers')
    def test_the_service_starts_if_nothing_can_be_found(self, what):
        self.kill_at('cast delete_volume')
        with mock.patch.object(recovery, what, side_effect=RuntimeError):
            self.restart()
        self.assertTrue(self.cloud.managers[HERE].is_working())

    def test_several_temporary_volumes(self):
        volume = self.half_copied()
        other = tests_utils.create_volume(
            self.context, host=THERE + POOL, status='error',
            migration_status=f'target:{volume.id}')
        self.cloud.create(self.cloud.location(other))
        self.restart()
        self.assert_sound(volume.id)

    def test_only_the_one_that_has_the_data_is_kept(self):
        volume = self.kill_at('UPDATE volume_metadata SET')
        other = tests_utils.create_volume(
            self.context, host=THERE + POOL, status='available',
            migration_status=f'target:{volume.id}')
        self.cloud.create(self.cloud.location(other))
        self.restart()
        volume.refresh()
        self.assertEqual('success', volume.migration_status)
        self.assert_sound(volume.id)

    def test_a_migrated_volume_that_was_deleted_meanwhile(self):
        volume = self.kill_at('cast delete_volume')
        volume.refresh()
        os.unlink(self.cloud.location(volume))
        volume.destroy()
        self.restart()
        self.assertEqual(set(), self.cloud.files())
        self.assertEqual([], list(objects.VolumeList.get_all(self.context)))

    @ddt.data(True, False)
    def test_cluster(self, alone):
        cluster = 'cluster@one'
        seen = timeutils.utcnow() - datetime.timedelta(days=int(alone))
        self.create_service('peer@one', cluster_name=cluster, created_at=seen,
                            updated_at=seen)
        volume = self.half_copied()
        volume.refresh()
        volume.cluster_name = cluster + POOL
        volume.save()
        self.cloud.managers[cluster] = self.start_service(HERE,
                                                          cluster=cluster)
        volume.refresh()
        self.assertEqual('error' if alone else 'migrating',
                         volume.migration_status)
        self.assertEqual(not alone, bool(self.targets(volume)))

    def test_who_is_told(self):
        self.half_copied()
        self.restart()
        message, = db_api.message_get_all(self.context)
        self.assertIn('restarted', message_field.translate_detail(
            message['detail_id']))
        self.assertEqual('migrate volume', message_field.translate_action(
            message['action_id']))

    @ddt.data(True, False)
    def test_usage_of_the_types(self, finished):
        self.cloud.renames = True
        self.status, self.new_type_id = 'retyping', self.types[1].id
        volume = self.kill_at('UPDATE volume_metadata SET' if finished
                              else 'write')
        for volume_type in self.types:
            recovery.QUOTAS.rollback(
                self.context, quota_utils.get_volume_type_reservation(
                    self.context, volume, volume_type.id,
                    reserve_vol_type_only=True))
        self.assertEqual((1, 0), self.usage())
        self.restart()
        self.assertEqual((0, 1) if finished else (1, 0), self.usage())
        self.assert_sound(volume.id)

    def usage(self):
        usages = db_api.quota_usage_get_all_by_project(self.context,
                                                       fake.PROJECT_ID)
        for kind in ('old', 'new'):
            self.assertEqual(usages[f'volumes_{kind}'],
                             usages[f'gigabytes_{kind}'])
        return tuple(usages[f'volumes_{kind}']['in_use']
                     for kind in ('old', 'new'))


class NovaTestCase(Base):

    def setUp(self):
        super().setUp()
        self.in_use = self.cloud.late = True

    def test_nova_goes_on(self):
        self.cloud.slow = True
        volume = self.create_volume()
        volume = objects.Volume.get_by_id(self.context, volume.id)
        nova = []
        with mock.patch.object(self.cloud, 'deliver', self.deliver_but(nova)):
            self.migrate(volume)
            files = self.cloud.files()
            self.restart()
        volume.refresh()
        self.assertEqual('migrating', volume.migration_status)
        self.assertEqual(files, self.cloud.files())
        self.assertEqual(1, len(self.targets(volume)))
        nova[0]()
        self.cloud.deliver()
        volume.refresh()
        self.assertEqual('success', volume.migration_status)
        self.assert_sound(volume.id)

    def test_the_old_data_is_not_deleted_with_the_attachment(self):
        volume = self.kill_at('UPDATE volume_attachment SET')
        # That service took the request to delete, too.
        self.assertTrue(self.cloud.run(self.cloud.deliver, 2))
        self.assertEqual('remove_export', self.cloud.trace[-1])
        self.restart()
        self.assert_sound(volume.id)

    def deliver_but(self, nova):
        def deliver():
            casts, self.cloud.casts = self.cloud.casts, []
            for cast in casts:
                if cast.__qualname__.startswith('Nova.'):
                    nova.append(cast)
                else:
                    cast()
        return deliver


@ddt.ddt
class ResumeTestCase(Base):
    """A copy whose first half was flushed."""

    def setUp(self):
        super().setUp()
        self.override_config('volume_copy_resume', True,
                             group='backend_defaults')

    def half_copied(self, checkpoint=fake_cloud.BLOCKS[1]):
        volume = self.kill_at('write', 2)
        self.target, = self.targets(volume)
        # By this it is seen whether it is copied a second time.
        with open(self.cloud.location(self.target), 'r+b') as file:
            file.write(b'FIRST')
        if checkpoint:
            self.target.admin_metadata_update(
                {migration.CHECKPOINT_KEY: str(checkpoint)}, False)
        return volume

    def test_only_the_rest_is_copied(self):
        volume = self.half_copied()
        self.restart()
        volume.refresh()
        self.assertEqual(('available', 'success', THERE + POOL, {}),
                         (volume.status, volume.migration_status, volume.host,
                          volume.admin_metadata))
        path = self.cloud.location(volume)
        self.assertEqual([b'FIRST' + fake_cloud.DATA[5:], fake_cloud.DATA],
                         self.cloud.read(path))
        self.assertEqual({path}, self.cloud.files())
        self.assertEqual(set(), self.cloud.devices | self.cloud.exports)

    def assert_undone(self, volume):
        self.restart()
        self.assert_sound(volume.id)
        volume.refresh()
        self.assertEqual('error', volume.migration_status)

    def test_while_ceph_misses_the_service_before(self):
        volume = self.half_copied()
        copy = migration.copy_volume_data
        busy = [OSError(errno.EBUSY, 'in use')] * 2

        def copy_when_free(*args):
            if busy:
                raise busy.pop()
            copy(*args)
        self.mock_object(migration, 'copy_volume_data', copy_when_free)
        self.restart()
        volume.refresh()
        self.assertEqual(('available', 'success', THERE + POOL),
                         (volume.status, volume.migration_status,
                          volume.host))

    def test_without_a_checkpoint(self):
        self.assert_undone(self.half_copied(checkpoint=0))

    @ddt.data(('volume_copy_resume', False), ('volume_copy_verify', 'full'))
    @ddt.unpack
    def test_unless_the_operator_wants_it(self, option, value):
        volume = self.half_copied()
        self.override_config(option, value, group='backend_defaults')
        self.assert_undone(volume)

    def test_a_volume_that_was_written_to_meanwhile(self):
        volume = self.half_copied()
        volume.refresh()
        self.attach_and_detach(volume)
        self.assert_undone(volume)

    def test_a_temporary_volume_that_a_guest_had(self):
        volume = self.half_copied()
        self.attach_and_detach(self.target)
        before = self.cloud.read(self.cloud.location(self.target))
        self.restart()
        volume.refresh()
        self.assertEqual('migrating', volume.migration_status)
        self.assertEqual(before,
                         self.cloud.read(self.cloud.location(self.target)))

    def test_a_copy_that_fails_again(self):
        volume = self.half_copied()
        with mock.patch.object(migration.native, 'copy',
                               side_effect=OSError(5, 'EIO')):
            self.assert_undone(volume)

    def test_each_step(self):
        unsound = []
        killed, second = True, 0
        while killed:
            second += 1
            volume = self.half_copied()
            # What it is, then, as it may well be copied a second time.
            with open(self.cloud.location(self.target), 'r+b') as file:
                file.write(fake_cloud.DATA)
            killed = self.cloud.run(self.restart, second)
            step = self.cloud.trace[-1]
            if killed:
                self.restart()
            try:
                self.assert_sound(volume.id)
            except Exception as error:
                unsound.append(f'{second} ({step}): {error}')
            self.clean_up()
        self.assertEqual([], unsound)
