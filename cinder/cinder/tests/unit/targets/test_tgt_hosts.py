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
"""The targets of hosts on a tgtd, of which the test has the other end."""

import itertools
import os
import socketserver
import threading
from unittest import mock

import ddt
import fixtures

from cinder import exception
from cinder import privsep
from cinder.privsep.targets import tgt_control
from cinder.tests.unit import test
from cinder.volume.targets import host_targets
from cinder.volume.targets import tgt_hosts
from cinder.volume.targets import tgt_portals

IQN = 'iqn.2010-10.org.example:host-1'
INITIATOR = 'iqn.1994-05.org.example:left'
ALIAS = f'{INITIATOR} alias: left'
TARGET, UNIT, CONNECTION, ACCOUNT = 1, 2, 6, 7
NEW, DELETE, SHOW, BIND, UPDATE = 0, 1, 2, 3, 5


class Tgtd:
    """What tgtd holds, and how it answers.

    :ivar answers: the numbers to answer next requests with, by operation and
        mode; None for what it would answer
    :ivar late: whether what it refuses it has done all the same
    """

    def __init__(self, path):
        self.targets, self.accounts = {}, {}
        self.answers = {}
        self.late = False
        tgtd = self

        class Handler(socketserver.StreamRequestHandler):

            def handle(self):
                header = self.rfile.read(tgt_control._REQUEST.size)
                (mode, operation, driver, length, tid, session, lun, *_rest,
                 force) = tgt_control._REQUEST.unpack(header)
                body = self.rfile.read(length - len(header))
                number, shown = tgtd.answer(
                    mode, operation, tid,
                    session if mode == CONNECTION else lun,
                    body.rstrip(b'\0').decode(), bool(force))
                shown = (shown.encode(errors='surrogateescape') + b'\0'
                         if shown else b'')
                self.wfile.write(tgt_control._ANSWER.pack(
                    number, tgt_control._ANSWER.size + len(shown)) + shown)

        self.server = socketserver.UnixStreamServer(path, Handler)
        self.thread = threading.Thread(
            target=lambda: self.server.serve_forever(0.01))
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, mode, operation, tid, lun, text, force):
        planned = self.answers.get((operation, mode))
        number = planned.pop(0) if planned else None
        if number and not self.late:
            return number, ''
        done, shown = self.do(mode, operation, tid, lun, text, force)
        return number or done, shown

    def do(self, mode, operation, tid, lun, text, force):
        values = dict(each.split('=', 1) for each in text.removeprefix(
            'targetOps ').rstrip(',').split(',') if each)
        target = self.targets.get(tid)
        if (mode, operation) == (TARGET, SHOW):
            return 0, self.show()
        if (mode, operation) == (ACCOUNT, NEW):
            if values['user'] in self.accounts:
                return tgt_control.ACCOUNT_EXISTS, ''
            self.accounts[values['user']] = values['password']
            return 0, ''
        if (mode, operation) == (ACCOUNT, DELETE):
            known = self.accounts.pop(values['user'], None)
            return (0 if known else tgt_control.NO_ACCOUNT), ''
        if (mode, operation) == (CONNECTION, SHOW):
            return 0, ''.join(f'Session: {each}\n    Connection: 0\n'
                              '        Initiator: x\n'
                              for each in target['sessions'])
        if (mode, operation) == (TARGET, NEW):
            if target or values['targetname'] in [
                    each['iqn'] for each in self.targets.values()]:
                return tgt_control.TARGET_EXISTS, ''
            self.targets[tid] = {'iqn': values['targetname'], 'users': [],
                                 'initiators': [], 'units': {},
                                 'sessions': [], 'state': 'ready'}
            return 0, ''
        if not target:
            return tgt_control.NO_TARGET, ''
        return self.change(mode, operation, tid, lun, values, force), ''

    def change(self, mode, operation, tid, lun, values, force):
        target = self.targets[tid]
        if mode == ACCOUNT:
            if values['user'] in target['users']:
                return tgt_control.ACCOUNT_EXISTS
            target['users'].append(values['user'])
        elif mode == CONNECTION:
            target['sessions'].remove(lun)
        elif (mode, operation) == (TARGET, UPDATE):
            target['state'] = values['state']
        elif (mode, operation) == (TARGET, BIND):
            if values['initiator-name'] in target['initiators']:
                return tgt_control.RULE_EXISTS
            target['initiators'].append(values['initiator-name'])
        elif (mode, operation) == (TARGET, DELETE):
            if target['sessions'] and not force:
                return tgt_control.TARGET_ACTIVE
            del self.targets[tid]
        elif operation == NEW:
            if lun in target['units']:
                return tgt_control.UNIT_EXISTS
            target['units'][lun] = values
        elif lun not in target['units']:
            return tgt_control.NO_UNIT
        elif operation == DELETE:
            del target['units'][lun]
        else:
            if 'path' in values and (target['sessions'] or
                                     target['state'] == 'ready'):
                raise AssertionError('the path is changed under an initiator')
            target['units'][lun] = target['units'][lun] | values
        return 0

    def show(self):
        text = ''
        for tid, target in self.targets.items():
            text += (f'Target {tid}: {target["iqn"]}\n'
                     '    I_T nexus information:\n'
                     f'        I_T nexus: 1\n            Initiator: {ALIAS}'
                     '\n    LUN information:\n')
            for lun, unit in {0: {'path': 'None', 'scsi_sn': 'beaf10'},
                              **target['units']}.items():
                text += (f'        LUN: {lun}\n'
                         f'            SCSI SN: {unit.get("scsi_sn")}\n'
                         f'            Backing store path: {unit["path"]}\n')
        return text

    def fail(self, operation, mode, *numbers):
        self.answers[operation, mode] = list(numbers)


