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

"""Ends the migrations that a volume service left half-way when it was killed.

Until the database rows of the volume and of the temporary volume have changed
places, the old data is complete, and a migration is undone: unless a guest
writes to the new data already, or the destination's driver may have given
that the name of the old. Two things are done in a migration to tell:
:func:`note_names` makes visible what the destination has renamed, and
:func:`swap` makes the rows change places at once or not at all.

Each step may be interrupted again: first the temporary volume goes, and only
then does the migrated one stop looking interrupted.
"""

import datetime
import errno
import time
import typing as ty

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils

from cinder import context as cinder_context
from cinder.db import api as db_api
from cinder import exception
from cinder.i18n import _
from cinder.message import message_field
from cinder import objects
from cinder.objects import fields
from cinder import quota
from cinder import quota_utils
from cinder.volume.copier import migration
from cinder.volume import rpcapi as volume_rpcapi
from cinder.volume import volume_types

CONF = cfg.CONF
LOG = logging.getLogger(__name__)
QUOTAS = quota.QUOTAS

#: Migration statuses that a service has to end; the last is that of the old
#: data, as a volume of its own.
INTERRUPTED = ('starting', 'migrating', 'completing', 'deleting')
#: Seconds before each further attempt: the services of one machine that was
#: restarted are not all there at once.
DELAYS = (10, 30, 60, 120, 300, 300)
#: Seconds between two looks at a temporary volume that is being created.
POLL = 5
#: What a temporary volume is unless somebody has attached it.
IDLE = ('creating', 'available', 'error', 'deleting', 'error_deleting')
#: Admin metadata of the destination: how the source's data, and its own, are
#: called before the destination's driver renames them.
NOTE = {'source': 'volume_migration_source_name_id',
        '_name_id': 'volume_migration_name_id',
        'provider_location': 'volume_migration_provider_location',
        'provider_id': 'volume_migration_provider_id'}


def note_names(volume: objects.Volume, new_volume: objects.Volume) -> None:
    """Write down how the data of both is called, before that changes.

    An explicit name means the same as none; but whatever the destination
    makes of it, it differs, and tells that the destination was done.
    """
    if not volume._name_id:
        volume._name_id = volume.id
        volume.save()
    names = {'source': volume._name_id} | {
        name: getattr(new_volume, name) for name in NOTE if name != 'source'}
    db_api.volume_admin_metadata_update(
        cinder_context.get_admin_context(), new_volume.id,
        {key: names[name] or '' for name, key in NOTE.items()}, False)


def swap(volume: objects.Volume, new_volume: objects.Volume
         ) -> objects.Volume:
    """Have both volumes change places, at once.

    :returns: the volume that holds the old data
    """
    if new_volume.obj_attr_is_set('admin_metadata'):
        # The migrated volume has no use for what recovery was to know, and
        # its next migration must not find it.
        for key in (migration.CHECKPOINT_KEY, *NOTE.values()):
            new_volume.admin_metadata.pop(key, None)
    with db_api.main_context_manager.writer.using(volume._context):
        return volume.finish_volume_migration(new_volume)


def find(manager: ty.Any) -> None:
    """Remember the migrations that were interrupted, for :func:`recover`.

    Has to be called before the service accepts requests: what begins then is
    not interrupted. In a cluster nothing tells which of its services ran a
    migration, so there it is only looked for by the last one that is left.
    """
    manager.interrupted_migrations = []
    try:
        context = cinder_context.get_admin_context()
        if _has_peers(manager, context):
            LOG.info('Not looking for interrupted migrations: another '
                     'service of cluster %s may be running them.',
                     manager.cluster)
            return
        rows = db_api.volume_get_all(
            context, filters=manager._get_cluster_or_host_filters() | {
                'migration_status': INTERRUPTED})
    except Exception:
        LOG.exception('Cannot look for interrupted migrations.')
        return
    # What takes no time first.
    for row in sorted(rows, key=lambda row: row.migration_status):
        try:
            volume = objects.Volume.get_by_id(context, row.id)
            if volume.migration_status == 'deleting':
                # Before its deletion goes on, which takes them with it.
                _move_attachments(context, volume)
            manager.interrupted_migrations.append(Recovery(manager, volume))
        except Exception:
            LOG.exception('Cannot look at the migration of volume %s.',
                          row.id)


def recover(manager: ty.Any) -> None:
    """End what :func:`find` found, in the manager's threads."""
    for recovery in getattr(manager, 'interrupted_migrations', ()):
        manager._add_to_threadpool(recovery.run)


def _has_peers(manager: ty.Any, context: ty.Any) -> bool:
    if not manager.cluster:
        return False
    services = objects.ServiceList.get_all(
        context, {'cluster_name': manager.cluster, 'is_up': True})
    return any(service.host != manager.host for service in services)


