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

"""Records of open-iscsi's database, in files made up as it makes them."""

import os

import fixtures

import os_brick.privileged
from os_brick.privileged import iscsi as records
from os_brick.tests import base

TARGET = 'iqn.2026-01.test:volume'
BEGIN = '# BEGIN RECORD 2.1.8\n'
RECORD = f"""{BEGIN}node.name = {TARGET}
node.tpgt = 1
node.startup = manual
iface.iscsi_ifacename = default
node.session.auth.authmethod = None
node.conn[0].address = 192.0.2.1
# END RECORD
"""
CHAP = {'node.session.auth.authmethod': 'CHAP',
        'node.session.auth.password': r'a\1 = b'}


class RecordsTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        os_brick.privileged.default.set_client_mode(False)
        self.addCleanup(os_brick.privileged.default.set_client_mode, True)
        self.root = self.useFixture(fixtures.TempDir()).path
        self.fixture.config(
            iscsi_databases=[os.path.join(self.root, 'none'), self.root],
            group='os_brick')

    def write(self, *names, text=RECORD):
        path = os.path.join(self.root, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(text)
        os.chmod(path, 0o600)
        return path

    @staticmethod
    def read(path):
        with open(path) as file:
            return file.read()

    def test_record_of_a_portal(self):
        path = self.write('nodes', TARGET, '192.0.2.1,3260')
        self.assertTrue(records.update_node(TARGET, '192.0.2.1:3260', CHAP))
        self.assertEqual(
            RECORD.replace('authmethod = None', 'authmethod = CHAP').replace(
                '# END', 'node.session.auth.password = a\\1 = b\n# END'),
            self.read(path))
        self.assertEqual(0o600, os.stat(path).st_mode & 0o777)

    def test_again(self):
        path = self.write('nodes', TARGET, '192.0.2.1,3260')
        records.update_node(TARGET, '192.0.2.1:3260', CHAP)
        before = self.read(path)
        self.assertTrue(records.update_node(TARGET, '192.0.2.1:3260', CHAP))
        self.assertEqual(before, self.read(path))

    def test_removed(self):
        name = 'node.session.auth.password_in'
        path = self.write('nodes', TARGET, '192.0.2.1,3260')
        records.update_node(TARGET, '192.0.2.1:3260', {name: 'secret'})
        self.assertIn(f'{name} = secret', self.read(path))
        records.update_node(TARGET, '192.0.2.1:3260', {name: ''})
        self.assertEqual(RECORD, self.read(path).rstrip('\n') + '\n')

    def test_what_is_not_utf_8(self):
        path = self.write('nodes', TARGET, '192.0.2.1,3260')
        with open(path, 'rb+') as file:
            file.write(RECORD.encode().replace(b'manual', b'm\xe4\x85n'))
        records.update_node(TARGET, '192.0.2.1:3260', CHAP)
        with open(path, 'rb') as file:
            self.assertIn(b'm\xe4\x85n', file.read())

    def test_no_way_out(self):
        victim = self.write('victim,3260')
        for target in (self.root, '..', '', '../..', 'a/b', 'a\0'):
            self.assertRaises(ValueError, records.update_node, target,
                              'victim:3260', CHAP)
        self.assertRaises(ValueError, records.update_node, TARGET,
                          '../../victim:3260', CHAP)
        self.assertRaises(ValueError, records.session_has, '../x', {})
        self.assertEqual(RECORD, self.read(victim))

    def test_only_credentials(self):
        self.write('nodes', TARGET, '192.0.2.1,3260')
        for settings in ({'node.startup': 'automatic'},
                         {'node.session.auth.username': 'a\nnode.x = b'}):
            self.assertRaises(ValueError, records.update_node, TARGET,
                              '192.0.2.1:3260', settings)

    def test_session(self):
        self.mock_object(records, '_SESSIONS', self.root)
        self.write('session3', 'username', text='user\n')
        self.write('session3', 'password', text='secret\n')
        self.write('session3', 'username_in', text='(null)\n')
        given = {'username': 'user', 'password': 'secret', 'username_in': '',
                 'password_in': ''}
        self.assertTrue(records.session_has('3', given))
        for name, value in (('username', 'me'), ('password', 'Secret'),
                            ('password', ''), ('username_in', 'you')):
            self.assertFalse(records.session_has('3', given | {name: value}))
        self.assertTrue(records.session_has('4', given))

    def test_records_of_all_ifaces(self):
        paths = [self.write('nodes', TARGET, '192.0.2.1,3260,1', iface)
                 for iface in ('default', 'iser')]
        other = self.write('nodes', TARGET, '192.0.2.10,3260,1', 'default')
        records.update_node(TARGET, '192.0.2.1:3260,1', CHAP)
        for path in paths:
            self.assertIn('a\\1 = b', self.read(path))
        self.assertEqual(RECORD, self.read(other))

    def test_ipv6(self):
        path = self.write('nodes', TARGET, '2001:db8::1,3261')
        records.update_node(TARGET, '[2001:db8::1]:3261', CHAP)
        self.assertIn('a\\1 = b', self.read(path))

    def test_no_port(self):
        for portal, name in (('192.0.2.1', '192.0.2.1,3260'),
                             ('[2001:db8::1]', '2001:db8::1,3260')):
            path = self.write('nodes', TARGET, name)
            records.update_node(TARGET, portal, CHAP)
            self.assertIn('a\\1 = b', self.read(path))

    def test_shorter(self):
        """Nothing of what was there is left behind the end."""
        path = self.write('nodes', TARGET, '192.0.2.1,3260')
        records.update_node(TARGET, '192.0.2.1:3260',
                            {'node.session.auth.password': 'x' * 200})
        length = len(self.read(path))
        records.update_node(TARGET, '192.0.2.1:3260',
                            {'node.session.auth.password': 'y'})
        text = self.read(path)
        self.assertEqual(length, len(text))
        self.assertIn('\nnode.session.auth.password = y\n', text)
        self.assertTrue(text.rstrip('\n').endswith('\n# END RECORD'))
        self.assertNotIn('x' * 9, text)

    def test_none(self):
        self.write('nodes', TARGET, '192.0.2.1,3261')
        self.assertFalse(records.update_node(TARGET, '192.0.2.1:3260', CHAP))
        self.assertFalse(records.update_discovery('192.0.2.1:3260', CHAP))

    def test_discovery(self):
        path = self.write('send_targets', '192.0.2.1,3260', 'st_config',
                          text='# BEGIN RECORD 2.1.8\n# END RECORD\n')
        name = 'discovery.sendtargets.auth.username'
        self.assertTrue(
            records.update_discovery('192.0.2.1:3260', {name: 'me'}))
        self.assertEqual(f'{BEGIN}{name} = me\n# END RECORD\n',
                         self.read(path))
