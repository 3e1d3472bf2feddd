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

"""Credentials of targets, on an open-iscsi that is made up."""

import logging
from unittest import mock

import ddt
import fixtures
from oslo_concurrency import processutils

from os_brick import exception
from os_brick.initiator.connectors import iscsi
from os_brick.initiator import iscsi_credentials
from os_brick.initiator import iscsi_ifaces
from os_brick.initiator import iscsi_paths
from os_brick.initiator import iscsi_sessions
from os_brick.privileged import iscsi as records
from os_brick.tests import base

PORTAL = '192.0.2.1:3260'
IQN = 'iqn.2026-01.test:volume'
CHAP = {'auth_method': 'CHAP', 'auth_username': 'user',
        'auth_password': 'secret-12345'}
MUTUAL = {'mutual_auth_username': 'target',
          'mutual_auth_password': 'secret-54321'}
DISCOVERY = {f'discovery_{key}': value for key, value in CHAP.items()}
NODE = {'target_portal': PORTAL, 'target_iqn': IQN, 'target_lun': 1}


@ddt.ddt
class CheckTestCase(base.TestCase):

    @ddt.data({}, CHAP, CHAP | MUTUAL, CHAP | DISCOVERY,
              {'auth_method': None, 'auth_password': ''})
    def test_fine(self, properties):
        iscsi_credentials.check(properties)

    @ddt.data(
        (CHAP | {'auth_method': 'SRP'}, 'auth_method'),
        (CHAP | {'auth_password': ''}, 'auth_password'),
        (CHAP | {'auth_password': None}, 'auth_password'),
        (CHAP | {'auth_password': b'bytes'}, 'auth_password'),
        (CHAP | {'auth_password': ' secret-1'}, 'auth_password'),
        (CHAP | {'auth_password': 'secret-1\nnode.startup = automatic'},
         'auth_password'),
        (CHAP | {'auth_password': 'secret-1' * 32}, 'auth_password'),
        (CHAP | {'auth_username': 'u\0'}, 'auth_username'),
        (CHAP | DISCOVERY | {'discovery_auth_password': ''},
         'discovery_auth_password'),
        (MUTUAL, 'auth_method'),
        (CHAP | MUTUAL | {'mutual_auth_username': ''},
         'mutual_auth_username'),
        (CHAP | {'mutual_auth_username': 'target'}, 'mutual_auth_password'),
        (CHAP | MUTUAL | {'mutual_auth_password': CHAP['auth_password']},
         'mutual_auth_password'))
    @ddt.unpack
    def test_refused(self, properties, key):
        """The key is told, and no secret."""
        connector = iscsi.ISCSIConnector(None, execute=mock.Mock(
            side_effect=AssertionError('nothing may be called')))
        error = self.assertRaises(exception.InvalidParameterValue,
                                  connector.connect_volume,
                                  NODE | properties)
        self.assertRegex(str(error), rf'\b{key}\b')
        self.assertNotIn('secret-1', str(error))


class OpenISCSI:
    """One target at one portal, with any number of sessions.

    :ivar sessions: numbers of those that are there
    :ivar refuses: whether it lets nobody in
    """

    def __init__(self, *sessions):
        self.sessions = list(sessions)
        self.refuses = False
        self.commands = []

    def execute(self, *command, **kwargs):
        self.commands.append(' '.join(command[1:]))
        session = ''.join(command[3:5]) if '-r' in command else None
        if '--logout' in command:
            self.sessions.remove(session[2:])
        elif '--login' in command or session:
            if self.refuses:
                raise processutils.ProcessExecutionError(exit_code=24)
            self.sessions.append(str(max(map(int, self.sessions or '0')) + 1))
        elif command[1:] == ('-m', 'session'):
            return ''.join(f'tcp: [{number}] {PORTAL},1 {IQN} (non-flash)\n'
                           for number in self.sessions), ''
        return '', ''


class GiveTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.there = True
        self.mock_object(records, 'update_node', self.given)
        self.written = []
        #: What the sessions were made with.
        self.made_with = {'username': 'user', 'password': 'secret-12345',
                          'username_in': '', 'password_in': ''}
        self.mock_object(records, 'session_has',
                         lambda session, values: values == self.made_with)
        self.devices = {}
        self.mock_object(iscsi_ifaces, 'sessions',
                         lambda properties: set(self.host.sessions))
        self.mock_object(iscsi_sessions, 'devices',
                         lambda session='*': self.devices.get(session, set()))

    def given(self, target, portal, settings):
        self.written.append((target, portal, settings))
        return self.there

    def connect(self, *sessions, refuses=False, **more):
        self.host = OpenISCSI(*sessions)
        self.host.refuses = refuses
        connector = iscsi.ISCSIConnector(None, execute=self.host.execute)
        try:
            return connector._connect_to_iscsi_portal_unsafe(
                iscsi_paths.path(NODE | CHAP | more, alone=False))
        finally:
            self.assertNotIn('secret', ' '.join(self.host.commands))

    def test_new(self):
        self.assertEqual(('1', True), self.connect())
        self.assertEqual([(IQN, PORTAL, {
            'node.session.auth.authmethod': 'CHAP',
            'node.session.auth.username': 'user',
            'node.session.auth.password': 'secret-12345',
            # Those of a volume before it are removed.
            'node.session.auth.username_in': '',
            'node.session.auth.password_in': ''})], self.written)

    def test_mutual(self):
        self.connect(**MUTUAL)
        settings = self.written[0][2]
        self.assertEqual('target', settings['node.session.auth.username_in'])
        self.assertEqual('secret-54321',
                         settings['node.session.auth.password_in'])

    def test_none(self):
        self.assertEqual(('1', True), self.connect(auth_method=None))
        self.assertEqual([], self.written)

    def test_no_record(self):
        self.there = False
        error = self.assertRaises(exception.BrickException, self.connect)
        self.assertIn('/etc/iscsi', str(error))
        self.assertIn('iscsi_databases', str(error))
        self.assertIn(IQN, str(error))

    def test_same_as_before(self):
        self.devices['4'] = {'sda'}
        self.assertEqual(('4', True), self.connect('4'))
        self.assertEqual(['4'], self.host.sessions)
        self.assertNotIn('-r', ' '.join(self.host.commands))

    def test_other_than_those_of_an_idle_session(self):
        """It ends; the login that follows authenticates."""
        self.made_with['password'] = 'secret-before'
        self.assertEqual(('1', True), self.connect('4'))
        self.assertIn('-m session -r 4 --logout', self.host.commands)

    def trial(self, refuses=False):
        self.made_with['password'] = 'secret-before'
        self.devices['4'] = {'sda'}
        return self.connect('4', refuses=refuses)

    def test_other_than_those_of_a_session_in_use(self):
        """They are tried, in a session for that alone."""
        self.assertEqual(('4', True), self.trial())
        self.assertEqual(['4'], self.host.sessions)
        self.assertEqual(
            ['-m session -r 4 --op new', '-m session -r 5 --logout'],
            [command for command in self.host.commands if '-r' in command])

    def test_trial_is_limited_as_a_login_is(self):
        self.trial()
        limit, = [number for number, command in enumerate(self.host.commands)
                  if 'initial_login_retry_max' in command]
        trial, = [number for number, command in enumerate(self.host.commands)
                  if '-r 4' in command]
        self.assertLess(limit, trial)

    def test_refused_while_a_session_is_in_use(self):
        for _ in range(2):
            # And each time again.
            self.assertRaises(processutils.ProcessExecutionError, self.trial,
                              refuses=True)
            self.assertEqual(['4'], self.host.sessions)

    def test_session_of_another_iface(self):
        self.mock_object(iscsi_ifaces, 'has', lambda *args: False)
        self.made_with['password'] = 'secret-before'
        self.connect('4')
        self.assertNotIn('-r', ' '.join(self.host.commands))

    def test_not_in_logs(self):
        """Whatever is in it."""
        output = self.useFixture(fixtures.FakeLogger(level=logging.DEBUG))
        connector = iscsi.ISCSIConnector(None, execute=OpenISCSI('4').execute)
        self.mock_object(connector, '_connect_to_iscsi_portal',
                         lambda properties: ('4', False))
        self.mock_object(connector._linuxscsi, 'get_hctl',
                         lambda *args: ('4', '0', '0', '1'))
        self.mock_object(connector._linuxscsi, 'device_name_by_hctl',
                         lambda *args: 'sda')
        connector._connect_vol(1, NODE | CHAP | {
            'auth_password': "it's-secret-77"}, {
                'num_logins': 0, 'found_devices': [], 'stopped_threads': 0,
                'just_added_devices': [], 'stop_connecting': False})
        self.assertIn('Connected to sda', output.output)
        self.assertNotIn('secret', output.output)


class DiscoveryTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.there = True
        self.mock_object(records, 'update_discovery',
                         lambda *args: self.there)

    def discover(self):
        commands = []

        def execute(*command, **kwargs):
            commands.append(' '.join(command[1:]))
            self.there = self.there or 'new' in command
            return '', ''

        connector = iscsi.ISCSIConnector(None, execute=execute)
        connector._discover_iscsi_portals(NODE | DISCOVERY)
        self.assertNotIn('secret', ' '.join(commands))
        return [command for command in commands if '--op new' in command]

    def test_known(self):
        self.assertEqual([], self.discover())

    def test_new(self):
        self.there = False
        self.assertEqual([f'-m discoverydb -t sendtargets -p {PORTAL} '
                          '-I default --op new'], self.discover())
