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


"""Volumes that QEMU opens: iSCSI LUNs by its own initiator, and image files.

A child, qemu-storage-daemon, opens the volume and exports it by NBD to this
process alone. So the host needs no SCSI device and no root for an iSCSI
volume, and an image is read and written as its guest would.

The child inherits the server's socket, to which this process is connected
before the child starts, and whose name in the file system is gone by then. So
nobody else can connect, and the child's end shows as the end of the
connection.
"""

import contextlib
import dataclasses
import ipaddress
import os
import re
import socket
import stat
import tempfile
import time
import typing as ty

from oslo_log import log as logging
from oslo_serialization import jsonutils

from cinder import exception
from cinder.i18n import _
from cinder.image import format_inspector
from cinder.volume.copier import nbd_file
from cinder.volume.copier import qemu_child

LOG = logging.getLogger(__name__)

_DAEMON = 'qemu-storage-daemon'
_NODE = 'volume'
#: Seconds that the daemon has to log out and exit, once its export is unused.
_GRACE = 5.0
#: Seconds until an exiting daemon has exited.
_EXIT = 2.0

#: RFC 7143 section 4.2.7: iqn., eui. and naa. names of at most 223 bytes.
#: Upper case and underscores are not allowed there, but are in use.
_NAME = re.compile(r'(?:iqn|eui|naa)\.[A-Za-z0-9._:-]+')
_NAME_BYTES = 223
_HOSTNAME = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?')
#: libiscsi writes larger LUNs in a form that targets read as another LUN.
_MAX_LUN = 255
_Node: ty.TypeAlias = dict[str, ty.Any]


ExportFailed = qemu_child.Failed


class InvalidISCSIConnection(exception.Invalid):
    message = _('The connection_info of an iSCSI volume has no valid %(key)s: '
                '%(reason)s')


@dataclasses.dataclass(frozen=True)
class Path:
    """One way to an iSCSI volume.

    :ivar portal: as QEMU takes it, an IPv6 address in brackets
    """

    portal: str
    iqn: str
    lun: int

    def __str__(self) -> str:
        return f'LUN {self.lun} of {self.iqn} at {self.portal}'


def open_iscsi(connection_properties: dict[str, ty.Any],
               initiator_iqn: str | None, writable: bool, timeout: float,
               passphrase: str | None = None) -> nbd_file.NBDFile:
    """Log in to an iSCSI target and open a LUN.

    Needs no privileges. The first path that works is used; each gets its
    share of the time that is left.

    :param connection_properties: the ``data`` of an iSCSI connection_info
    :param initiator_iqn: the name to log in as; None leaves it to QEMU
    :param timeout: seconds in all
    :param passphrase: the LUN holds LUKS 1 with this passphrase; what is
        opened is the plain text. As for the encryption providers, that is the
        key in hexadecimal
    :raises: InvalidISCSIConnection naming the key, never with a password;
        ExportFailed saying what was wrong with each path; NBDModuleMissing
    """
    paths = _paths(connection_properties)
    chap = _chap(connection_properties)
    if initiator_iqn is not None:
        _iscsi_name('initiator', initiator_iqn)
    deadline = time.monotonic() + timeout
    failures = []
    for tried, path in enumerate(paths):
        left = deadline - time.monotonic()
        share = left / (len(paths) - tried)
        try:
            return _open_path(path, chap, initiator_iqn, writable, share,
                              passphrase)
        except ExportFailed as error:
            LOG.warning('%s', error.msg)
            failures.append(f'{path.portal}: {error.kwargs["reason"]}')
    first = paths[0]
    raise ExportFailed(name=f'LUN {first.lun} of {first.iqn}',
                       reason='; '.join(failures))


def open_image(path: str, fmt: str, writable: bool, timeout: float,
               backing: bool = False, passphrase: str | None = None
               ) -> nbd_file.NBDFile:
    """Open what an image file, or a block device, is for its guest.

    The service's own user opens it. If only root may, make a privileged
    helper change its owner for the time, as cinder.utils.temporary_chown does.

    :param fmt: 'qcow2', 'raw' or 'luks', which is LUKS 1
    :param timeout: seconds
    :param backing: a qcow2 image may name a backing file, which is then read
        with the service's rights. What the guest wrote must not get there
    :param passphrase: of the 'luks' format; see :func:`open_iscsi`
    :raises: ExportFailed; NBDModuleMissing
    """
    if fmt not in ('qcow2', 'raw', 'luks'):
        raise ExportFailed(name=path, reason=_('unknown format %r') % (fmt,))
    if (fmt == 'luks') != (passphrase is not None):
        raise ExportFailed(name=path, reason=_(
            'a passphrase and the format luks go together'))
    try:
        if fmt == 'qcow2':
            _check_qcow2(path, backing)
        device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError as error:
        raise ExportFailed(name=path, reason=error.strerror)
    node: _Node = {'driver': 'host_device' if device else 'file',
                   'filename': path}
    secrets: qemu_child.Secrets = {}
    if passphrase is not None:
        node = _luks_node(node)
        secrets['luks'] = passphrase
    else:
        node = {'driver': fmt, 'file': node}
    return _open(node, secrets, path, writable, timeout)


