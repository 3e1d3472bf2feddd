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
"""tgtd's management socket.

``tgtadm`` takes the passwords of accounts as arguments, which any user of the
host can read, and so does what ``tgt-admin`` runs. What they send is sent from
here: a header of fixed size (``struct tgtadm_req`` in tgt's usr/tgtadm.h, the
same since 1.0.0), and parameters as text. Each request has a connection of its
own. Its answer is a number of ``enum tgtadm_errno``, and a text.
"""

from collections.abc import Mapping
import os
import re
import socket
import struct
from typing import Optional

from cinder.i18n import _
import cinder.privsep

#: mode, operation, driver, length, target, session, unit, connection, host,
#: device type, direction of an account, packed, force
_REQUEST = struct.Struct('<II64sIiQQIIIIII')
_ANSWER = struct.Struct('<II')
_MODES = {'target': 1, 'unit': 2, 'connection': 6, 'account': 7}
_OPERATIONS = {'new': 0, 'delete': 1, 'show': 2, 'bind': 3, 'update': 5}
_NO_UNIT = 2 ** 64 - 1
_TARGET = re.compile(r'^Target (\d+): (\S+)$', re.MULTILINE)
_CONNECTION = re.compile(r'^Session: (\d+)\n +Connection: (\d+)$',
                         re.MULTILINE)
_VALUE = re.compile(r'[!-+\--~]+')
_TIMEOUT_S = 30

NO_TARGET, NO_UNIT, TARGET_EXISTS = 4, 5, 9
UNIT_EXISTS = 11
RULE_EXISTS, ACCOUNT_EXISTS, NO_ACCOUNT, TARGET_ACTIVE, UNIT_ACTIVE = (
    12, 14, 15, 19, 20)
_MEANING = {1: 'unknown error', 2: 'out of memory', NO_TARGET: 'no such '
            'target', NO_UNIT: 'no such logical unit',
            TARGET_EXISTS: 'the target exists', UNIT_EXISTS: 'the logical '
            'unit exists', ACCOUNT_EXISTS: 'the account exists',
            NO_ACCOUNT: 'no such account', 17: 'invalid request',
            TARGET_ACTIVE: 'the target is in use',
            UNIT_ACTIVE: 'the logical unit is in use',
            23: 'unknown parameter', 24: 'no such device'}


class TgtdError(Exception):
    """tgtd refused a request.

    :ivar number: of ``enum tgtadm_errno``
    """

    def __init__(self, request: str, number: int) -> None:
        super().__init__(request, number)
        self.request = request
        self.number = number

    def __str__(self) -> str:
        return 'tgtd, %s: %s' % (self.request, _MEANING.get(
            self.number, 'error %d' % self.number))


def _request(operation: str, mode: str, text: str = '', tid: int = -1,
             lun: int = _NO_UNIT, session: int = 0, connection: int = 0,
             force: bool = False) -> str:
    body = text.encode() + b'\0' if text else b''
    header = _REQUEST.pack(
        _MODES[mode], _OPERATIONS[operation], b'iscsi',
        _REQUEST.size + len(body), tid, session, lun, connection, 0, 0, 0, 0,
        force)
    # As tgtadm finds it.
    path = os.environ.get('TGT_IPC_SOCKET', '/var/run/tgtd/socket') + '.0'
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(_TIMEOUT_S)
        stream.connect(path)
        stream.sendall(header + body)
        with stream.makefile('rb') as answer:
            number, length = _ANSWER.unpack(_read(answer, _ANSWER.size))
            shown = _read(answer, length - _ANSWER.size)
    if number:
        raise TgtdError(f'{operation} {mode}', number)
    # What initiators call themselves may be any bytes.
    return shown.rstrip(b'\0').decode(errors='replace')


def _parameters(values: Mapping[str, str]) -> str:
    """What a request is about, as tgtd reads it.

    :raises ValueError: tgtd would read a value as something else
    """
    for name, value in values.items():
        if not _VALUE.fullmatch(value):
            raise ValueError(_('tgtd can not take this %s') % name)
    return ','.join(f'{name}={value}' for name, value in values.items())


