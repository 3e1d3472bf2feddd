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

"""Copies one volume to another for the volume manager.

Used by generic migration and retype, and by the generic way to revert a
volume to a snapshot.
"""

import collections.abc
import contextlib
import time
import typing as ty

from oslo_log import log as logging
from oslo_service import loopingcall

from cinder import context as cinder_context
from cinder.db import api as db_api
from cinder import exception
from cinder.i18n import _
from cinder import objects
from cinder.objects import fields
from cinder.volume.copier import engine
from cinder.volume.copier import limits
from cinder.volume.copier import native
from cinder.volume.copier import openers
from cinder.volume.copier import volume_file
from cinder.volume import rpcapi as volume_rpcapi
from cinder.volume import volume_types
from cinder.volume import volume_utils

LOG = logging.getLogger(__name__)

#: Seconds between two words on the progress.
INTERVAL = 5
#: Bytes between two flushes of a copy that may be resumed.
CHECKPOINT_STEP = 256 << 20
_GIB = 1 << 30
#: Admin metadata of a migration's destination: all of the source below this
#: offset is in it, and was flushed.
CHECKPOINT_KEY = 'volume_copy_flushed'


def copy_volume_data(manager: ty.Any, context: ty.Any, source: ty.Any,
                     destination: ty.Any, remote: str | None = None,
                     start: int = 0) -> None:
    """Make `destination` read as `source` does.

    :param manager: the volume manager of the source
    :param remote: which of them belong to another service: 'src', 'dest',
        'both' or None
    :param start: bytes from the beginning that are there already
    :raises: anything; both volumes are closed and detached, and the source
        is as it was
    """
    encrypt = volume_types.volume_types_encryption_changed(
        context, source.volume_type_id, destination.volume_type_id)
    # A close that fails is a copy that failed: close flushes.
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(opened(
                manager, context, volume, mode, remote in (role, 'both'),
                encrypt))
            for volume, mode, role in ((destination, 'r+b', 'dest'),
                                       (source, 'rb', 'src'))]
        # True of what an interrupted copy left, too: that wrote no zeros, and
        # nothing but what it is given again.
        fresh = _reads_as_zeros(context, source, destination)
        _copy(manager, context, source, destination, files[1], files[0],
              start, fresh if not encrypt else None)


@contextlib.contextmanager
def opened(manager: ty.Any, context: ty.Any, volume: ty.Any, mode: str,
           remote: bool, encrypt: bool
           ) -> collections.abc.Iterator[volume_file.VolumeFile]:
    """A volume that is open, and undone in every way afterwards.

    :param remote: it belongs to another service
    :param encrypt: open the plain text, if it is encrypted
    """
    with _open(manager, context, volume, mode, remote, encrypt) as file:
        try:
            yield file
        finally:
            native.call(file.release)


@contextlib.contextmanager
def _open(manager: ty.Any, context: ty.Any, volume: ty.Any, mode: str,
          remote: bool, encrypt: bool
          ) -> collections.abc.Iterator[volume_file.VolumeFile]:
    if encrypt and volume_types.is_encrypted(context, volume.volume_type_id):
        with openers.open_encrypted(manager, context, volume, mode,
                                    remote) as file:
            yield file
    elif remote:
        with openers.open_remote(manager, context, volume, mode,
                                 volume_rpcapi.VolumeAPI()) as file:
            yield file
    else:
        file = manager.driver.open_volume(context, volume, mode)
        try:
            yield openers.check_file(file, manager.driver)
        finally:
            manager.driver.close_volume(context, file)


def _reads_as_zeros(context: ty.Any, source: ty.Any, destination: ty.Any
                    ) -> bool | None:
    """Whether nothing was ever written to the destination.

    Only of one that was made for this migration can a backend say so; None
    leaves it to what the volume itself says.
    """
    if destination.migration_status != f'target:{source.id}':
        return None
    try:
        capabilities = volume_rpcapi.VolumeAPI().get_capabilities(
            context, destination.service_topic_queue, False)
    except Exception as error:
        LOG.warning('Cannot learn whether new volumes of %(host)s are zeroed '
                    '(%(error)s); zeros are written.',
                    {'host': destination.host, 'error': error})
        return None
    return bool((capabilities or {}).get('sparse_copy_volume')) or None


def _copy(manager: ty.Any, context: ty.Any, source: ty.Any,
          destination: ty.Any, read: volume_file.VolumeFile,
          write: volume_file.VolumeFile, start: int, fresh: bool | None
          ) -> None:
    settings = manager.configuration
    progress = engine.Progress()
    watch = _Watch(context, source, destination, progress)
    verify = engine.Verify(settings.safe_get('volume_copy_verify') or 'none')
    options = engine.Options(
        start=start, destination_is_zero=fresh, verify=verify,
        in_flight=settings.safe_get('volume_copy_in_flight') or
        engine.IN_FLIGHT,
        limiter=limits.limiter(settings.safe_get('volume_copy_bps_limit')),
        checkpoint=watch.checkpoint if resumable(settings) else None,
        checkpoint_step=CHECKPOINT_STEP, cancelled=watch.is_cancelled,
        stall=settings.safe_get('volume_copy_timeout') or 0)
    length = source.size << 30
    with watch.watching():
        copied = native.copy(read, write, _length(read, length), options,
                             progress).done
        end = min(length, write.size)
        if copied < end and not fresh:
            native.call(write.write_zeroes, copied, end - copied)
            native.call(write.flush)
    watch.check()
    watch.log_result(start)


