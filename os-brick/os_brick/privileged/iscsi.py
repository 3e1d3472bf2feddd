#
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

"""The records of open-iscsi's database, written without its command line.

``iscsiadm --op update`` takes a value as an argument, which any user of the
host can read while it runs. A record is a file of ``name = value`` lines.
"""

import glob
import os
import re
import typing as ty

from oslo_config import cfg

import os_brick.privileged

_END = '# END RECORD'
_DEFAULT_PORT = '3260'
_SETTING = re.compile(
    r'(node\.session|discovery\.sendtargets)\.auth\.[a-z]+(_in)?')
_SESSIONS = '/sys/class/iscsi_session'

#: What is empty is removed.
Settings = ty.Mapping[str, str]


@os_brick.privileged.default.entrypoint
def update_node(target: str, portal: str, settings: Settings) -> bool:
    """Set credentials in the records of a target at a portal, of all ifaces.

    :param portal: as iscsiadm takes it: address and port.
    :returns: whether there is any
    :raises: OSError, ValueError
    """
    # With no portal group tag known, a portal has one record, a file. Else it
    # has a folder, with a file for each iface.
    return _update_all(settings, (
        path for root in _roots() for path in _found(
            os.path.join(root, 'nodes', _part(target), _address(portal)))))


@os_brick.privileged.default.entrypoint
def update_discovery(portal: str, settings: Settings) -> bool:
    """Set credentials in the record of SendTargets discoveries at a portal.

    :returns: whether there is one
    :raises: OSError, ValueError
    """
    return _update_all(settings, (
        os.path.join(root, 'send_targets', _address(portal), 'st_config')
        for root in _roots()))


@os_brick.privileged.default.entrypoint
def session_has(session: str, values: Settings) -> bool:
    """Whether a session was made with these values.

    :param values: by the kernel's names, such as username
    """
    folder = os.path.join(_SESSIONS, _part(f'session{session}'))
    for name, value in values.items():
        try:
            with open(os.path.join(folder, _part(name)),
                      errors='surrogateescape') as file:
                found = file.read().removesuffix('\n')
        except OSError:
            continue  # a transport that does not tell
        if ('' if found == '(null)' else found) != value:
            return False
    return True


def _roots() -> list[str]:
    return cfg.CONF.os_brick.iscsi_databases


def _part(name: str) -> str:
    """A part of a path, which is that and no more.

    :raises: ValueError
    """
    if name in ('', '.', '..') or set(name) & set('/\0'):
        raise ValueError(f'{name!r} is no name of a file')
    return name


def _found(path: str) -> list[str]:
    path = glob.escape(path)
    return glob.glob(path) + glob.glob(f'{path},*/*')


def _address(portal: str) -> str:
    """``[::1]:3260`` or ``[::1]:3260,1`` as files are named: ``::1,3260``."""
    host, colon, port = portal.partition(',')[0].rpartition(':')
    if not colon or port.endswith(']'):
        host, port = portal, _DEFAULT_PORT
    return _part(f'{host.strip("[]")},{port}')


def _update_all(settings: Settings, paths: ty.Iterable[str]) -> bool:
    for name, value in settings.items():
        if not _SETTING.fullmatch(name) or not (
                value.isprintable() or not value):
            raise ValueError(f'{name} can not be set so')
    found = [path for path in paths if os.path.isfile(path)]
    for path in found:
        _update(path, settings)
    return bool(found)


def _update(path: str, settings: Settings) -> None:
    # iscsiadm's folders are such that making a file there, or its lock, needs
    # a capability (to override their mode) that this context does not have.
    # So the record is written in place, by one call, and not made shorter: who
    # reads it meanwhile sees the old one or the new one.
    with open(path, 'r+b', buffering=0) as file:
        old = file.read()
        new = _with(old.decode(errors='surrogateescape').split('\n'),
                    settings).encode(errors='surrogateescape')
        if new.rstrip(b'\n') == old.rstrip(b'\n'):
            return
        data = new.ljust(len(old), b'\n')
        if os.pwrite(file.fileno(), data, 0) != len(data):
            raise OSError(f'{path} could not be written')
        os.fsync(file.fileno())


def _with(lines: list[str], settings: Settings) -> str:
    """The record with these settings, where they were or at its end."""
    left = {name: value for name, value in settings.items() if value}
    result = []
    for line in lines:
        name = line.partition(' = ')[0]
        if name not in settings:
            if line == _END:
                result += [f'{name} = {left[name]}' for name in left]
                left = {}
            result.append(line)
        elif name in left:
            result.append(f'{name} = {left.pop(name)}')
    return '\n'.join(result)
