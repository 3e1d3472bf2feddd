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

"""An RBD image, through librbd.

Reads and writes go straight to the cluster, several at a time. librbd's cache
would only copy what is read or written once.
"""

import _queue
import base64
import collections.abc
import contextlib
import errno
import re
import time
import typing as ty

from oslo_utils import importutils

from cinder.i18n import _
from cinder.volume.copier import volume_file

rados = importutils.try_import('rados')
rbd = importutils.try_import('rbd')

#: Set on our connections unless the ceph.conf speaks of them.
_TUNING = {
    'rbd_cache': 'false',
    # Buffers neither change nor go while they are written.
    'rbd_disable_zero_copy_writes': 'false',
}
_TIMEOUTS = ('client_mount_timeout', 'rados_mon_op_timeout',
             'rados_osd_op_timeout')
_HOST = re.compile(r'\[?(?P<host>[^][]+?)\]?:(?P<port>\d+)')
#: How much one listing of extents is about; the memory it takes is bounded.
_EXTENTS_STEP = 16 << 30
#: By Ceph's defaults a client that is gone watches its images for 30 s more.
#: Until then they can not be deleted.
_WATCHED_SECONDS = 40.0


class Cluster(ty.NamedTuple):
    """How to reach a Ceph cluster; what is None comes from the conffile."""

    user: str | None
    conffile: str | None = None
    name: str = 'ceph'
    #: "address:port,address:port"
    mon_host: str | None = None
    #: The secret itself. Given to librados in memory, never in a file.
    key: str | None = None
    #: Seconds after which anything unanswered fails; 0 waits for ever.
    timeout: float = 0

    def __repr__(self) -> str:
        shown = self._replace(key='***') if self.key else self
        return tuple.__repr__(shown)

    def connect(self) -> ty.Any:
        """Return a connected ``rados.Rados``.

        :raises: VolumeOpenError
        """
        if rados is None or rbd is None:
            raise volume_file.VolumeOpenError(
                errno.ENOSYS, f'cluster {self.name}',
                _('the Python modules rados and rbd are not installed'))
        try:
            client = rados.Rados(rados_id=self.user, clustername=self.name,
                                 conffile=self.conffile)
        except Exception as error:
            raise self._failure(error)
        try:
            for option, value in self._settings().items():
                client.conf_set(option, value)
            client.connect()
        except Exception as error:
            client.shutdown()
            raise self._failure(error)
        return client

    def qemu(self, pool: str, image: str
             ) -> tuple[dict[str, ty.Any], dict[str, str | bytes]] | None:
        """How QEMU opens an image, if it can."""
        if self.name != 'ceph' or not self.user:
            return None
        node: dict[str, ty.Any] = {'driver': 'rbd', 'pool': pool,
                                   'image': image, 'user': self.user}
        if self.conffile:
            node['conf'] = self.conffile
        if self.mon_host:
            hosts = [_HOST.fullmatch(host)
                     for host in self.mon_host.split(',')]
            if None in hosts:
                return None
            node['server'] = [host.groupdict() for host in hosts if host]
        if self.key is None:
            return node, {}
        try:
            # QEMU encodes it again.
            key = base64.b64decode(self.key, validate=True)
        except ValueError:
            return None
        return node | {'key-secret': 'cephx'}, {'cephx': key}

    def _settings(self) -> dict[str, str]:
        mentioned = self._mentioned()
        settings = dict(_TUNING)
        if self.timeout:
            settings |= dict.fromkeys(_TIMEOUTS, str(self.timeout))
        settings = {option: value for option, value in settings.items()
                    if option not in mentioned}
        if self.mon_host:
            settings['mon_host'] = self.mon_host
        if self.key:
            settings['key'] = self.key
        return settings

    def _mentioned(self) -> set[str]:
        """The options that the operator's ceph.conf sets."""
        if not self.conffile:
            return set()
        with open(self.conffile, encoding='utf-8') as lines:
            return {re.sub(r'[ _-]+', '_', line.split('=')[0].strip())
                    for line in lines if '=' in line}

    def _failure(self, error: Exception) -> volume_file.VolumeOpenError:
        return volume_file.VolumeOpenError(
            _number(error), f'cluster {self.name}',
            _('%(error)s (user %(user)s, configuration %(conf)s)') % {
                'error': error, 'user': self.user, 'conf': self.conffile})


def _number(error: BaseException) -> int:
    return abs(getattr(error, 'errno', None) or errno.EIO)