def _length(file: volume_file.VolumeFile, length: int) -> int:
    """How many bytes there are to copy: `length`, as a rule.

    Of a volume that was taken under management Cinder knows the size in
    whole GiB, rounded up; and of one that is encrypted the plain text is
    shorter by the header.
    """
    if length - _GIB < file.size < length and file.size_is_current:
        LOG.warning('%(name)s has %(size)d bytes, not %(length)d; the rest '
                    'of its copy will be zeros.',
                    {'name': file.name, 'size': file.size, 'length': length})
        return file.size
    return length


def resumable(settings: ty.Any) -> bool:
    """Whether an interrupted copy may go on.

    A copy that is to be verified as a whole has to begin again: of what was
    copied before, nobody remembers what was read.
    """
    return bool(settings.safe_get('volume_copy_resume') and
                settings.safe_get('volume_copy_verify') != 'full')


class _Watch:
    """Tells how far a copy is, and stops one that nobody wants any more.

    The copying thread only sets or reads its attributes: neither the
    database nor the message bus may be used from there.
    """

    def __init__(self, context: ty.Any, source: ty.Any, destination: ty.Any,
                 progress: engine.Progress) -> None:
        self._context = context
        self._source = source
        self._destination = destination
        self._progress = progress
        self._began = time.monotonic()
        self._flushed = self._saved = 0
        self._cancelled = False

    def checkpoint(self, offset: int) -> None:
        self._flushed = offset

    def is_cancelled(self) -> bool:
        return self._cancelled

    @contextlib.contextmanager
    def watching(self) -> collections.abc.Iterator[None]:
        call = loopingcall.FixedIntervalLoopingCall(self._look)
        call.start(INTERVAL, initial_delay=INTERVAL, stop_on_exception=False)
        try:
            yield
        finally:
            call.stop()

    def _look(self) -> None:
        self._cancelled = self._cancelled or not self._is_wanted()
        if self._flushed > self._saved:
            self._saved = self._flushed
            # A retype comes in the name of its user.
            db_api.volume_admin_metadata_update(
                cinder_context.get_admin_context(), self._destination.id,
                {CHECKPOINT_KEY: str(self._saved)}, False)
        told = self._figures()
        LOG.info('Copying volume %(source)s to %(destination)s: %(phase)s, '
                 '%(done)d of %(length)d bytes, %(rate)d bytes a second, '
                 '%(left)d s left.',
                 told | {'source': self._source.id,
                         'destination': self._destination.id})
        volume_utils.notify_about_volume_usage(
            self._context, self._source, 'migrate.progress',
            extra_usage_info={'progress': told})

    def check(self) -> None:
        """See that it is still wanted.

        :raises: Cancelled
        """
        if not self._is_wanted():
            raise engine.Cancelled(_('the migration was reset, or the volume '
                                     'is in use'))

    def _is_wanted(self) -> bool:
        """Whether it was not reset, and nobody writes to the volume."""
        if self._source.migration_status != 'migrating':
            # It is not a migration, or an early one.
            return True
        try:
            volume = objects.Volume.get_by_id(
                cinder_context.get_admin_context(), self._source.id)
        except exception.VolumeNotFound:
            return False
        return (volume.migration_status == 'migrating' and
                volume.attach_status != fields.VolumeAttachStatus.ATTACHED)

    def _figures(self) -> dict[str, ty.Any]:
        progress = self._progress
        seconds = max(time.monotonic() - self._began, 0.001)
        rate = progress.done / seconds
        return {'phase': progress.phase, 'done': progress.done,
                'length': progress.length, 'written': progress.written,
                'rate': int(rate),
                'left': int((progress.length - progress.done) / rate)
                if rate else 0}

    def log_result(self, start: int) -> None:
        seconds = max(time.monotonic() - self._began, 0.001)
        progress = self._progress
        LOG.info('Copied volume %(source)s to %(destination)s: %(mb)d MB in '
                 '%(seconds).1f s (%(rate)d MB/s), of which %(written)s MB '
                 'were written and %(verified)d MB verified.',
                 {'source': self._source.id,
                  'destination': self._destination.id,
                  'mb': (progress.length - start) / 1e6, 'seconds': seconds,
                  'rate': (progress.length - start) / 1e6 / seconds,
                  'written': '?' if progress.written is None else
                  int(progress.written / 1e6),
                  'verified': progress.verified / 1e6})


def check_encryption(manager: ty.Any, context: ty.Any, volume: ty.Any,
                     backend: dict[str, ty.Any], new_type_id: str | None
                     ) -> None:
    """Refuse what could not be copied, before anything is created.

    If encryption changes, the data goes through dm-crypt, on devices of this
    host. An image in a Ceph cluster has none, nor has a LUN that QEMU's
    initiator reaches.

    :raises: VolumeMigrationFailed
    """
    if not new_type_id or not volume_types.volume_types_encryption_changed(
            context, volume.volume_type_id, new_type_id):
        return
    stats = manager.driver.get_volume_stats() or {}
    without = {'ceph'} | (set() if openers.has_open_iscsi() else {'iSCSI'})
    for type_id, protocol, host in (
            (volume.volume_type_id, stats.get('storage_protocol'),
             volume.host),
            (new_type_id, (backend.get('capabilities') or {}).get(
                'storage_protocol'), backend.get('host'))):
        protocols = {protocol} if isinstance(protocol, str) else set(
            protocol or ())
        if protocols & without and volume_types.is_encrypted(context,
                                                             type_id):
            raise exception.VolumeMigrationFailed(reason=_(
                'the encryption changes, and volumes of %(host)s '
                '(%(protocol)s) have no device on this host to encrypt or '
                'decrypt') % {'host': host, 'protocol': protocol})
