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

"""Connection information from storage is data, and may be anything."""

import ddt

from nova import exception
from nova import test
from nova.virt.libvirt.volume import iscsi_connection

GOOD = {'target_portal': '192.0.2.1:3260', 'target_iqn': 'iqn.2026-01.x:a',
        'target_lun': 3}
CHAP = {'auth_method': 'CHAP', 'auth_username': 'u', 'auth_password': 's3cr3t'}


def plural(**replace):
    return {**{'target_portals': ['192.0.2.1:3260', '[2001:db8::1]:3261'],
               'target_iqns': ['iqn.2026-01.x:a', 'iqn.2026-01.x:b'],
               'target_luns': [3, 4]}, **replace}


@ddt.ddt
class ParseTestCase(test.NoDBTestCase):

    def _paths(self, data):
        return [(path.host, path.port, path.iqn, path.lun)
                for path in iscsi_connection.parse(data).paths]

    def test_one_path(self):
        self.assertEqual([('192.0.2.1', 3260, 'iqn.2026-01.x:a', 3)],
                         self._paths(GOOD))

    def test_two_paths(self):
        self.assertEqual(
            [('192.0.2.1', 3260, 'iqn.2026-01.x:a', 3),
             ('2001:db8::1', 3261, 'iqn.2026-01.x:b', 4)],
            self._paths({**GOOD, **plural()}))

    def test_portals_of_one_target(self):
        # The plural keys that are missing are the singular ones, repeated.
        data = {**GOOD, 'target_portals': plural()['target_portals']}
        self.assertEqual(
            [('192.0.2.1', 3260, 'iqn.2026-01.x:a', 3),
             ('2001:db8::1', 3261, 'iqn.2026-01.x:a', 3)], self._paths(data))

    @ddt.data(('192.0.2.1:3260', '192.0.2.1:3260'),
              ('[2001:db8:0::1]:3260', '[2001:db8::1]:3260'),
              ('storage-1.example.org:860', 'storage-1.example.org:860'))
    @ddt.unpack
    def test_portal(self, given, expected):
        path = iscsi_connection.parse({**GOOD, 'target_portal': given}).paths
        self.assertEqual(expected, path[0].portal)

    @ddt.data('eui.02004567a425678d', 'naa.52004567ba64678d',
              'iqn.1998-01.com.vmware:Host_1-2:a.b')
    def test_name(self, iqn):
        self.assertEqual(iqn, self._paths({**GOOD, 'target_iqn': iqn})[0][2])

    @ddt.data(0, 255, '7')
    def test_lun(self, lun):
        self.assertEqual(int(lun), self._paths({**GOOD, 'target_lun': lun}
                                               )[0][3])

    @ddt.data('192.0.2.1', '192.0.2.1:', '192.0.2.1:0', '192.0.2.1:65536',
              '2001:db8::1:3260', '2001:db8::1', '[2001:db8::1]', '[::z]:1',
              '[::1%a\0b]:1', '[fe80::1%eth0]:1', '192.0.2.1:３２６０',
              '[192.0.2.1]:3260', 'a b:1', '-o:1', "a'b:1", ':3260', '', None,
              3260, ['192.0.2.1:3260'], '192.0.2.1:3260\n')
    def test_bad_portal(self, portal):
        self._assert_names('target_portal', {**GOOD, 'target_portal': portal})

    @ddt.data(256, -1, 'x', '', None, True, 1.0, '0x1', '１', [1])
    def test_bad_lun(self, lun):
        self._assert_names('target_lun', {**GOOD, 'target_lun': lun})

    @ddt.data("iqn.x:a'/><evil b='", 'iqn.x:<a>', 'iqn.x:a&b', 'iqn.x:a"b',
              'iqn.x:a/1', 'iqn.x:a,b', 'iqn.x a', 'a', '', None, 5,
              'iqn.' + 'x' * 220, 'iqn.x:a\n')
    def test_bad_iqn(self, iqn):
        self._assert_names('target_iqn', {**GOOD, 'target_iqn': iqn})

    @ddt.data(('target_portals', {'target_portals': ['192.0.2.1:3260']}),
              ('target_iqns', {'target_iqns': ['iqn.x:a']}),
              ('target_luns', {'target_luns': [1, 2, 3]}),
              ('target_luns', {'target_luns': []}),
              ('target_luns', {'target_luns': 3}),
              ('target_luns', {'target_luns': [3, 256]}),
              ('target_iqn', {'target_iqns': None}))
    @ddt.unpack
    def test_bad_lists(self, key, replace):
        exc = self.assertRaises(exception.InvalidISCSIConnection,
                                iscsi_connection.parse, plural(**replace))
        # Which of three unequal lists is the wrong one is not to be known.
        self.assertRegex(str(exc), key if len(str(replace)) < 25 else
                         'target_(portal|iqn|lun)s?: ')

    def test_chap(self):
        chap = iscsi_connection.parse({**GOOD, **CHAP}).chap
        self.assertEqual(('u', 's3cr3t'), (chap.username, chap.password))
        self.assertNotIn('s3cr3t', repr(iscsi_connection.parse(
            {**GOOD, **CHAP})))

    @ddt.data({}, {'auth_method': None}, {'auth_method': ''})
    def test_no_chap(self, data):
        self.assertIsNone(iscsi_connection.parse({**GOOD, **data}).chap)

    @ddt.data(('auth_method', 'KRB5'), ('auth_method', 'chap'),
              ('auth_method', None), ('auth_method', 5),
              ('auth_username', ''), ('auth_username', None),
              ('auth_username', 'a\nb'), ('auth_password', ''),
              ('auth_password', None), ('auth_password', 's3cr3t\n'),
              ('auth_password', 's3cr3t\0'), ('auth_password', ['s3cr3t']))
    @ddt.unpack
    def test_bad_chap(self, key, value):
        exc = self._assert_names(key, {**GOOD, **CHAP, key: value})
        self.assertNotIn('s3cr3t', str(exc))

    def _assert_names(self, key, data):
        exc = self.assertRaises(exception.InvalidISCSIConnection,
                                iscsi_connection.parse, data)
        self.assertIn(f'{key}: ', str(exc))
        return exc
