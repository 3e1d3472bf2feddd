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

"""Opens volumes, of this backend's and of others', for the copier.

A volume of another backend is known by its connection_info only, so what
opens it is chosen by the ``driver_volume_type`` of that.
"""

import collections.abc
import contextlib
import io
import os
import re
import shutil
import typing as ty

from oslo_config import cfg
from oslo_log import log as logging

from cinder import exception
from cinder.i18n import _
from cinder import utils
from cinder.volume import configuration
from cinder.volume.copier import handle_file
from cinder.volume.copier import local_file
from cinder.volume.copier import native
from cinder.volume.copier import qemu_export
from cinder.volume.copier import rbd_file
from cinder.volume.copier import volume_file
from cinder.volume import volume_utils

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

#: What the methods of a driver take.
MODES = {'rb': False, 'r+b': True}
_ROOTS_PATH = '/usr/local/sbin:/usr/sbin:/sbin'
#: How much of a stream is read at a time; several objects of an RBD image,
#: which its library reads at once.
_READ_AHEAD = 16 << 20

_Info: ty.TypeAlias = dict[str, ty.Any]


def writable(mode: str) -> bool:
    """Whether `mode` is to write.

    :raises: ValueError; a volume is neither created nor truncated
    """
    if mode not in MODES:
        raise ValueError(_('a volume is opened with mode rb or r+b, not %r') %
                         (mode,))
    return MODES[mode]


def open_default(driver: ty.Any, context: ty.Any, volume: ty.Any, mode: str
                 ) -> volume_file.VolumeFile:
    """Export a volume of `driver`, attach it to this host, and open it.

    All that is undone when the file is closed.
    """
    write = writable(mode)
    context = context.elevated()
    properties = connector_properties(driver.configuration)
    with contextlib.ExitStack() as undo:
        # In case it fails half-way, too.
        undo.callback(driver.remove_export, context, volume)
        update = driver.create_export(context, volume, properties)
        if update:
            volume.update(update)
            volume.save()
        undo.callback(driver.terminate_connection, volume, properties,
                      force=True)
        info = driver.initialize_connection(volume, properties)
        return _undone_at_close(undo, connect(
            info, properties, driver.configuration, volume, write))


def open_remote(manager: ty.Any, context: ty.Any, volume: ty.Any, mode: str,
                rpcapi: ty.Any) -> volume_file.VolumeFile:
    """Have the service that owns a volume export it, and open it here."""
    write = writable(mode)
    properties = connector_properties(manager.configuration)
    with contextlib.ExitStack() as undo:
        undo.callback(rpcapi.remove_export, context, volume)
        # An answer that came too late is a connection all the same.
        undo.callback(rpcapi.terminate_connection, context, volume,
                      properties, force=True)
        info = rpcapi.initialize_connection(context, volume, properties)
        return _undone_at_close(undo, connect(
            info, properties, manager.configuration, volume, write))


def open_encrypted(manager: ty.Any, context: ty.Any, volume: ty.Any,
                   mode: str, remote: bool) -> volume_file.VolumeFile:
    """Open the plain text of a volume, through dm-crypt on this host."""
    properties = connector_properties(manager.configuration)
    attached = manager._attach_volume(context, volume, properties,
                                      remote=remote, attach_encryptor=True)
    with contextlib.ExitStack() as undo:
        undo.callback(manager._detach_volume, context, attached, volume,
                      properties, force=True, remote=remote,
                      attach_encryptor=True)
        path = attached['device']['path']
        if not isinstance(path, str):
            raise exception.DeviceUnavailable(path=None, reason=_(
                'it has no device on this host, which encryption needs'))
        file = open_path(path, writable(mode))
        # dm-crypt was told just now how long it is.
        file.size_is_current = True
        return _undone_at_close(undo, file)


def open_local(driver: ty.Any, volume: ty.Any, mode: str
               ) -> volume_file.VolumeFile:
    """Open a volume that has a path on this host, without exporting it.

    For a driver whose ``local_path`` is raw data, and whose volumes are here.
    """
    group = getattr(driver, 'vg', None)
    if group is not None:
        # As an export would; a thin snapshot's own volume is not by itself.
        group.activate_lv(volume.name)
    file = open_path(driver.local_path(volume), writable(mode))
    file.size_is_current = True
    return file