def _read(stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionError(_('tgtd ended in mid-answer'))
    return data


@cinder.privsep.sys_admin_pctxt.entrypoint
def show_targets() -> str:
    """:raises OSError, TgtdError: as all of these do"""
    shown = _request('show', 'target')
    _tids(shown)
    return shown


@cinder.privsep.sys_admin_pctxt.entrypoint
def tids() -> dict[str, int]:
    """The numbers that tgtd has for its targets now, by their names.

    :raises ValueError: initiators have seen to it that these can not be told
    """
    return _tids(_request('show', 'target'))


def _tids(shown: str) -> dict[str, int]:
    found = _TARGET.findall(shown)
    # tgtd prints what initiators call themselves as it came, line feeds too.
    for each in zip(*found):
        if len(set(each)) < len(each):
            raise ValueError(_('tgtd shows a target twice, or an initiator '
                               'pretends that it does'))
    return {iqn: int(tid) for tid, iqn in found}


@cinder.privsep.sys_admin_pctxt.entrypoint
def add_target(tid: int, iqn: str) -> None:
    """Nobody is let in yet."""
    _request('new', 'target', _parameters({'targetname': iqn}), tid=tid)


@cinder.privsep.sys_admin_pctxt.entrypoint
def remove_target(tid: int, force: bool = False) -> None:
    """:param force: even though initiators are logged in"""
    _request('delete', 'target', tid=tid, force=force)


@cinder.privsep.sys_admin_pctxt.entrypoint
def add_account(user: str, password: str) -> None:
    _request('new', 'account', _parameters({
        'user': user, 'password': password}))


@cinder.privsep.sys_admin_pctxt.entrypoint
def remove_account(user: str) -> None:
    """Also from the targets it is bound to."""
    _request('delete', 'account', _parameters({'user': user}))


@cinder.privsep.sys_admin_pctxt.entrypoint
def bind_account(tid: int, user: str) -> None:
    _request('bind', 'account', _parameters({'user': user}), tid=tid)


@cinder.privsep.sys_admin_pctxt.entrypoint
def admit(tid: int, initiator: str) -> None:
    """Let one initiator in, by its name."""
    _request('bind', 'target', _parameters({
        'initiator-name': initiator}), tid=tid)


@cinder.privsep.sys_admin_pctxt.entrypoint
def add_unit(tid: int, lun: int, path: str, identity: str,
             flags: Optional[str] = None) -> None:
    """:param flags: how the path is opened, such as ``direct``"""
    how = {'bsoflags': flags} if flags else {}
    _request('new', 'unit', _parameters({
        'path': path, 'bstype': 'rdwr', **how}), tid=tid, lun=lun)
    _update(tid, lun, {'scsi_sn': identity, 'scsi_id': identity})


@cinder.privsep.sys_admin_pctxt.entrypoint
def remove_unit(tid: int, lun: int) -> None:
    _request('delete', 'unit', tid=tid, lun=lun)


@cinder.privsep.sys_admin_pctxt.entrypoint
def resize_unit(tid: int, lun: int, path: str) -> None:
    """Have the size of what is at the path read again.

    tgtd closes the old file although it has writes to do there, and says that
    they succeeded. So nobody may be connected: initiators come back after
    that, and send again what was not answered.
    """
    _state(tid, 'offline')
    try:
        for session, connection in _CONNECTION.findall(
                _request('show', 'connection', tid=tid)):
            _request('delete', 'connection', tid=tid, session=int(session),
                     connection=int(connection))
        for name, value in (('online', '0'), ('path', path),
                            ('online', '1')):
            _update(tid, lun, {name: value})
    finally:
        _state(tid, 'ready')


@cinder.privsep.sys_admin_pctxt.entrypoint
def connections(tid: int) -> int:
    """How many connections initiators have to a target."""
    return len(_CONNECTION.findall(_request('show', 'connection', tid=tid)))


def _state(tid: int, state: str) -> None:
    _request('update', 'target', f'state={state}', tid=tid)


def _update(tid: int, lun: int, values: Mapping[str, str]) -> None:
    _request('update', 'unit', f'targetOps {_parameters(values)},', tid=tid,
             lun=lun)