def _noted(target: objects.Volume) -> dict[str, str | None] | None:
    """What :func:`note_names` wrote, by the keys of NOTE, if it did."""
    if not set(NOTE.values()) <= set(target.admin_metadata):
        return None
    return {name: target.admin_metadata[key] or None
            for name, key in NOTE.items()}


def _migrated_id(source: objects.Volume) -> str | None:
    """The volume whose old data `source` holds since they were swapped."""
    begin, __, volume_id = (source.display_description or ''
                            ).rpartition('migration src for ')
    return volume_id if volume_id and not begin else None


def _move_attachments(context: ty.Any, source: objects.Volume) -> None:
    """Give a volume the attachments that were made to its new data."""
    volume_id = _migrated_id(source)
    for attachment in objects.VolumeAttachmentList.get_all_by_volume_id(
            context, source.id) if volume_id else ():
        attachment.volume_id = volume_id
        attachment.save()


class _Undecided(exception.CinderException):
    message = _('Volume %(volume_id)s: %(reason)s.')


class Recovery:
    """Ends one migration.

    :param volume: as it was when the service started
    """

    def __init__(self, manager: ty.Any, volume: objects.Volume) -> None:
        self._manager = manager
        self._context = cinder_context.get_admin_context()
        self._id = volume.id
        self._status = volume.migration_status
        self._target_ids = {target.id for target in self._targets()}
        self._rpcapi = volume_rpcapi.VolumeAPI()
        self._may_resume = migration.resumable(manager.configuration)
        self._is_last_attempt = False

    def run(self) -> None:
        """Try until it is done, and never raise."""
        if self._status == 'starting':
            # The request may be on its way. If not, it was taken by the
            # service before, and is lost.
            time.sleep(CONF.service_down_time)
        for delay in DELAYS + (None,):
            self._is_last_attempt = delay is None
            try:
                self._attempt()
                return
            except Exception:
                LOG.exception('The migration of volume %s was interrupted, '
                              'and cannot be ended yet.', self._id)
            if delay:
                time.sleep(delay)
        LOG.error('The migration of volume %s was interrupted, and needs an '
                  'operator to end it.', self._id)

    def _attempt(self) -> None:
        try:
            volume = objects.Volume.get_by_id(self._context, self._id)
        except exception.VolumeNotFound:
            return
        targets = self._targets()
        if (volume.migration_status != self._status or
                not {target.id for target in targets} <= self._target_ids):
            # Somebody has taken over.
            return
        if self._status == 'deleting':
            self._delete_source(volume)
        elif self._status == 'completing' and self._finish(volume, targets):
            LOG.info('The migration of volume %s was finished.', self._id)
        elif self._is_novas(volume, targets):
            LOG.info('Nova ends, or has ended, the migration of volume %s.',
                     self._id)
        elif self._resume(volume, targets):
            LOG.info('The migration of volume %s was resumed, and is done.',
                     self._id)
        else:
            self._undo(volume, targets)
            LOG.info('The migration of volume %s was undone.', self._id)

    def _targets(self) -> list[objects.Volume]:
        return list(objects.VolumeList.get_all(
            self._context, filters={'migration_status': f'target:{self._id}'}))

    def _undecided(self, reason: str) -> _Undecided:
        return _Undecided(volume_id=self._id, reason=reason)

    def _was_attached(self, volume: objects.Volume,
                      since: datetime.datetime | None = None) -> bool:
        """Whether a guest has, or had, a volume."""
        return any(
            since is None or
            timeutils.normalize_time(attachment.created_at) >= since
            for attachment in objects.VolumeAttachmentList.get_all(
                self._context.elevated(read_deleted='yes'),
                {'volume_id': volume.id}))

    def _written_at(self, target: objects.Volume, key: str
                    ) -> datetime.datetime:
        """When admin metadata was first written (UTC, naive)."""
        row = db_api.volume_get(self._context, target.id)
        return next(item.created_at for item in row.volume_admin_metadata
                    if item.key == key)

    # To finish

    def _finish(self, volume: objects.Volume, targets: list[objects.Volume]
                ) -> bool:
        """Finish what has come too far to be undone.

        :returns: False if it is still to be undone
        """
        noted = [target for target in targets if _noted(target)]
        if not noted:
            return False
        if len(noted) > 1:
            raise self._undecided(_(
                'which of its temporary volumes has the data is unknown'))
        if self._is_renamed(volume, noted[0]):
            self._end(volume, noted[0])
        elif volume.previous_status == 'in-use':
            # Data in use is not renamed; so this may be done twice.
            self._complete(volume, noted[0])
        else:
            return False
        for target in targets:
            if target.id != noted[0].id:
                self._drop(target)
        return True

    def _is_renamed(self, volume: objects.Volume, target: objects.Volume
                    ) -> bool:
        """Whether the destination's service has given the names that it had.

        If it has not, `target` gets back what it was called, which is the
        first of the two that the destination saves.
        """
        names = _noted(target) or {}
        source_name = names.pop('source')
        if volume._name_id == source_name:
            # A request that was under way is served by then, or dropped.
            time.sleep(CONF.rpc_response_timeout)
            volume.refresh()
            target.refresh()
        if volume._name_id != source_name:
            return True
        target.update(names)
        target.save()
        LOG.warning('Should %(host)s have been killed just as it renamed the '
                    'copy of volume %(id)s, then that is left there, by the '
                    'name of this volume.',
                    {'host': target.host, 'id': self._id})
        return False

    def _complete(self, volume: objects.Volume, target: objects.Volume
                  ) -> None:
        self._status = 'completing'
        old_type_id = volume.volume_type_id
        self._manager.migrate_volume_completion(self._context, volume, target,
                                                error=False)
        self._settle_quota(old_type_id)

    def _end(self, volume: objects.Volume, target: objects.Volume) -> None:
        """What is left to do when only the rows have yet to be swapped."""
        if volume.previous_status != 'in-use' and self._was_attached(
                volume, self._written_at(target, NOTE['source'])):
            raise self._undecided(_(
                'it was attached when it was copied already'))
        status, old_type_id = volume.previous_status, volume.volume_type_id
        source = swap(volume, target)
        volume.update({'status': status, 'previous_status': volume.status,
                       'migration_status': 'success'})
        volume.save()
        self._settle_quota(old_type_id)
        self._delete_source(source)

    def _delete_source(self, source: objects.Volume) -> None:
        """Delete the old data of a volume that was migrated."""
        volume_id = _migrated_id(source)
        if source.status != 'deleting' or not volume_id:
            return
        _move_attachments(self._context, source)
        try:
            objects.Volume.get_by_id(
                self._context, volume_id).conditional_update(
                    {'migration_status': 'success'},
                    {'migration_status': None})
        except exception.VolumeNotFound:
            LOG.debug('Volume %s was deleted meanwhile.', volume_id)
        # Twice does no harm: the second time there is nothing to delete.
        self._rpcapi.delete_volume(self._context, source)

    def _settle_quota(self, old_type_id: str | None) -> None:
        """Count a volume that was retyped as one of its new type.

        What was reserved for it is not known any more, and expires.
        """
        volume = objects.Volume.get_by_id(self._context, self._id)
        if volume.volume_type_id == old_type_id:
            return
        try:
            for type_id, negative in ((volume.volume_type_id, False),
                                      (old_type_id, True)):
                QUOTAS.commit(
                    self._context, quota_utils.get_volume_type_reservation(
                        self._context, volume, type_id,
                        reserve_vol_type_only=True, negative=negative),
                    project_id=volume.project_id)
        except Exception:
            LOG.exception('The usage of the types of volume %s could not be '
                          'updated.', self._id)

    # To leave to Nova

    def _is_novas(self, volume: objects.Volume,
                  targets: list[objects.Volume]) -> bool:
        """Whether Nova is moving, or has moved, a guest to the target.

        Nova reserves that before it answers. Nobody else will if the
        request to Nova was never made.
        """
        if not targets or not (volume.volume_attachment or
                               volume.previous_status == 'in-use'):
            return False
        if not self._is_held(targets):
            time.sleep(CONF.service_down_time)
            for target in targets:
                target.refresh()
        if not self._is_held(targets):
            return False
        self._stand_in_for_nova(targets)
        return True

    def _stand_in_for_nova(self, targets: list[objects.Volume]) -> None:
        """Complete what Nova has told to a service that was just killed.

        Nova tells it once: when the data is copied and the target attached
        ('in-use'), and the volume is not any more.
        """
        is_told = self._status == 'completing'
        if not is_told:
            # It may be on its way.
            time.sleep(CONF.rpc_response_timeout)
        volume = objects.Volume.get_by_id(self._context, self._id)
        if volume.migration_status != self._status or len(targets) != 1:
            return
        targets[0].refresh()
        if is_told or (not volume.volume_attachment and
                       targets[0].status == 'in-use'):
            self._complete(volume, targets[0])

    @staticmethod
    def _is_held(targets: list[objects.Volume]) -> bool:
        return any(target.volume_attachment or target.status not in IDLE
                   for target in targets)

    # To go on

    def _resume(self, volume: objects.Volume, targets: list[objects.Volume]
                ) -> bool:
        """Copy the rest, if that is allowed and possible.

        :returns: False if the migration is still to be undone
        """
        offset = self._resumable_from(volume, targets)
        if not offset:
            return False
        LOG.info('The migration of volume %(id)s goes on at offset '
                 '%(offset)d.', {'id': volume.id, 'offset': offset})
        self._may_resume = False
        try:
            migration.copy_volume_data(self._manager, self._context, volume,
                                       targets[0], 'dest', offset)
            self._manager.driver.after_volume_copy(
                self._context, volume, targets[0], remote='dest')
        except Exception as error:
            if (getattr(error, 'errno', None) == errno.EBUSY and
                    not self._is_last_attempt):
                # Ceph takes half a minute to miss the service before.
                self._may_resume = True
                raise
            LOG.exception('The copy of volume %s cannot go on.', volume.id)
            return False
        self._complete(volume, targets[0])
        return True

    def _resumable_from(self, volume: objects.Volume,
                        targets: list[objects.Volume]) -> int:
        """How many bytes are in the destination, and as the source is now.

        Whoever may write to a volume changes its status for that, and so the
        time of its row.
        """
        if (not self._may_resume or len(targets) != 1 or
                targets[0].status != 'available' or
                self._was_attached(targets[0])):
            return 0
        offset = int(targets[0].admin_metadata.get(
            migration.CHECKPOINT_KEY) or 0)
        if offset and (timeutils.normalize_time(volume.updated_at) >=
                       self._written_at(targets[0],
                                        migration.CHECKPOINT_KEY)):
            LOG.info('The copy of volume %s is not resumed: the volume may '
                     'have been written to.', volume.id)
            return 0
        return offset

    # To undo

    def _undo(self, volume: objects.Volume, targets: list[objects.Volume]
              ) -> None:
        for target in targets:
            self._await_created(target)
            if self._was_attached(target):
                raise self._undecided(_(
                    'a guest may have written to its temporary volume'))
        is_readable = self._close(volume, targets)
        for target in targets:
            self._drop(target)
        self._restore(volume, is_readable)

    def _await_created(self, target: objects.Volume) -> None:
        """What is still being created cannot be deleted."""
        deadline = (time.monotonic() +
                    CONF.migration_create_volume_timeout_secs)
        while target.status == 'creating' and time.monotonic() < deadline:
            time.sleep(POLL)
            target.refresh()

    def _close(self, volume: objects.Volume, targets: list[objects.Volume]
               ) -> bool:
        """Undo what was connected for the copy.

        :returns: whether the volume can be read, or need not be
        """
        if (self._status == 'starting' or volume.volume_attachment or
                volume.previous_status == 'in-use'):
            return True
        encrypt = False
        for target in targets:
            if target.status != 'available':
                continue
            encrypt = volume_types.volume_types_encryption_changed(
                self._context, volume.volume_type_id, target.volume_type_id)
            if (not self._reopen(target, True, encrypt) and
                    not self._is_last_attempt):
                raise self._undecided(_(
                    'its temporary volume cannot be opened'))
        is_readable = self._reopen(volume, False, encrypt)
        if not is_readable and (targets or not self._is_last_attempt):
            # Never delete what may be the only copy.
            raise self._undecided(_('it cannot be opened'))
        return is_readable

    def _reopen(self, volume: objects.Volume, remote: bool, encrypt: bool
                ) -> bool:
        """Open a volume and close it.

        That finds the export and the devices of the service that was killed,
        and removes them.

        :returns: whether it can be read
        """
        try:
            with migration.opened(self._manager, self._context, volume, 'rb',
                                  remote, encrypt):
                return True
        except Exception as error:
            LOG.warning('Volume %(id)s of %(host)s cannot be opened: '
                        '%(error)s', {'id': volume.id, 'host': volume.host,
                                      'error': error})
            return False

    def _drop(self, target: objects.Volume) -> None:
        """Delete a temporary volume, unless somebody has attached it."""
        if not target.conditional_update(
                {'status': 'deleting'},
                {'status': IDLE, 'attach_status': target.Not(
                    fields.VolumeAttachStatus.ATTACHED)}):
            raise self._undecided(_('its temporary volume was attached'))
        self._rpcapi.delete_volume(self._context, target)

    def _restore(self, volume: objects.Volume, is_readable: bool) -> None:
        """Give the volume back to its user."""
        volume.refresh()
        values = {'migration_status': 'error'}
        if not is_readable:
            values['status'] = 'error'
        elif volume.status in ('retyping', 'maintenance', 'in-use'):
            # A volume that is detached while it is migrated stays 'in-use'.
            values['status'] = ('in-use' if volume.volume_attachment
                                else 'available')
        # First, as nobody looks at a volume again that was restored.
        self._manager.message_api.create(
            cinder_context.RequestContext(
                user_id=volume.user_id, project_id=volume.project_id,
                is_admin=True, overwrite=False),
            message_field.Action.MIGRATE_VOLUME, resource_uuid=volume.id,
            detail=message_field.Detail.MIGRATION_INTERRUPTED)
        # Unless somebody has reset it, and begun anew.
        volume.conditional_update(
            values, {'migration_status': (self._status, None)})
