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

"""What Cinder says about the paths to an iSCSI volume, checked.

QEMU is given these values in XML, in URIs and as JSON, by way of libvirt, and
neither says much about a value that it does not like. So each is checked here
before anything is connected, and an error names the key.
"""

import dataclasses
import ipaddress
import re
import typing as ty

from nova import exception
from nova.i18n import _

#: RFC 7143 section 4.2.7: iqn., eui. and naa. names of at most 223 bytes.
#: Upper case and underscores are not allowed there, but are in use.
_NAME = re.compile(r'(?:iqn|eui|naa)\.[A-Za-z0-9._:-]+')
_NAME_BYTES = 223
_HOSTNAME = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?')
#: libiscsi writes larger LUNs in a form that targets read as another LUN.
_MAX_LUN = 255


@dataclasses.dataclass(frozen=True)
class Path:
    """One way to the volume: a LUN of a target behind a portal."""

    #: Address or name, an IPv6 address without brackets.
    host: str
    port: int
    iqn: str
    lun: int

    @property
    def portal(self) -> str:
        """The portal as QEMU takes it, an IPv6 address in brackets."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'


@dataclasses.dataclass(frozen=True)
class CHAP:
    """Credentials; the password shows in no repr."""

    username: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Connection:
    """All paths to a volume, in Cinder's order, and what all of them take."""

    paths: tuple[Path, ...]
    chap: CHAP | None


def parse(data: dict[str, ty.Any]) -> Connection:
    """Check the ``data`` of an iSCSI connection_info.

    The plural keys are used if any is there, else the singular ones. A
    singular key stands in for a plural one that is missing.

    :param data: as Cinder returned it, ``target_portal`` and so on
    :raises: InvalidISCSIConnection naming the key; never with a password
    """
    columns = [_column(data, key)
               for key in ('target_portal', 'target_iqn', 'target_lun')]
    count = max(map(len, columns))
    for column in columns:
        if len(column) != count:
            raise _invalid(column[0][0], _(
                '%(got)d values for %(count)d paths') %
                {'got': len(column), 'count': count})
    paths = tuple(_path(*row) for row in zip(*columns))
    return Connection(paths, _chap(data))


def _invalid(key: str, reason: str) -> exception.InvalidISCSIConnection:
    return exception.InvalidISCSIConnection(key=key, reason=reason)


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


def _path(portal: tuple[str, ty.Any], iqn: tuple[str, ty.Any],
          lun: tuple[str, ty.Any]) -> Path:
    host, port = _host_and_port(*portal)
    return Path(host=host, port=port, iqn=_name(*iqn), lun=_lun(*lun))


def _host_and_port(key: str, value: ty.Any) -> tuple[str, int]:
    if not isinstance(value, str):
        raise _invalid(key, _('not a string'))
    # An IPv6 scope, %eth0, is the storage's own and may be any text.
    match = re.fullmatch(r'\[(?P<v6>[^][%]*)\]:(?P<port6>[0-9]{1,5})|'
                         r'(?P<host>[^][:]+):(?P<port>[0-9]{1,5})', value)
    if not match:
        raise _invalid(key, _(
            '%r is not ADDRESS:PORT (an IPv6 address goes in brackets)') %
            value)
    port = int(match['port'] or match['port6'])
    if not 0 < port < 65536:
        raise _invalid(key, _('%r has no valid port') % value)
    if match['v6'] is not None:
        try:
            return str(ipaddress.IPv6Address(match['v6'])), port
        except ValueError:
            raise _invalid(key, _('%r has no valid IPv6 address') % value)
    if not _HOSTNAME.fullmatch(match['host']):
        raise _invalid(key, _('%r has no valid address') % value)
    return match['host'], port


def _name(key: str, value: ty.Any) -> str:
    if (not isinstance(value, str) or len(value) > _NAME_BYTES or
            not _NAME.fullmatch(value)):
        raise _invalid(key, _('%r is not an iSCSI name') % (value,))
    return value


def _lun(key: str, value: ty.Any) -> int:
    digits = value if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not re.fullmatch(r'[0-9]{1,5}', digits):
        raise _invalid(key, _('%r is not a LUN') % (value,))
    lun = int(digits)
    if lun > _MAX_LUN:
        raise _invalid(key, _('%(lun)d is above %(max)d, the largest that '
                              'QEMU\'s initiator addresses') %
                       {'lun': lun, 'max': _MAX_LUN})
    return lun


def _chap(data: dict[str, ty.Any]) -> CHAP | None:
    key = 'auth_method'
    method = data.get(key)
    if not method:
        if data.get('auth_password'):
            raise _invalid(key, _('missing, and there is a password'))
        return None
    if method != 'CHAP':
        raise _invalid(key, _('%r is not CHAP') % (method,))
    return CHAP(_credential(data, 'auth_username'),
                _credential(data, 'auth_password'))


def _credential(data: dict[str, ty.Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise _invalid(key, _('missing or empty'))
    if not value.isprintable():
        raise _invalid(key, _('has characters that do not print'))
    return value
