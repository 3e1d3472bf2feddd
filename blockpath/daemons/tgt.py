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
"""A client of tgtd's management socket.

tgtadm takes CHAP passwords on its command line, where every process of the
machine can read them. So what it would send is sent from here: a fixed header
(``struct tgtadm_req`` of tgt 1.0.x, usr/tgtadm.h), then parameters as text.
Each request is a connection of its own, and is answered by an error number
and the length of the text that follows.
"""

import dataclasses
import pathlib
import re
import socket
import struct

from blockpath.machine import errors

#: mode, op, driver, length, tid, sid, lun, cid, host, device type,
#: account direction, pack, force
_REQUEST = struct.Struct('<II64sIiQQIIIIII')
_ANSWER = struct.Struct('<II')
_MODES = {'system': 0, 'target': 1, 'unit': 2, 'portal': 3, 'connection': 6,
          'account': 7}
_OPS = {'new': 0, 'delete': 1, 'show': 2, 'bind': 3, 'unbind': 4,
        'update': 5}
_NO_LUN = 2 ** 64 - 1
_TIMEOUT = 10.0


class TgtError(errors.LabError):
    """tgtd refused a request.

    :ivar number: its ``enum tgtadm_errno``.
    """

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f'tgtd: {what}: '
                         f'{_ERRORS.get(number, f"error {number}")}')
        self.number = number


#: As usr/tgtadm_error.h counts them.
_ERRORS = dict(enumerate((
    'success', 'unknown error', 'out of memory', 'no such driver',
    'no such target', 'no such logical unit', 'no such session',
    'no such connection', 'no such binding', 'the target exists already',
    'the binding exists already', 'the logical unit exists already',
    'the access rule exists already', 'no such access rule',
    'the account exists already', 'no such account',
    'there are too many accounts', 'invalid request',
    'it has an outgoing account', 'the target is active',
    'the logical unit is active', 'the device is busy', 'unsupported',
    'unknown parameter', 'no such device')))
NO_TARGET = 4


@dataclasses.dataclass
class Session:
    """An initiator that is logged in."""

    sid: int
    initiator: str
    addresses: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Target:
    """A target as tgtd has it.

    :ivar units: LUN -> backing file, without LUN 0, tgtd's own.
    """

    tid: int
    iqn: str
    units: dict[int, str] = dataclasses.field(default_factory=dict)
    sessions: list[Session] = dataclasses.field(default_factory=list)
    accounts: list[str] = dataclasses.field(default_factory=list)
    acl: list[str] = dataclasses.field(default_factory=list)


def parse_targets(text: str) -> list[Target]:
    """Read what tgtd shows of its targets."""
    targets: list[Target] = []
    section, lun = '', 0
    for line in text.splitlines():
        if match := re.match(r'Target (\d+): (\S+)', line):
            targets.append(Target(int(match[1]), match[2]))
        elif match := re.match(r' {4}(\S.*):$', line):
            section = match[1]
        elif match := re.match(r' {8}I_T nexus: (\d+)', line):
            targets[-1].sessions.append(Session(int(match[1]), ''))
        elif match := re.match(r' +Initiator: (\S+)', line):
            targets[-1].sessions[-1].initiator = match[1]
        elif match := re.match(r' +IP Address: (\S+)', line):
            targets[-1].sessions[-1].addresses.append(match[1])
        elif match := re.match(r' {8}LUN: (\d+)', line):
            lun = int(match[1])
        elif match := re.match(r' +Backing store path: (\S.*)', line):
            if lun:
                targets[-1].units[lun] = match[1]
        elif section == 'Account information' and line.startswith(' ' * 8):
            targets[-1].accounts.append(line.split()[0])
        elif section == 'ACL information' and line.startswith(' ' * 8):
            targets[-1].acl.append(line.strip())
    return targets


class Client:
    """Requests to one tgtd.

    :param path: of its management socket, socket.0 in its /run/tgtd.
    :raises TgtError: from any method, when tgtd refuses.
    :raises OSError: from any method, when tgtd is not there.
    """

    def __init__(self, path: pathlib.Path | str) -> None:
        self.path = str(path)

    def _request(self, op: str, mode: str, text: str = '', tid: int = -1,
                 lun: int = _NO_LUN) -> str:
        body = text.encode() + b'\0' if text else b''
        header = _REQUEST.pack(
            _MODES[mode], _OPS[op], b'iscsi', _REQUEST.size + len(body), tid,
            0, lun, 0, 0, 0, 0, 0, 0)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(self.path)
            connection.sendall(header + body)
            with connection.makefile('rb') as answer:
                number, length = _ANSWER.unpack(answer.read(_ANSWER.size))
                shown = answer.read(length - _ANSWER.size)
        if number:
            raise TgtError(f'{op} {mode}', number)
        return shown.rstrip(b'\0').decode()

    def show(self) -> list[Target]:
        return parse_targets(self._request('show', 'target'))

    def accounts(self) -> list[str]:
        """Names of the accounts, which all targets share."""
        lines = self._request('show', 'account').splitlines()
        return [line.strip() for line in lines if line.startswith(' ')]

    def portals(self) -> list[str]:
        lines = self._request('show', 'portal').splitlines()
        return [line.split()[-1].partition(',')[0]
                for line in lines if line.startswith('Portal:')]

    def add_target(self, tid: int, iqn: str) -> None:
        self._request('new', 'target', f'targetname={iqn}', tid=tid)

    def allow(self, tid: int, initiator: str) -> None:
        """Let an initiator in, by its name."""
        self._request('bind', 'target', f'initiator-name={initiator}',
                      tid=tid)

    def add_account(self, user: str, password: str) -> None:
        self._request('new', 'account', f'user={user},password={password}')

    def remove_account(self, user: str) -> None:
        """Also from the targets that it is bound to."""
        self._request('delete', 'account', f'user={user}')

    def bind_account(self, tid: int, user: str) -> None:
        self._request('bind', 'account', f'user={user}', tid=tid)

    def add_unit(self, tid: int, lun: int, path: str, serial: str) -> None:
        """Map a file.

        :param serial: names the volume to initiators, the same on every
            target that it is mapped to.
        """
        self._request('new', 'unit', f'path={path},bstype=rdwr', tid=tid,
                      lun=lun)
        self._update(tid, lun, f'scsi_sn={serial},scsi_id={serial}')

    def resize_unit(self, tid: int, lun: int, path: str) -> None:
        """Have the size of a mapped file read again."""
        for change in ('online=0', f'path={path}', 'online=1'):
            self._update(tid, lun, change)

    def _update(self, tid: int, lun: int, change: str) -> None:
        self._request('update', 'unit', f'targetOps {change},', tid=tid,
                      lun=lun)

    def add_portal(self, portal: str) -> None:
        self._request('new', 'portal', f'portalOps portal={portal},')

    def remove_portal(self, portal: str) -> None:
        self._request('delete', 'portal', f'portalOps portal={portal},')
