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

"""Ask iSCSI LUNs who they are; a program of its own, without the rest of Nova.

libiscsi, which QEMU's initiator is made of, can not be stopped while it waits
for a portal, so it is used in a process that can. That one reads what to ask
from its standard input, for the sake of the passwords::

    {"deadline": SECONDS, "targets": [
        {"portal": ADDRESS:PORT, "iqn": NAME, "initiator": NAME,
         "luns": [NUMBER, ...], "username": NAME, "password": PASSWORD}, ...]}

The last two may be missing. After that time at the latest it writes a list for
each target. In that, for each LUN, is what iscsi_identity makes names of, or
why there is nothing::

    {"serial": HEX or null, "designators": [[ASSOCIATION, TYPE, HEX], ...]}
    {"error": REASON}
"""

import concurrent.futures
import ctypes
import ctypes.util
import json
import os
import sys

#: Pages of vital product data, SPC-4 7.8.
_SERIAL, _DESIGNATORS = 0x80, 0x83
_SESSION_NORMAL = 2
_ANSWER_BYTES = 4096
_AT_ONCE = 16


class _Task(ctypes.Structure):
    """The begin of ``struct scsi_task``."""

    _fields_ = [('status', ctypes.c_int)]


class _Serial(ctypes.Structure):
    _fields_ = [('qualifier', ctypes.c_int), ('device_type', ctypes.c_int),
                ('page', ctypes.c_int), ('serial', ctypes.c_char_p)]


class _Designator(ctypes.Structure):
    pass


_Designator._fields_ = [
    ('next', ctypes.POINTER(_Designator)), ('protocol', ctypes.c_int),
    ('code_set', ctypes.c_int), ('has_protocol', ctypes.c_int),
    ('association', ctypes.c_int), ('type', ctypes.c_int),
    ('length', ctypes.c_int), ('value', ctypes.POINTER(ctypes.c_ubyte))]


class _Designators(ctypes.Structure):
    _fields_ = [('qualifier', ctypes.c_int), ('device_type', ctypes.c_int),
                ('page', ctypes.c_int),
                ('first', ctypes.POINTER(_Designator))]


def _library():
    name = ctypes.util.find_library('iscsi')
    if not name:
        raise OSError('libiscsi is not installed')
    found = ctypes.CDLL(name)
    for function, result, arguments in (
            ('iscsi_create_context', ctypes.c_void_p, [ctypes.c_char_p]),
            ('iscsi_destroy_context', ctypes.c_int, [ctypes.c_void_p]),
            ('iscsi_get_error', ctypes.c_char_p, [ctypes.c_void_p]),
            ('iscsi_set_targetname', ctypes.c_int,
             [ctypes.c_void_p, ctypes.c_char_p]),
            ('iscsi_set_session_type', ctypes.c_int,
             [ctypes.c_void_p, ctypes.c_int]),
            ('iscsi_set_initiator_username_pwd', ctypes.c_int,
             [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]),
            ('iscsi_set_noautoreconnect', None,
             [ctypes.c_void_p, ctypes.c_int]),
            ('iscsi_connect_sync', ctypes.c_int,
             [ctypes.c_void_p, ctypes.c_char_p]),
            ('iscsi_login_sync', ctypes.c_int, [ctypes.c_void_p]),
            ('iscsi_logout_sync', ctypes.c_int, [ctypes.c_void_p]),
            ('iscsi_inquiry_sync', ctypes.POINTER(_Task),
             [ctypes.c_void_p] + 4 * [ctypes.c_int]),
            ('scsi_datain_unmarshall', ctypes.c_void_p,
             [ctypes.POINTER(_Task)]),
            ('scsi_free_scsi_task', None, [ctypes.POINTER(_Task)])):
        entry = getattr(found, function)
        entry.restype, entry.argtypes = result, arguments
    return found