@ddt.ddt
class TgtHostsTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        path = os.path.join(self.useFixture(fixtures.TempDir()).path, 'tgt')
        self.useFixture(fixtures.EnvironmentVariable('TGT_IPC_SOCKET', path))
        self.mock_object(privsep.sys_admin_pctxt, 'client_mode', False)
        self.sleep = self.mock_object(tgt_hosts.time, 'sleep')
        self.tgtd = Tgtd(path + '.0')
        self.addCleanup(self.tgtd.stop)
        self.hosts = tgt_hosts.Tgtd(mock.Mock(
            safe_get={'iscsi_target_flags': 'direct'}.get,
            target_ip_address='192.0.2.1', target_port=3260,
            target_secondary_ip_addresses=['2001:db8::1']))

    def add_target(self, iqn=IQN, user='left'):
        self.hosts.add_target(iqn)
        self.hosts.admit(iqn, INITIATOR, user, 'password')

    def add_lun(self, lun, path):
        unit = host_targets.Unit(lun, path, 'a' * 32)
        self.hosts.add_lun(IQN, unit)
        return unit

    def test_all(self):
        self.hosts.add_target(IQN)
        unit = self.add_lun(3, '/dev/vg/a')
        self.assertEqual([], self.tgtd.targets[1]['initiators'])
        for _ in range(2):
            self.hosts.admit(IQN, INITIATOR, 'left', 'password')
        self.assertEqual({'left': 'password'}, self.tgtd.accounts)
        self.assertEqual({1: {
            'iqn': IQN, 'users': ['left'], 'initiators': [INITIATOR],
            'sessions': [], 'state': 'ready',
            'units': {3: {'path': '/dev/vg/a', 'bstype': 'rdwr',
                          'bsoflags': 'direct', 'scsi_sn': 'a' * 32,
                          'scsi_id': 'a' * 32}}}}, self.tgtd.targets)
        self.assertEqual({IQN: {3: unit}}, self.hosts.read())
        self.assertEqual({IQN}, self.hosts.iqns())
        self.hosts.remove_target(IQN, '')
        self.assertEqual({IQN: {3: unit}}, self.hosts.read())
        for _ in range(2):
            self.hosts.remove_lun(IQN, 3)
            self.assertEqual({IQN: {}}, self.hosts.read())
        for _ in range(2):
            self.hosts.remove_target(IQN, 'left')
            self.assertEqual(({}, {}), (self.tgtd.targets,
                                        self.tgtd.accounts))

    def test_resized(self):
        """Writes to a file that tgtd has closed would be lost."""
        self.add_target()
        self.add_lun(3, '/dev/vg/a')
        target = self.tgtd.targets[1]
        target['sessions'] = [5, 7]
        # The initiators come back one after another, and are waited for.
        self.sleep.side_effect = lambda seconds: target['sessions'].append(
            len(target['sessions']))
        self.hosts.resize(IQN, 3, '/dev/vg/b')
        self.assertEqual(([0, 1], 'ready'), (target['sessions'],
                                             target['state']))
        self.assertEqual(('/dev/vg/b', '1'), (
            target['units'][3]['path'], target['units'][3]['online']))
        self.tgtd.fail(UPDATE, UNIT, 1)
        self.assertRaises(tgt_control.TgtdError, self.hosts.resize, IQN, 3,
                          '/dev/vg/b')
        self.assertEqual('ready', target['state'])

    def test_resized_and_left(self):
        """An initiator that does not come back is not waited for for ever."""
        self.add_target()
        self.add_lun(3, '/dev/vg/a')
        self.tgtd.targets[1]['sessions'] = [5]
        now = itertools.count()
        self.mock_object(tgt_hosts.time, 'monotonic', lambda: next(now))
        self.hosts.resize(IQN, 3, '/dev/vg/b')
        self.assertEqual([], self.tgtd.targets[1]['sessions'])

    def test_other_targets(self):
        """Numbers are free for whoever comes first."""
        self.add_target(IQN + '1')
        self.add_target(IQN + '2')
        self.add_target(IQN, 'right')
        first = self.add_lun(1, '/dev/vg/a')
        del self.tgtd.targets[1]
        self.tgtd.targets[1] = self.tgtd.targets.pop(3)
        second = self.add_lun(2, '/dev/vg/b')
        self.assertEqual({IQN: {1: first, 2: second}, IQN + '2': {}},
                         self.hosts.read())

    def test_number_taken(self):
        """By another, since tgtd was asked."""
        with mock.patch.object(tgt_control, 'tids', return_value={}):
            self.hosts.add_target(IQN + '1')
            self.hosts.add_target(IQN)
        self.assertEqual({IQN, IQN + '1'}, self.hosts.iqns())
        self.assertRaises(tgt_control.TgtdError, self.hosts.add_target, IQN)

    def test_pretended(self):
        """Initiators have a say in what tgtd shows."""
        self.add_target(IQN + '1')
        for alias in (f'x\nTarget 1: {IQN}', f'x\nTarget 9: {IQN}1'):
            with mock.patch(f'{__name__}.ALIAS', alias):
                for call in (self.hosts.read, self.hosts.iqns,
                             lambda: self.add_lun(1, '/dev/vg/a'),
                             lambda: self.hosts.remove_lun(IQN, 1)):
                    self.assertRaises(ValueError, call)

    def test_listen(self):
        with mock.patch.object(tgt_portals, 'listen') as listen:
            self.hosts.listen()
        listen.assert_called_once_with(['192.0.2.1', '2001:db8::1'], 3260)

    def test_odd_names(self):
        """What ends a line elsewhere does not here; what is no text may be."""
        self.add_target()
        unit = self.add_lun(1, '/dev/vg/a')
        for end in ('\v', '\f', '\r', '\x1c', '\x85', '\u2028', '\udcff'):
            alias = (f'x{end}Target 7: {IQN}2{end}        LUN: 5{end}'
                     f'            Backing store path: /dev/vg/b{end}y')
            with mock.patch(f'{__name__}.ALIAS', alias):
                self.assertEqual({IQN: {1: unit}}, self.hosts.read())
                self.assertEqual({IQN}, self.hosts.iqns())

    def test_gone(self):
        self.add_target(IQN + '1')
        self.assertRaises(exception.ISCSITargetHelperCommandFailed,
                          self.add_lun, 1, '/dev/vg/a')
        self.assertRaises(exception.ISCSITargetHelperCommandFailed,
                          self.hosts.resize, IQN, 1, '/dev/vg/a')
        self.hosts.remove_lun(IQN, 1)

    @ddt.data((NEW, ACCOUNT), (BIND, ACCOUNT), (BIND, TARGET))
    @ddt.unpack
    def test_nobody_let_in(self, operation, mode):
        """By name alone least of all."""
        self.tgtd.fail(operation, mode, 1)
        self.assertRaises(tgt_control.TgtdError, self.add_target)
        self.assertEqual([], self.tgtd.targets[1]['initiators'])
        self.hosts.admit(IQN, INITIATOR, 'left', 'password')
        self.assertEqual([INITIATOR], self.tgtd.targets[1]['initiators'])

    @ddt.data((NEW, False), (NEW, True), (UPDATE, False))
    @ddt.unpack
    def test_no_lun(self, operation, late):
        self.add_target()
        self.tgtd.late = late
        self.tgtd.fail(operation, UNIT, 1)
        self.assertRaises(tgt_control.TgtdError, self.add_lun, 1, '/dev/vg/a')
        self.assertEqual({IQN: {}}, self.hosts.read())

    def test_lun_taken(self):
        self.add_target()
        unit = self.add_lun(1, '/dev/vg/a')
        self.assertRaises(tgt_control.TgtdError, self.add_lun, 1, '/dev/vg/b')
        self.assertEqual({IQN: {1: unit}}, self.hosts.read())

    def test_in_use(self):
        """For a moment, as an initiator leaves; a target is forced then."""
        self.add_target()
        self.add_lun(1, '/dev/vg/a')
        self.tgtd.fail(DELETE, UNIT, tgt_control.UNIT_ACTIVE,
                       tgt_control.UNIT_ACTIVE)
        self.hosts.remove_lun(IQN, 1)
        self.assertEqual({IQN: {}}, self.hosts.read())
        self.tgtd.targets[1]['sessions'] = [1]
        with mock.patch.object(tgt_hosts.time, 'monotonic',
                               side_effect=range(0, 999, 5)):
            self.hosts.remove_target(IQN, 'left')
        self.assertEqual({}, self.tgtd.targets)

    def test_cut_off(self):
        """tgtd ends in mid-answer."""
        with mock.patch.object(Tgtd, 'show', side_effect=SystemExit):
            self.assertRaises(ConnectionError, self.hosts.read)

    def test_not_there(self):
        self.useFixture(fixtures.EnvironmentVariable('TGT_IPC_SOCKET',
                                                     '/nowhere'))
        self.assertRaises(OSError, self.hosts.read)