def open_rbd(driver: ty.Any, volume: ty.Any, mode: str
             ) -> volume_file.VolumeFile:
    """Open a volume of the RBD driver."""
    name, conf, user, __ = driver._get_config_tuple()
    settings = driver.configuration
    cluster = rbd_file.Cluster(user, conf or None, name,
                               timeout=_rbd_timeout(settings))
    return _open_image(cluster, settings.rbd_pool, volume.name,
                       writable(mode))


def open_path(path: str, write: bool) -> volume_file.VolumeFile:
    """Open a device or a file that root may own.

    :raises: OSError
    """
    with utils.temporary_chown(path):
        return local_file.LocalFile.open(path, write)


def connector_properties(settings: ty.Any) -> _Info:
    """What a backend is told of this host."""
    properties = volume_utils.brick_get_connector_properties(
        settings.use_multipath_for_image_xfer,
        settings.enforce_multipath_for_image_xfer)
    if use_qemu(settings) and not properties.get('initiator'):
        # A name per host, as open-iscsi's would be.
        host = re.sub('[^a-z0-9.-]', '-',
                      properties.get('host', CONF.host).lower())
        properties['initiator'] = f'iqn.2010-10.org.openstack:cinder.{host}'
    return properties


def use_qemu(settings: ty.Any) -> bool:
    """Whether iSCSI volumes are reached by QEMU's initiator."""
    return (settings.safe_get('volume_copy_iscsi_initiator') == 'qemu' or
            not has_open_iscsi() and
            shutil.which('qemu-storage-daemon') is not None)


def has_open_iscsi() -> bool:
    """Whether this host has open-iscsi, also where only root looks."""
    path = os.environ.get('PATH', os.defpath)
    return shutil.which('iscsiadm', path=f'{path}:{_ROOTS_PATH}') is not None


def connect(info: _Info, properties: _Info, settings: ty.Any,
            volume: ty.Any, write: bool) -> volume_file.VolumeFile:
    """Open what a connection_info leads to.

    :param properties: the connector that it was made for
    :param settings: the configuration of the backend that copies
    :raises: InvalidInput naming the key; OSError or CinderException
    """
    protocol = _value(info, 'driver_volume_type', str).lower()
    data = _value(info, 'data', dict)
    data['enforce_multipath'] = properties.get('enforce_multipath', False)
    if protocol == 'rbd':
        return _connect_rbd(data, settings, volume, write)
    if protocol == 'iscsi' and use_qemu(settings):
        return native.call(qemu_export.open_iscsi, data,
                           properties.get('initiator'), write,
                           _timeout(settings))
    return _connect_brick(info, settings, volume, write)


def _connect_rbd(data: _Info, settings: ty.Any, volume: ty.Any, write: bool
                 ) -> volume_file.VolumeFile:
    pool, __, image = _value(data, 'name', str).rpartition('/')
    if not (pool and image):
        _refuse('name', _('%r is not POOL/IMAGE') % data['name'])
    name = _value(data, 'cluster_name', str)
    cluster = rbd_file.Cluster(
        _value(data, 'auth_username', str, None), _ceph_conf(volume, name),
        name, timeout=_timeout(settings), mon_host=_monitors(data),
        key=_ceph_key(_value(data, 'keyring', str, None)))
    return _open_image(cluster, pool, image, write)


def _monitors(data: _Info) -> str:
    """Not those of a configuration: that may be another cluster's."""
    hosts, ports = (_value(data, key, list) for key in ('hosts', 'ports'))
    if not hosts:
        _refuse('hosts', _('there is none'))
    if len(hosts) != len(ports):
        _refuse('ports', _('%(ports)d ports for %(hosts)d hosts') % {
            'ports': len(ports), 'hosts': len(hosts)})
    for key, values in (('hosts', hosts), ('ports', ports)):
        for value in values:
            if (not isinstance(value, str | int) or
                    not re.fullmatch(r'[][A-Za-z0-9.:_-]+', str(value))):
                _refuse(key, _('%r is none') % (value,))
    return ','.join(f'{host}:{port}' for host, port in zip(hosts, ports))


_NEEDED = object()


def _value(info: _Info, key: str, kind: type, default: ty.Any = _NEEDED
           ) -> ty.Any:
    """What another service says, if it is of the right kind."""
    value = info.get(key)
    if value is None and default is not _NEEDED:
        return default
    if not isinstance(value, kind):
        _refuse(key, _('not of type %s') % kind.__name__)
    return value


def _refuse(key: str, reason: str) -> ty.NoReturn:
    raise exception.InvalidInput(reason=_(
        '%(key)s of the connection_info: %(reason)s') % {
            'key': key, 'reason': reason})


