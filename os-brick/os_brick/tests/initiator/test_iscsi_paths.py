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

"""Paths to a volume, on an open-iscsi that is made up."""

import functools
import os

import ddt
import fixtures
from oslo_concurrency import processutils

from os_brick import exception
from os_brick.initiator.connectors import iscsi
from os_brick.initiator import iscsi_paths
from os_brick.initiator import iscsi_sessions
from os_brick.initiator import linuxscsi
from os_brick.tests import base

A, B = '192.0.2.1:3260', '198.51.100.1:3260'
IQN, OTHER = 'iqn.2026-01.test:volume', 'iqn.2026-01.test:other'
SINGULAR = {'target_portal': A, 'target_iqn': IQN, 'target_lun': 1}
PLURAL = {'target_portals': [A, B], 'target_iqns': [IQN, OTHER],
          'target_luns': [1, 2]}


@ddt.ddt
class CheckedTestCase(base.TestCase):

    @ddt.data(
        (SINGULAR, SINGULAR),
        (PLURAL, PLURAL),
        (SINGULAR | PLURAL, SINGULAR | PLURAL),
        # One that is singular counts for all.
        ({'target_portals': [A, B], 'target_iqn': IQN, 'target_lun': 1},
         {'target_portals': [A, B], 'target_iqns': [IQN, IQN],
          'target_luns': [1, 1], 'target_iqn': IQN, 'target_lun': 1}),
        ({'target_portals': (A, B), 'target_iqns': (IQN, OTHER),
          'target_lun': 1},
         {'target_portals': [A, B], 'target_iqns': [IQN, OTHER],
          'target_luns': [1, 1], 'target_lun': 1}),
        ({'target_portal': A, 'target_iqns': [IQN, OTHER], 'target_lun': 1},
         {'target_portals': [A, A], 'target_iqns': [IQN, OTHER],
          'target_luns': [1, 1], 'target_portal': A, 'target_lun': 1}),
        (SINGULAR | {'target_portals': [], 'target_luns': None}, SINGULAR),
        # One path is one, however often it is told.
        ({'target_portals': [A, B, A], 'target_iqns': [IQN] * 3,
          'target_luns': [1, 1, '1']},
         {'target_portals': [A, B], 'target_iqns': [IQN] * 2,
          'target_luns': [1, 1]}),
        # What a list tells need not be told again.
        (PLURAL | {'target_portal': None, 'target_lun': None},
         PLURAL | {'target_portal': None, 'target_lun': None}),
        (SINGULAR | {'target_portal': f'{A},1'}, SINGULAR),
        (SINGULAR | {'target_portal': '192.0.2.1'}, SINGULAR),
        (SINGULAR | {'target_portal': '2001:db8::1'},
         SINGULAR | {'target_portal': '[2001:db8::1]:3260'}),
        (SINGULAR | {'target_portal': '[2001:db8::1]'},
         SINGULAR | {'target_portal': '[2001:db8::1]:3260'}),
        (SINGULAR | {'target_portal': '[2001:db8::1]:860'},
         SINGULAR | {'target_portal': '[2001:db8::1]:860'}),
        (SINGULAR | {'target_lun': '300'}, SINGULAR | {'target_lun': 300}),
        ({'target_portal': A, 'target_iqn': IQN},
         {'target_portal': A, 'target_iqn': IQN}))
    @ddt.unpack
    def test_fine(self, properties, expected):
        before = dict(properties)
        self.assertEqual(expected, iscsi_paths.checked(properties))
        self.assertEqual(before, properties)

    @ddt.data(
        ({}, 'target_portal'),
        ({'target_portal': A}, 'target_iqn'),
        ({'target_portals': [A, B]}, 'target_iqn'),
        ({'target_portals': [A, B], 'target_iqn': IQN}, 'target_lun'),
        (PLURAL | {'target_luns': [1]}, 'target_luns'),
        (PLURAL | {'target_iqns': [IQN]}, 'target_iqns'),
        (PLURAL | {'target_portals': [A, B, A]}, 'target_portals'),
        (PLURAL | {'target_portals': A}, 'target_portals'),
        (PLURAL | {'target_portals': [A, '']}, 'target_portals'),
        (PLURAL | {'target_luns': [1, -1]}, 'target_luns'),
        (PLURAL | {'target_luns': [1, 1.5]}, 'target_luns'),
        (PLURAL | {'target_luns': [1, True]}, 'target_luns'),
        (SINGULAR | {'target_lun': 'one'}, 'target_lun'),
        (SINGULAR | {'target_portal': None}, 'target_portal'),
        (SINGULAR | {'target_iqn': '-L all'}, 'target_iqn'),
        (SINGULAR | {'target_iqn': '--logoutall=all'}, 'target_iqn'),
        (SINGULAR | {'target_iqn': '../../iqn'}, 'target_iqn'),
        (SINGULAR | {'target_iqn': 'iqn\n'}, 'target_iqn'),
        (SINGULAR | {'target_iqn': 7}, 'target_iqn'))
    @ddt.unpack
    def test_refused(self, properties, key):
        """Before anything is called."""
        def execute(*command, **kwargs):
            raise AssertionError('nothing may be called')

        connector = iscsi.ISCSIConnector(None, execute=execute)
        error = self.assertRaises(exception.InvalidParameterValue,
                                  connector.connect_volume, properties)
        self.assertRegex(str(error), rf'\b{key}\b')

    def test_disconnected_all_the_same(self):
        properties = PLURAL | {'target_luns': [1, -1]}
        self.assertEqual(properties, iscsi_paths.told(properties))