def _check_qcow2(path: str, backing: bool) -> None:
    try:
        header = format_inspector.QcowInspector.from_file(path)
    except format_inspector.ImageFormatError as error:
        raise ExportFailed(name=path, reason=error)
    if header.has_data_file or (header.has_backing_file and not backing):
        raise ExportFailed(name=path, reason=_('it names another file'))


def _luks_node(lower: _Node) -> _Node:
    return {'driver': 'luks', 'key-secret': 'luks', 'file': lower}


def _open_path(path: Path, chap: tuple[str, str] | None,
               initiator_iqn: str | None, writable: bool, timeout: float,
               passphrase: str | None) -> nbd_file.NBDFile:
    node: _Node = {
        'driver': 'iscsi', 'transport': 'tcp', 'portal': path.portal,
        'target': path.iqn, 'lun': path.lun,
        # Else QEMU remembers which blocks are not allocated, and does not
        # see when somebody else writes to them.
        'cache': {'direct': True}}
    secrets: qemu_child.Secrets = {}
    if initiator_iqn is not None:
        node['initiator-name'] = initiator_iqn
    if chap:
        node['user'], secrets['chap'] = chap
        node['password-secret'] = 'chap'
    if passphrase is not None:
        node = _luks_node(node)
        secrets['luks'] = passphrase
    volume = _open(node, secrets, str(path), writable, timeout)
    # A LUN that the target does not serve as a disk can pass the login.
    if not volume.size:
        volume.close()
        raise ExportFailed(name=str(path), reason=_('it has no size'))
    if passphrase is None:
        volume.qemu = node, secrets
    return volume


# The daemon

def _open(node: _Node, secrets: qemu_child.Secrets, name: str, writable: bool,
          timeout: float) -> nbd_file.NBDFile:
    """Open a node in a daemon of its own."""
    nbd_file.load_nbd()
    deadline = time.monotonic() + timeout
    node = _opened(node, writable) | {'node-name': _NODE}
    with contextlib.ExitStack() as stack:
        listener, client = _connected_pair()
        stack.enter_context(client)
        with listener:
            daemon = _Daemon(node, secrets, listener, name, writable)
        stack.callback(daemon.kill)
        _await_server(client, daemon, deadline, timeout)
        try:
            volume = nbd_file.connect(
                client, name, writable, max(1, deadline - time.monotonic()),
                daemon.end)
        except OSError as error:
            raise daemon.failure(str(error))
        stack.pop_all()
        return volume


def _opened(node: _Node, writable: bool) -> _Node:
    """Add to a node, and to all below it, how it is to be opened."""
    node = node | {'read-only': not writable, 'discard': 'unmap'}
    if 'file' in node:
        node['file'] = _opened(node['file'], writable)
    return node


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and the only one that will ever connect to it."""
    listener = socket.socket(socket.AF_UNIX)
    client = socket.socket(socket.AF_UNIX)
    try:
        # Only this user may enter the folder, which is gone at once.
        with tempfile.TemporaryDirectory(prefix='cinder-nbd-') as folder:
            address = os.path.join(folder, 'socket')
            listener.bind(address)
            listener.listen(1)
            client.connect(address)
    except BaseException:
        listener.close()
        client.close()
        raise
    return listener, client


def _await_server(client: socket.socket, daemon: '_Daemon', deadline: float,
                  timeout: float) -> None:
    """Wait until the daemon has opened the volume, or ends.

    It greets the client when all of its command line has been done.
    """
    client.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        greeted = client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        raise daemon.failure(_('no answer within %.3g seconds') % timeout)
    except OSError:
        greeted = b''
    if not greeted:
        daemon.await_exit(_EXIT)
        raise daemon.failure(_('%s gave no reason') % _DAEMON)


class _Daemon(qemu_child.Child):
    """A running qemu-storage-daemon."""

    def __init__(self, node: _Node, secrets: qemu_child.Secrets,
                 listener: socket.socket, name: str, writable: bool) -> None:
        super().__init__(_DAEMON, name, secrets, _export(
            node, writable, listener.fileno()), [listener.fileno()])

    def failure(self, otherwise: str) -> ExportFailed:
        """What to raise: QEMU's own reason, if it gave one."""
        reason = self.reason()
        if self.process.returncode is None and reason:
            otherwise, reason = f'{otherwise} ({reason})', ''
        return ExportFailed(name=self.name, reason=reason or otherwise)

    def end(self) -> None:
        """End the daemon, which closes an image and logs out of a target."""
        if self.process.poll() is None:
            self.process.terminate()
            self.await_exit(_GRACE)
        self.kill()