def _open_image(cluster: rbd_file.Cluster, pool: str, image: str, write: bool
                ) -> volume_file.VolumeFile:
    file = native.call(rbd_file.RBDFile.open, cluster, pool, image, write)
    if file.others:
        LOG.warning('RBD image %(image)s is read while it is in use by '
                    '%(others)s.', {'image': file.name, 'others':
                                    ', '.join(sorted(file.others))})
    return file


def _ceph_conf(volume: ty.Any, cluster: str) -> str | None:
    """The ceph.conf for a volume: its backend's if that is configured here."""
    backend = (volume_utils.extract_host(volume.host, 'backend') or
               '').partition('@')[2]
    if backend in (CONF.enabled_backends or ()):
        options = configuration.Configuration(
            [cfg.StrOpt('rbd_ceph_conf', default='')], config_group=backend)
        if options.rbd_ceph_conf:
            return options.rbd_ceph_conf
    path = f'/etc/ceph/{cluster}.conf'
    return path if os.path.exists(path) else None


def _ceph_key(keyring: str | None) -> str | None:
    found = re.search(r'^\s*key\s*=\s*(\S+)', keyring or '', re.MULTILINE)
    return found.group(1) if found else None


def _connect_brick(info: _Info, settings: ty.Any, volume: ty.Any,
                   write: bool) -> volume_file.VolumeFile:
    """By os-brick, which makes a device or gives a handle."""
    connector = volume_utils.brick_get_connector(
        info['driver_volume_type'],
        use_multipath=settings.use_multipath_for_image_xfer,
        device_scan_attempts=settings.num_volume_device_scan_tries,
        conn=info)
    device = connector.connect_volume(info['data'])
    with contextlib.ExitStack() as undo:
        undo.callback(connector.disconnect_volume, info['data'], device,
                      force=True)
        path = device['path']
        if not connector.check_valid_device(path, True):
            raise exception.DeviceUnavailable(
                path=path if isinstance(path, str) else None,
                reason=_('it can not be read'))
        return _undone_at_close(undo, _open_device(
            path, info['data'].get('format') or 'raw', settings, volume,
            write))


def _open_device(path: ty.Any, fmt: str, settings: ty.Any, volume: ty.Any,
                 write: bool) -> volume_file.VolumeFile:
    if not isinstance(path, str):
        return handle_file.HandleFile(path, volume.size << 30, write)
    if fmt == 'raw':
        return open_path(path, write)
    # An image of that format, as NFS may hold: what is in it is the volume.
    with utils.temporary_chown(path):
        return native.call(qemu_export.open_image, path, fmt, write,
                           _timeout(settings))


def _undone_at_close(undo: contextlib.ExitStack,
                     file: volume_file.VolumeFile) -> volume_file.VolumeFile:
    file.on_close(undo.pop_all().close)
    return file


def _timeout(settings: ty.Any) -> int:
    # QEMU and libnbd want some limit.
    return settings.safe_get('volume_copy_timeout') or 24 * 3600


def _rbd_timeout(settings: ty.Any) -> int:
    """The operator's own for this backend, if there is one."""
    own = settings.safe_get('rados_connect_timeout')
    return own if own and own > 0 else _timeout(settings)


@contextlib.contextmanager
def stream(driver: ty.Any, context: ty.Any, volume: ty.Any
           ) -> collections.abc.Iterator[io.BufferedReader]:
    """A volume as a file that is read from the beginning to the end.

    :raises: OSError when it is read, rather than less than all of it
    """
    file = driver.open_volume(context, volume, 'rb')
    try:
        opened = check_file(file, driver)
        try:
            yield io.BufferedReader(opened, _READ_AHEAD)
        finally:
            native.call(opened.release)
    finally:
        driver.close_volume(context, file)


def check_file(file: ty.Any, driver: ty.Any) -> volume_file.VolumeFile:
    """What a driver's ``open_volume`` returned, if it is what it should be.

    :raises: VolumeBackendAPIException
    """
    if isinstance(file, volume_file.VolumeFile):
        return file
    raise exception.VolumeBackendAPIException(data=_(
        'open_volume of %(driver)s returned %(type)s, not a VolumeFile') % {
            'driver': type(driver).__name__, 'type': type(file).__name__})


def close(file: ty.Any) -> None:
    """What ``close_volume`` does by default, with whatever it is given."""
    closer: collections.abc.Callable[[], None] | None = getattr(
        file, 'close', None)
    if closer:
        closer()