class HostTestCase(base.TestCase):
    """A host whose commands are answered by ``answer``."""

    def setUp(self):
        super().setUp()
        self.commands = []
        self.connector = iscsi.ISCSIConnector(
            None, execute=self.execute, use_multipath=True)

    def execute(self, *command, **kwargs):
        command = ' '.join(map(str, command))
        self.commands.append(command)
        return self.answer(command), ''

    def answer(self, command):
        return ''


class DiscoveryTestCase(HostTestCase):

    def find(self, properties, **kwargs):
        return self.connector._get_ips_iqns_luns(
            iscsi_paths.checked(properties), **kwargs)

    def test_all_told(self):
        self.assertEqual([(A, IQN, 1), (B, OTHER, 2)],
                         self.find(SINGULAR | PLURAL))
        self.assertEqual([], self.commands)

    def test_one_told(self):
        self.answer = lambda command: (
            f'{A},1 {IQN}\n{B},1 {IQN}\n' if 'sendtargets' in command else '')
        self.assertEqual({(A, IQN, 1), (B, IQN, 1)},
                         set(self.find(SINGULAR)))

    def test_other_targets(self):
        """They may have another volume by this LUN."""
        self.answer = lambda command: (
            f'{A},1 {IQN}\n{A},1 {OTHER}\n{B},1 {OTHER}\n'
            if 'sendtargets' in command else '')
        self.assertEqual([(A, IQN, 1)], self.find(SINGULAR))

    def test_nothing_found(self):
        self.assertEqual([(A, IQN, 1)], self.find(SINGULAR))

    def test_failed(self):
        def answer(command):
            if 'sendtargets' in command:
                raise processutils.ProcessExecutionError(exit_code=4)
            return ''

        self.answer = answer
        self.assertEqual([(A, IQN, 1)], self.find(SINGULAR))

    def test_recalled_with_the_one_told(self):
        """What failed, or was empty, may have been logged in to."""
        self.answer = lambda command: (
            'SENDTARGETS:\nDiscoveryAddress: 192.0.2.1,3260\n'
            f'Target: {IQN}\n\tPortal: {B},1\n\t\tIface Name: default\n'
            'iSNS:\n')
        self.assertEqual({(B, IQN, 1), (A, IQN, 1)},
                         set(self.find(SINGULAR, discover=False)))

    def test_nothing_recalled(self):
        self.assertEqual([(A, IQN, 1)], self.find(SINGULAR, discover=False))


class LoginTestCase(HostTestCase):
    """How long one login is tried."""

    def logins(self, properties):
        def connect(rescans, properties, data):
            iscsi_paths.limit_login(self.connector, properties)
            data['stopped_threads'] += 1

        self.mock_object(self.connector, '_connect_vol', connect)
        self.mock_object(self.connector, '_cleanup_connection')
        properties = iscsi_paths.checked(properties)
        for each in (self.connector._connect_multipath_volume,
                     self.connector._connect_single_volume):
            self.commands.clear()
            # The first of the attempts is enough.
            self.assertRaises(exception.VolumeDeviceNotFound,
                              each.__wrapped__, self.connector, properties)
            yield [command for command in self.commands
                   if 'initial_login_retry_max -v 1' in command]

    def test_only_path(self):
        self.answer = lambda command: ''
        for commands in self.logins(SINGULAR):
            self.assertEqual([], commands)

    def test_one_of_two(self):
        for commands in self.logins(PLURAL):
            self.assertEqual(2, len(commands))