class _Session:
    """A login at one target.

    :raises OSError: with libiscsi's reason, from any method
    """

    def __init__(self, library, initiator):
        self._library = library
        self._context = library.iscsi_create_context(initiator.encode())
        if not self._context:
            raise OSError('libiscsi gave no context')

    def login(self, target):
        call = self._call
        call('iscsi_set_targetname', target['iqn'].encode())
        call('iscsi_set_session_type', _SESSION_NORMAL)
        self._library.iscsi_set_noautoreconnect(self._context, 1)
        if 'password' in target:
            call('iscsi_set_initiator_username_pwd',
                 target['username'].encode(), target['password'].encode())
        call('iscsi_connect_sync', target['portal'].encode())
        call('iscsi_login_sync')

    def logout(self):
        self._library.iscsi_logout_sync(self._context)

    def close(self):
        self._library.iscsi_destroy_context(self._context)

    def _call(self, function, *args):
        if getattr(self._library, function)(self._context, *args):
            raise self._error()

    def _error(self):
        reason = self._library.iscsi_get_error(self._context) or b''
        return OSError(' '.join(reason.decode(errors='replace').split()) or
                       'libiscsi gave no reason')

    def _page(self, lun, page, form):
        """:returns: a copy of what is on the page of that form"""
        task = self._library.iscsi_inquiry_sync(
            self._context, lun, 1, page, _ANSWER_BYTES)
        if not task:
            raise self._error()
        try:
            if task.contents.status:
                raise self._error()
            shown = self._library.scsi_datain_unmarshall(task)
            if not shown:
                raise OSError(f'page 0x{page:x} can not be read')
            # The qualifier: whether there is a unit by this LUN (SPC-4 6.6.2).
            if ctypes.cast(shown, ctypes.POINTER(ctypes.c_int)).contents.value:
                raise OSError(f'there is no LUN {lun}')
            # It is the task's, and goes with it.
            return form(shown)
        finally:
            self._library.scsi_free_scsi_task(task)

    def identity(self, lun):
        """What one LUN says of itself."""
        found = {'serial': None, 'designators': []}
        why = OSError('the LUN has no names')
        for name, page, form in (
                ('serial', _SERIAL, _serial),
                ('designators', _DESIGNATORS, _designators)):
            try:
                found[name] = self._page(lun, page, form)
            except OSError as error:
                # One of them may be missing.
                why = error
        if not any(found.values()):
            raise why
        return found


def _serial(shown):
    text = ctypes.cast(shown, ctypes.POINTER(_Serial)).contents.serial
    return text.hex() if text else None


def _designators(shown):
    found = []
    each = ctypes.cast(shown, ctypes.POINTER(_Designators)).contents.first
    while each:
        one = each.contents
        value = bytes(one.value[:one.length]) if one.value else b''
        found.append([one.association, one.type, value.hex()])
        each = one.next
    return found


def _of_target(library, target):
    session = _Session(library, target['initiator'])
    try:
        session.login(target)
        found = [_of_lun(session, lun) for lun in target['luns']]
        session.logout()
        return found
    except OSError as error:
        return _failed(target, str(error))
    finally:
        session.close()


def _of_lun(session, lun):
    try:
        return session.identity(lun)
    except OSError as error:
        return {'error': str(error)}


def _of_targets(asked):
    library = _library()
    # No thread holds up another, nor, at the end, this program.
    executor = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)
    futures = [executor.submit(_of_target, library, target)
               for target in asked['targets']]
    concurrent.futures.wait(futures, asked['deadline'])
    return [future.result() if future.done() else
            _failed(target, f'no answer within {asked["deadline"]} seconds')
            for future, target in zip(futures, asked['targets'])]


def _failed(target, why):
    return [{'error': why}] * len(target['luns'])


def main():
    # Nothing but Python's own modules is loaded here.
    asked = json.load(sys.stdin)  # noqa: N324
    try:
        told = _of_targets(asked)
    except (OSError, AttributeError) as error:
        told = [_failed(target, str(error)) for target in asked['targets']]
    json.dump(told, sys.stdout)  # noqa: N324
    sys.stdout.flush()
    os._exit(0)


if __name__ == '__main__':
    main()