def _export(node: _Node, writable: bool, listener: int) -> list[str]:
    export = {'type': 'nbd', 'id': 'export', 'node-name': _NODE, 'name': '',
              'writable': writable}
    return ['--blockdev', jsonutils.dumps(node),
            '--nbd-server', f'addr.type=fd,addr.str={listener}',
            '--export', jsonutils.dumps(export)]


# What Cinder says about an iSCSI volume, checked

def _paths(data: dict[str, ty.Any]) -> list[Path]:
    """All paths, in Cinder's order.

    The plural keys are used if they are there. A singular one stands in for
    a plural one that is missing.
    """
    columns = [_column(data, key)
               for key in ('target_portal', 'target_iqn', 'target_lun')]
    count = max(map(len, columns))
    for column in columns:
        if len(column) != count:
            raise _invalid(column[0][0], _(
                '%(got)d values for %(count)d paths') %
                {'got': len(column), 'count': count})
    return [Path(_portal(*portal), _iscsi_name(*iqn), _lun(*lun))
            for portal, iqn, lun in zip(*columns)]


def _invalid(key: str, reason: str) -> InvalidISCSIConnection:
    return InvalidISCSIConnection(key=key, reason=reason)


def _column(data: dict[str, ty.Any], key: str) -> list[tuple[str, ty.Any]]:
    """The value of `key` for each path, with the key that it came from."""
    plural = key + 's'
    if data.get(plural) is not None:
        values = data[plural]
        if not isinstance(values, list | tuple) or not values:
            raise _invalid(plural, _('not a list of at least one value'))
        return [(plural, value) for value in values]
    if data.get(key) is None:
        raise _invalid(key, _('missing'))
    # Cinder may name several portals of one target.
    portals = data.get('target_portals')
    repeat = len(portals) if isinstance(portals, list | tuple) else 1
    return [(key, data[key])] * repeat


def _portal(key: str, value: ty.Any) -> str:
    match = isinstance(value, str) and re.fullmatch(
        r'(?:\[(?P<v6>[^][%]*)\]|(?P<host>[^][:]+)):(?P<port>[0-9]{1,5})',
        value)
    if not match:
        raise _invalid(key, _('%r is not ADDRESS:PORT (an IPv6 address goes '
                              'in brackets)') % (value,))
    port = int(match['port'])
    if not 0 < port < 65536:
        raise _invalid(key, _('%r has no valid port') % value)
    if match['v6'] is None:
        if not _HOSTNAME.fullmatch(match['host']):
            raise _invalid(key, _('%r has no valid address') % value)
        return f'{match["host"]}:{port}'
    try:
        return f'[{ipaddress.IPv6Address(match["v6"])}]:{port}'
    except ValueError:
        raise _invalid(key, _('%r has no valid IPv6 address') % value)


def _iscsi_name(key: str, value: ty.Any) -> str:
    if (not isinstance(value, str) or len(value) > _NAME_BYTES or
            not _NAME.fullmatch(value)):
        raise _invalid(key, _('%r is not an iSCSI name') % (value,))
    return value


def _lun(key: str, value: ty.Any) -> int:
    digits = value if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not re.fullmatch(r'[0-9]{1,5}', digits):
        raise _invalid(key, _('%r is not a LUN') % (value,))
    if int(digits) > _MAX_LUN:
        raise _invalid(key, _('%(lun)s is above %(max)d, the largest that '
                              'QEMU\'s initiator addresses') %
                       {'lun': digits, 'max': _MAX_LUN})
    return int(digits)


def _chap(data: dict[str, ty.Any]) -> tuple[str, str] | None:
    """User and password."""
    key = 'auth_method'
    method = data.get(key)
    if not method:
        if data.get('auth_password'):
            raise _invalid(key, _('missing, and there is a password'))
        return None
    if method != 'CHAP':
        raise _invalid(key, _('%r is not CHAP') % (method,))
    return (_credential(data, 'auth_username'),
            _credential(data, 'auth_password'))


def _credential(data: dict[str, ty.Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise _invalid(key, _('missing or empty'))
    if not value.isprintable():
        raise _invalid(key, _('has characters that do not print'))
    if len(value.encode()) > qemu_child.SECRET_BYTES:
        raise _invalid(key, _('too long'))
    return value