class RBDFile(volume_file.VolumeFile):
    """An image that is open, and the connection that it is open on."""

    in_flight = 16
    # Where messages take 2 ms longer as many writes of half of that are slower
    # by an eighth.
    block = 2 << 20
    size_is_current = True

    def __init__(self, client: ty.Any, ioctx: ty.Any, image: ty.Any,
                 name: str, writable: bool) -> None:
        """Take over the three.

        :param name: for messages, pool/image
        """
        self._client = client
        self._ioctx = ioctx
        self._image = image
        self._whole_objects = bool(image.features() &
                                   rbd.RBD_FEATURE_FAST_DIFF)
        #: addresses of others that have it open
        self.others = self._watchers()
        super().__init__(name, image.size(), writable)

    @classmethod
    def open(cls, cluster: Cluster, pool: str, name: str,
             writable: bool = False, snapshot: str | None = None
             ) -> 'RBDFile':
        """Open an image.

        :raises: VolumeOpenError; also if the image is to be written and
            another client has it open
        """
        client = cluster.connect()
        ioctx = image = None
        try:
            ioctx = client.open_ioctx(pool)
            # Not read-only even if it is only read. Then the image has a
            # watcher and can not be removed meanwhile: what is gone reads as
            # zeros, without an error. And we hear of it if it shrinks.
            image = rbd.Image(ioctx, name, snapshot=snapshot,
                              read_only=snapshot is not None)
            opened = cls(client, ioctx, image, f'{pool}/{name}', writable)
            if snapshot is None:
                opened.qemu = cluster.qemu(pool, name)
            opened._refuse_company()
        except Exception as error:
            for part in (image, ioctx):
                if part is not None:
                    part.close()
            client.shutdown()
            if isinstance(error, volume_file.VolumeOpenError):
                raise
            raise volume_file.VolumeOpenError(
                _number(error), f'RBD image {pool}/{name}', str(error))
        return opened

    def _refuse_company(self) -> None:
        """Two that write to one image would mix their bytes."""
        if self.others and self._writable:
            raise volume_file.VolumeOpenError(
                errno.EBUSY, f'RBD image {self.name}',
                _('it is in use by %s') % ', '.join(sorted(self.others)))

    def extents(self, offset: int = 0, length: int | None = None
                ) -> collections.abc.Iterator[volume_file.Extent]:
        end = self._size if length is None else offset + length
        while offset < end:
            step = min(_EXTENTS_STEP, end - offset)
            yield from self._extents(offset, offset + step)
            offset += step

    def _extents(self, offset: int, end: int
                 ) -> collections.abc.Iterator[volume_file.Extent]:
        for begin, stop in self._data(offset, end):
            if begin > offset:
                yield volume_file.Extent(offset, begin - offset,
                                         volume_file.Kind.HOLE)
            if stop > begin:
                yield volume_file.Extent(begin, stop - begin,
                                         volume_file.Kind.DATA)
                offset = stop
        if end > offset:
            yield volume_file.Extent(offset, end - offset,
                                     volume_file.Kind.HOLE)

    def _data(self, offset: int, end: int) -> list[tuple[int, int]]:
        """Begin and end of what was ever written, sorted and apart."""
        found: list[tuple[int, int]] = []

        def note(start: int, length: int, exists: bool) -> None:
            if exists:
                found.append((max(start, offset), min(start + length, end)))
        try:
            self._image.diff_iterate(offset, end - offset, None, note,
                                     include_parent=True,
                                     whole_object=self._whole_objects)
        except Exception as error:
            raise self._error(error, 'listing', offset, end - offset)
        merged: list[tuple[int, int]] = []
        for begin, stop in sorted(found):
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((begin, stop))
        return merged

    def start_read(self, offset: int, length: int,
                   done: volume_file.Done) -> None:
        def completed(completion: ty.Any, data: bytes | None) -> None:
            result = completion.get_return_value()
            if result == length and data is not None and len(data) == length:
                done(None, data)
            else:
                done(self._result(result, 'read', offset, length), None)
        self._start(done, 'read', offset, length, self._image.aio_read,
                    offset, length, completed)

    def start_write(self, offset: int, data: volume_file.Buffer,
                    done: volume_file.Done) -> None:
        # The Python module takes no other kinds of buffer.
        kept = data if isinstance(data, bytes | bytearray) else bytes(data)
        self._start(done, 'write', offset, len(kept), self._image.aio_write,
                    kept, offset,
                    self._writer(done, 'write', offset, len(kept), kept))

    def start_zero(self, offset: int, length: int, done: volume_file.Done,
                   unmap: bool = True) -> None:
        flags = 0 if unmap else rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION
        self._start(done, 'zeroing', offset, length,
                    self._image.aio_write_zeroes, offset, length,
                    self._writer(done, 'zeroing', offset, length), flags)

    def _start(self, done: volume_file.Done, action: str, offset: int,
               length: int, function: collections.abc.Callable[..., ty.Any],
               *args: ty.Any) -> None:
        try:
            function(*args)
        except Exception as error:
            done(self._error(error, action, offset, length), None)

    def _writer(self, done: volume_file.Done, action: str, offset: int,
                length: int, kept: bytes | bytearray = b''
                ) -> collections.abc.Callable[[ty.Any], None]:
        """What to call at the end; it keeps the data alive until then.

        librbd writes from our buffer, and the Python module that passes it
        on holds no reference to it.
        """
        def completed(completion: ty.Any,
                      kept: bytes | bytearray = kept) -> None:
            result = completion.get_return_value()
            if result < 0:
                done(self._result(result, action, offset, length), None)
            else:
                done(None, None)
        return completed

    def _result(self, result: int, action: str, offset: int,
                length: int) -> volume_file.VolumeIOError:
        if result < 0:
            return volume_file.VolumeIOError(-result, action, self.name,
                                             offset, length)
        return volume_file.VolumeEndError(
            errno.EIO, action, self.name, offset, length,
            _('%d bytes came') % result)

    def _discard_at(self, offset: int, length: int) -> None:
        try:
            self._image.discard(offset, length)
        except Exception as error:
            raise self._error(error, 'discard', offset, length)

    def _current_size(self) -> int:
        return ty.cast(int, self._image.size())

    def _flush(self) -> None:
        self._image.flush()

    def _watchers(self) -> set[str]:
        own = self._client.get_instance_id()
        return {watcher['addr'] for watcher in self._image.watchers_list()
                if watcher['id'] != own}

    def killed_beside(self) -> None:
        deadline = time.monotonic() + _WATCHED_SECONDS
        # If it can not be told, there is nobody to wait for.
        with contextlib.suppress(rbd.Error):
            while (self._watchers() - self.others and
                   time.monotonic() < deadline):
                with contextlib.suppress(_queue.Empty):
                    # Unlike time.sleep, never eventlet's.
                    _queue.SimpleQueue().get(True, 0.5)

    def _close(self) -> None:
        try:
            self._image.close()
        finally:
            self._ioctx.close()
            self._client.shutdown()