class OtherVolumesTestCase(HostTestCase):

    def setUp(self):
        super().setUp()
        self.wwid, self.devices = iscsi_paths._wwid, iscsi_sessions.devices
        self.wwids = {'sda': 'naa.1', 'sdb': 'naa.1', 'sdc': 'naa.2',
                      'sdd': None, 'sde': None}
        self.mock_object(iscsi_paths, '_wwid', self.wwids.get)

    def test_same(self):
        iscsi_paths.check_same_volume(['sda', 'sdb', 'sdd'])
        iscsi_paths.check_same_volume(['sdd', 'sde'])

    def test_different(self):
        error = self.assertRaises(exception.BrickException,
                                  iscsi_paths.check_same_volume,
                                  ['sda', 'sdb', 'sdc'])
        self.assertIn('sdc is naa.2', str(error))

    def test_same_target(self):
        devices = {(A, IQN): ({'sda'}, {'sdc'}), (B, IQN): ({'sdb'}, set())}
        self.assertEqual(devices, iscsi_paths.own(devices, SINGULAR))

    def test_target_that_was_not_named(self):
        """What has the LUN there is removed if it is the volume."""
        self.assertEqual(
            {(A, IQN): ({'sda'}, set()), (B, OTHER): ({'sdb'}, {'sdc'})},
            iscsi_paths.own({(A, IQN): ({'sda'}, set()),
                             (B, OTHER): ({'sdb', 'sdc'}, set())}, SINGULAR))

    def test_target_that_was_not_named_without_names(self):
        self.assertEqual(
            {(A, IQN): ({'sdd'}, set())},
            iscsi_paths.own({(A, IQN): ({'sdd'}, set()),
                             (B, OTHER): ({'sde'}, set())}, SINGULAR))

    def test_session_of_a_target_that_was_not_named(self):
        """One with no devices may be about to get some."""
        self.assertEqual(
            {(A, IQN): (set(), set())},
            iscsi_paths.own({(A, IQN): (set(), set()),
                             (B, OTHER): (set(), set())}, SINGULAR))

    def test_wwid(self):
        root = self.useFixture(fixtures.TempDir()).path
        self.mock_object(iscsi_paths, '_BLOCK', root)
        os.makedirs(os.path.join(root, 'sda', 'device'))
        with open(os.path.join(root, 'sda', 'device', 'wwid'), 'w') as file:
            file.write('naa.6001405\n')
        self.assertEqual('naa.6001405', self.wwid('sda'))
        self.assertIsNone(self.wwid('sdb'))

    def test_disconnected(self):
        """Nothing was there before, to whom this was another's."""
        self.mock_object(iscsi_sessions, 'devices', lambda: {'sda', 'sdb'})
        self.mock_object(self.connector, '_get_connection_devices',
                         lambda *args: {(A, IQN): ({'sda'}, {'sdc'}),
                                        (B, IQN): ({'sdb'}, set())})
        removed = self.mock_object(linuxscsi.LinuxSCSI, 'remove_connection',
                                   return_value=None)
        ended = self.mock_object(self.connector,
                                 '_disconnect_from_iscsi_portal')
        self.connector.disconnect_volume(
            {'target_portals': [A, B], 'target_iqn': IQN, 'target_lun': '1'},
            None)
        self.assertEqual({'sda', 'sdb'}, removed.call_args[0][0])
        self.assertEqual([B], [call[0][0]['target_portal']
                               for call in ended.call_args_list])

    def test_devices_of_sessions(self):
        root = self.useFixture(fixtures.TempDir()).path
        self.mock_object(iscsi_sessions, '_SESSIONS', root)
        for session, lun, disk in ((3, 0, 'sda'), (3, 1, 'sdb'),
                                   (4, 0, 'sdc')):
            os.makedirs(os.path.join(
                root, f'session{session}', 'device', f'target{session}:0:0',
                f'{session}:0:0:{lun}', 'block', disk))
        self.assertEqual({'sda', 'sdb', 'sdc'}, self.devices())
        self.assertEqual({'sda', 'sdb'}, self.devices('3'))

    def test_failed_connection_leaves_what_was_there(self):
        self.mock_object(iscsi_sessions, 'devices', lambda: {'sdc'})
        self.mock_object(self.connector, '_get_connection_devices',
                         lambda *args: {(A, IQN): ({'sda'}, set()),
                                        (B, OTHER): ({'sdc'}, set())})
        self.mock_object(iscsi.ISCSIConnector, 'check_multipath')
        removed = self.mock_object(linuxscsi.LinuxSCSI, 'remove_connection',
                                   return_value=None)
        ended = self.mock_object(self.connector,
                                 '_disconnect_from_iscsi_portal')

        def connect(rescans, properties, data):
            device = {A: 'sda', B: 'sdc'}[properties['target_portal']]
            data['found_devices'].append(device)
            data['stopped_threads'] += 1
            data['num_logins'] += 1

        self.mock_object(self.connector, '_connect_vol', connect)
        self.mock_object(linuxscsi.LinuxSCSI, 'get_sysfs_wwn', lambda *a: '')
        self.mock_object(linuxscsi.LinuxSCSI, 'find_sysfs_multipath_dm',
                         lambda *args: 'dm-0')
        self.assertRaisesRegex(
            exception.BrickException, 'different volumes',
            functools.partial(self.connector.connect_volume, PLURAL))
        self.assertEqual({'sda'}, removed.call_args[0][0])
        self.assertEqual([A], [call[0][0]['target_portal']
                               for call in ended.call_args_list])
