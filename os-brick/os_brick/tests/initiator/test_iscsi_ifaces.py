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

"""Ifaces, on an open-iscsi and a sysfs that are made up."""

from concurrent import futures
import os

import ddt
import fixtures
from oslo_concurrency import processutils
from oslo_config import cfg

from os_brick import exception
from os_brick.initiator.connectors import iscsi
from os_brick.initiator import iscsi_ifaces
from os_brick.initiator import iscsi_paths
from os_brick.tests import base

PORTAL, OTHER = '192.0.2.1:3260', '198.51.100.1:3260'
IQN = 'iqn.2026-01.test:volume'
NODE = {'target_portal': PORTAL, 'target_iqn': IQN, 'target_lun': 1}
PLURAL = {'target_portals': [PORTAL, OTHER], 'target_iqns': [IQN, IQN],
          'target_luns': [1, 1]}
MAC = '00:07:43:28:b2:58'


class OpenISCSI:
    """Ifaces, node records and sessions of a host.

    As open-iscsi does where no portal group tag is known, it keeps one record
    of a target at a portal, of the iface that came last.

    :ivar ifaces: their settings, by name
    :ivar dead: ifaces, and pairs of those and portals, that lead nowhere
    """

    def __init__(self, sys):
        self.sys = sys
        self.ifaces = {}
        self.nodes = {}
        self.dead = set()
        self.sessions = {}
        self.logins = []
        self.commands = []

    def execute(self, *command, check_exit_code=True, **kwargs):
        command = [str(word) for word in command]
        self.commands.append(' '.join(command[1:]))
        given = dict(zip(command[1:-1], command[2:]))
        mode = getattr(self, f'_{given["-m"]}')
        code, out = mode(given, command)
        accepted = (range(256) if check_exit_code is False else
                    [0] if check_exit_code in (0, True) else check_exit_code)
        if code not in accepted:
            raise processutils.ProcessExecutionError(
                exit_code=code, stderr=f'error {code}\n')
        return out, f'error {code}' if code else ''

    def _iface(self, given, command):
        name = given['-I']
        if given.get('--op') == 'new':
            self.ifaces[name] = {'iface.transport_name': 'tcp'}
        elif name not in self.ifaces:
            return 6, ''
        elif given.get('--op') == 'update':
            self.ifaces[name][given['-n']] = given['-v']
        elif given.get('--op') == 'delete':
            del self.ifaces[name]
            return 0, ''
        return 0, ''.join(f'{key} = {value}\n' for key, value in {
            'iface.iscsi_ifacename': name, 'iface.ipaddress': '<empty>',
            **self.ifaces[name]}.items())

    def _node(self, given, command):
        if '-p' not in given:
            return 0, ''.join(f'{portal},1 {IQN}\n' for portal in self.nodes)
        portal, named = given['-p'], given.get('-I')
        iface = self.nodes.get(portal)
        if given.get('--op') == 'new':
            self.nodes[portal] = given['--interface']
            return 0, ''
        if '--logout' in command:
            for number, (at, over) in list(self.sessions.items()):
                if at == portal and named in (None, over):
                    self._end(number)
            return 0, ''
        if not iface or named not in (None, iface):
            return 21, ''
        if '--login' in command:
            return self._login(portal, iface)
        if given.get('--op') == 'delete':
            del self.nodes[portal]
        return 0, f'iface.iscsi_ifacename = {iface}\n'

    def _login(self, portal, iface):
        self.logins.append((portal, iface))
        if {iface, (portal, iface)} & self.dead:
            return 8, ''
        number = str(len(self.logins))
        self.sessions[number] = portal, iface
        host, __, port = portal.rpartition(':')
        self.sys.write(f'iscsi_session/session{number}/targetname', IQN)
        self.sys.write(f'iscsi_session/session{number}/ifacename', iface)
        folder = f'iscsi_connection/connection{number}:0'
        self.sys.write(f'{folder}/persistent_address', host)
        self.sys.write(f'{folder}/persistent_port', port)
        return 0, ''

    def _end(self, number):
        del self.sessions[number]
        os.unlink(os.path.join(
            self.sys.path, f'iscsi_session/session{number}/targetname'))

    def _session(self, given, command):
        return 0, ''.join(
            f'tcp: [{number}] {portal},1 {IQN} (non-flash)\n'
            for number, (portal, __) in self.sessions.items())

    def _discovery(self, given, command):
        return 0, ''


class Sys(fixtures.TempDir):
    """What stands in for /sys/class."""

    def write(self, path, text=''):
        path = os.path.join(self.path, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(f'{text}\n')


class HostTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.sys = self.useFixture(Sys())
        self.mock_object(iscsi_ifaces, '_SYS', self.sys.path)
        self.mock_object(iscsi_ifaces.Ifaces, '_said', set())
        self.warnings = []
        self.mock_object(iscsi_ifaces.LOG, 'warning',
                         lambda text, *values: self.warnings.append(
                             text % values))
        for device in ('eth1', 'eth2'):
            self.sys.write(f'net/{device}/address', '02:00:00:00:00:01')
        self.host = OpenISCSI(self.sys)
        self.host.ifaces = {
            name: {'iface.transport_name': 'tcp',
                   'iface.net_ifacename': device}
            for name, device in (('left', 'eth1'), ('right', 'eth2'))}

    def connector(self, transport='default', **kwargs):
        return iscsi.ISCSIConnector(None, execute=self.host.execute,
                                    transport=transport, **kwargs)

    def forbid_fallback(self):
        self.fixture.config(iscsi_iface_fallback=False, group='os_brick')

    def connect(self, transport, properties=NODE):
        """Log in as for a multipath; sessions that were made."""
        self.made = self.connector(transport)
        self.made.ifaces.prepare()
        paths = self.made.ifaces.over(
            self.made._get_all_targets(iscsi_paths.checked(properties)))
        with futures.ThreadPoolExecutor(len(paths)) as executor:
            for portal, iqn, lun, login in paths:
                path = iscsi_ifaces.path(properties, login, alone=False)
                path.update(target_portal=portal, target_iqn=iqn,
                            target_lun=lun)
                executor.submit(self.made._connect_to_iscsi_portal, path)
        return sorted(self.host.sessions.values())

    def disconnect(self, connector, *portals):
        for portal in portals:
            connector._disconnect_from_iscsi_portal(
                NODE | {'target_portal': portal})


@ddt.ddt
class ParseTestCase(base.TestCase):

    @ddt.data(
        ('default', 'default', {}),
        ('iser', 'iser', {}),
        (' left ', 'left', {}),
        (f'cxgb4i.{MAC}', f'cxgb4i.{MAC}',
         {'iface.transport_name': 'cxgb4i', 'iface.hwaddress': MAC}),
        (f'qla4xxx.{MAC}.ipv4.0', f'qla4xxx.{MAC}.ipv4.0',
         {'iface.transport_name': 'qla4xxx', 'iface.hwaddress': MAC}),
        ('tcp.eth1', 'tcp.eth1', {'iface.transport_name': 'tcp',
                                  'iface.net_ifacename': 'eth1'}),
        (f'hba=qedi.{MAC}@192.0.2.7', 'hba',
         {'iface.transport_name': 'qedi', 'iface.hwaddress': MAC,
          'iface.ipaddress': '192.0.2.7'}),
        ('v6=tcp.eth1.5@2001:db8::7', 'v6',
         {'iface.transport_name': 'tcp', 'iface.net_ifacename': 'eth1.5',
          'iface.ipaddress': '2001:db8::7'}))
    @ddt.unpack
    def test_fine(self, text, name, settings):
        iface = iscsi_ifaces.Iface.parse(text)
        self.assertEqual(name, iface.name)
        self.assertEqual(settings, iface.settings)
        self.assertEqual('=' in text, iface.described)

    @ddt.data('', '-I', '../x', 'a b', 'x' * 65, 'x=', 'x=tcp', 'x=tcp.',
              'x=udp.eth1', 'x=tcp.eth1@', 'x=tcp.eth1@nowhere',
              'x=tcp.../eth1', '=tcp.eth1', 'default=tcp.eth1',
              'iser=tcp.eth1')
    def test_refused(self, text):
        error = self.assertRaises(iscsi_ifaces.Unusable,
                                  iscsi_ifaces.Iface.parse, text)
        self.assertIn(repr(text), str(error))


class ChosenTestCase(HostTestCase):
    """Which ifaces a connector has."""

    def names(self, *args):
        return [iface.name for iface in self.connector(*args).ifaces._asked]

    def test_none_asked_for(self):
        self.assertEqual(['default'], self.names())
        self.assertEqual([], self.host.commands)

    def test_of_the_configuration(self):
        self.fixture.config(iscsi_ifaces=['left', 'new=tcp.eth2'],
                            group='os_brick')
        self.assertEqual(['left', 'new'], self.names())
        self.assertEqual(['right'], self.names('right'))
        self.assertEqual(['iser'], self.names('iser'))

    def test_several(self):
        self.assertEqual(['left', 'right'], self.names('left,right,left'))
        self.assertEqual(['left', 'right'], self.names(['left', 'right']))

    def test_one_as_ever(self):
        self.assertEqual('left', self.connector('left')._get_transport())
        self.assertEqual('default', self.connector('lost')._get_transport())

    def test_options_are_listed(self):
        from os_brick import opts

        names = [option.name for option in dict(opts.list_opts())['os_brick']]
        self.assertIn('iscsi_ifaces', names)
        self.assertEqual([], cfg.CONF.os_brick.iscsi_ifaces)


class PrepareTestCase(HostTestCase):

    def prepare(self, transport):
        connector = self.connector(transport)
        connector.ifaces.prepare()
        return connector.ifaces._usable

    def test_made(self):
        self.assertEqual(['new'], self.prepare('new=tcp.eth1@192.0.2.7'))
        self.assertEqual({'iface.transport_name': 'tcp',
                          'iface.net_ifacename': 'eth1',
                          'iface.ipaddress': '192.0.2.7'},
                         self.host.ifaces['new'])

    def test_put_right(self):
        self.prepare('left=tcp.eth2')
        self.assertEqual('eth2',
                         self.host.ifaces['left']['iface.net_ifacename'])
        self.host.commands.clear()
        self.prepare('left=tcp.eth2')
        self.assertEqual(['-m iface -I left'], self.host.commands)

    def test_named_by_transport_and_hardware(self):
        """What is there stays as it is, else it is made."""
        self.sys.write('iscsi_transport/cxgb4i/handle')
        self.sys.write('iscsi_host/host3/hwaddress', MAC.upper())
        name = f'cxgb4i.{MAC}'
        self.forbid_fallback()
        self.assertEqual([name], self.prepare(name))
        self.assertEqual('cxgb4i',
                         self.host.ifaces[name]['iface.transport_name'])
        self.host.ifaces[name]['iface.ipaddress'] = '192.0.2.9'
        self.assertEqual([name], self.prepare(name))
        self.assertEqual('192.0.2.9',
                         self.host.ifaces[name]['iface.ipaddress'])

    def absent(self, transport):
        """Why none can be used; nothing was made."""
        self.forbid_fallback()
        before = dict(self.host.ifaces)
        error = self.assertRaises(exception.BrickException, self.prepare,
                                  transport)
        self.assertEqual(before, self.host.ifaces)
        return str(error)

    def test_no_transport(self):
        self.assertIn('iscsi_transport/bnx2i',
                      self.absent(f'x=bnx2i.{MAC}'))

    def test_no_net_device(self):
        self.assertIn('net/eth9', self.absent('x=tcp.eth9'))

    def test_no_hardware_address(self):
        self.assertIn(MAC, self.absent(f'x=tcp.{MAC}'))

    def test_no_rdma_device(self):
        self.assertIn('RDMA', self.absent('iser'))
        self.sys.write('infiniband/rxe0/node_guid')
        self.assertEqual(['iser'], self.prepare('iser'))

    def test_hardware_of_one_that_is_there(self):
        self.host.ifaces['left']['iface.net_ifacename'] = 'eth9'
        self.assertIn('net/eth9', self.absent('left,x=tcp.eth9'))

    def test_none_of_the_name(self):
        self.assertIn('lost', self.absent('lost'))

    def test_wrong_and_twice(self):
        """Told when a volume is connected, not when the host is looked at."""
        connector = self.connector('left=tcp.eth1,left=tcp.eth2,a b')
        connector.ifaces.prepare()
        self.assertEqual(['left'], connector.ifaces._usable)
        self.assertEqual(2, len(self.warnings))
        self.assertIn('another left', self.warnings[0])
        self.assertIn("'a b'", self.warnings[1])

    def test_not_allowed(self):
        def refuse(given, command):
            return (19, '') if '--op' in given else (6, '')

        self.host._iface = refuse
        self.assertIn('error 19', self.absent('x=tcp.eth1'))

    def test_half_made(self):
        """It is gone, so that nobody takes it for one that is wanted."""
        whole = self.host._iface

        def refuse(given, command):
            return ((6, '') if '192.0.2.7' in command
                    else whole(given, command))

        self.host._iface = refuse
        self.assertIn('error 6', self.absent('x=tcp.eth1@192.0.2.7'))

    def test_unreadable(self):
        self.host._iface = lambda given, command: (19, '')
        self.assertIn('error 19', self.absent('left'))
        self.assertIn('error 19', self.absent('left=tcp.eth1'))

    def test_one_of_two(self):
        """The other is used; it is said once."""
        for _ in range(2):
            self.assertEqual(['left'], self.prepare('left,x=tcp.eth9'))
        self.assertEqual(1, len(self.warnings))
        self.assertIn('net/eth9', self.warnings[0])

    def test_default_instead(self):
        self.assertEqual(['default'], self.prepare('x=tcp.eth9'))
        self.assertEqual(1, len(self.warnings))


class LoginTestCase(HostTestCase):

    def test_default(self):
        """As it ever was."""
        self.assertEqual([(PORTAL, 'default')], self.connect('default'))
        self.assertNotIn('-I', ' '.join(self.host.commands))

    def test_one(self):
        self.assertEqual([(PORTAL, 'left')], self.connect('left'))
        self.assertIn(f'-m node -T {IQN} -p {PORTAL} -I left --login',
                      self.host.commands)

    def test_two_over_two(self):
        self.assertEqual(
            [(portal, iface) for portal in (PORTAL, OTHER)
             for iface in ('left', 'right')],
            self.connect('left,right', PLURAL))

    def test_session_of_another_iface(self):
        """It is not taken for the one that is wanted."""
        self.connect('left')
        self.assertEqual([(PORTAL, 'default'), (PORTAL, 'left')],
                         self.connect('default'))

    def test_record_of_another_iface(self):
        self.host.nodes[PORTAL] = 'left'
        self.assertEqual([(PORTAL, 'default')], self.connect('default'))
        self.host.nodes[OTHER] = 'default'
        self.assertEqual([(PORTAL, 'default'), (OTHER, 'right')],
                         self.connect('right', NODE | {
                             'target_portal': OTHER}))

    def test_session_that_is_there(self):
        self.connect('left')
        self.connect('left')
        self.assertEqual(1, len(self.host.logins))

    def test_default_instead(self):
        self.host.dead = {'left'}
        self.assertEqual([(PORTAL, 'default')], self.connect('left'))
        self.assertEqual([(PORTAL, 'left'), (PORTAL, 'default')],
                         self.host.logins)
        self.connect('left')
        self.assertEqual(1, len(self.warnings))

    def test_default_not_allowed(self):
        self.forbid_fallback()
        self.host.dead = {'left'}
        self.assertEqual([], self.connect('left'))

    def test_default_only_if_no_other_does(self):
        """A portal that is dead needs no more than it takes to know."""
        self.host.dead = {(PORTAL, 'left'), (OTHER, 'left'),
                          (OTHER, 'right')}
        self.assertEqual([(PORTAL, 'right')],
                         self.connect('left,right', PLURAL))
        self.assertNotIn('default', [name for __, name in self.host.logins])

    def test_default_at_each_portal(self):
        self.host.dead = {'left', 'right'}
        self.assertEqual([(PORTAL, 'default'), (OTHER, 'default')],
                         self.connect('left,right', PLURAL))
        self.assertEqual(6, len(self.host.logins))

    def test_default_among_them(self):
        self.host.dead = {'left'}
        self.connect('left,default')
        self.assertEqual([(PORTAL, 'left'), (PORTAL, 'default')],
                         self.host.logins)

    def test_in_turn(self):
        """With one path, the first that works; at last the default one."""
        connector = self.connector('left,right')
        connector.ifaces.prepare()
        names = [(path.login.name, path.alone)
                 for path in connector.ifaces.each(iscsi_paths.each([NODE]))]
        self.assertEqual([('left', False), ('right', False),
                          ('default', True)], names)
        self.forbid_fallback()
        names = [(path.login.name, path.alone)
                 for path in connector.ifaces.each(iscsi_paths.each([NODE]))]
        self.assertEqual([('left', False), ('right', False)], names)

    def test_only_one(self):
        connector = self.connector()
        path, = connector.ifaces.each(iscsi_paths.each([NODE]))
        self.assertTrue(path.alone)


class DiscoveryTestCase(HostTestCase):

    def discover(self, transport, *dead):
        self.tried = []

        def discovery(given, command):
            self.tried.append(given['-I'])
            return (4, '') if given['-I'] in dead else (
                0, f'{PORTAL},1 {IQN}\n{OTHER},1 {IQN}\n')

        self.host._discovery = discovery
        connector = self.connector(transport)
        connector.ifaces.prepare()
        return sorted(
            portal for portal, *__ in iscsi_paths.discovered(connector, NODE))

    def test_over_the_iface(self):
        self.assertEqual([PORTAL, OTHER], self.discover('left'))
        self.assertEqual(['left'], self.tried)

    def test_over_another(self):
        self.assertEqual([PORTAL, OTHER], self.discover('left,right', 'left'))
        self.assertEqual(['left', 'right'], self.tried)

    def test_over_what_can_be_used(self):
        self.assertEqual([PORTAL, OTHER], self.discover('x=tcp.eth9'))
        self.assertEqual(['default'], self.tried)

    def test_over_the_default(self):
        self.assertEqual([PORTAL, OTHER], self.discover('left', 'left'))
        self.assertEqual(['left', 'default'], self.tried)
        self.forbid_fallback()
        self.assertEqual([PORTAL], self.discover('left', 'left'))

    def test_recalled(self):
        """Of any configuration; iSER's are apart."""
        for name, wanted, expected in (
                ('default', 'default', True), ('default', 'iser', False),
                ('iser', 'default', False), ('right', 'default', True),
                ('right', 'iser', True)):
            self.assertEqual(expected, iscsi_ifaces.recorded(
                f'Iface Name: {name}', f'Iface Name: {wanted}'))
        self.assertFalse(iscsi_ifaces.recorded('iSNS:',
                                               'Iface Name: default'))


class ConnectTestCase(HostTestCase):
    """The connector's own ways to the ifaces."""

    def logins(self, use_multipath):
        connector = self.connector('left,right', use_multipath=use_multipath)
        self.mock_object(connector, 'check_multipath')
        self.mock_object(connector, '_cleanup_connection')
        seen = []

        def connect(rescans, properties, data):
            seen.append((properties['target_portal'], properties.login.name))
            data['stopped_threads'] += 1

        self.mock_object(connector, '_connect_vol', connect)
        self.assertRaises(exception.VolumeDeviceNotFound,
                          connector.connect_volume, PLURAL)
        return seen

    def test_each_over_each(self):
        """At the same time for a multipath, else in turn."""
        every = [(portal, iface) for portal in (PORTAL, OTHER)
                 for iface in ('left', 'right')]
        self.assertEqual(set(every), set(self.logins(use_multipath=True)))
        self.assertEqual(every, self.logins(use_multipath=False)[:4])

    def test_prepared(self):
        self.fixture.config(iscsi_iface_fallback=False, group='os_brick')
        connector = self.connector('x=tcp.eth9')
        self.mock_object(connector, 'check_multipath')
        error = self.assertRaises(exception.BrickException,
                                  connector.connect_volume, NODE)
        self.assertIn('eth9', str(error))

    def outcomes(self, transport, *methods):
        """What comes of logins that end so, at the same time."""
        connector = self.connector(transport)
        logins = [login for *__, login in connector.ifaces.over([()])]
        with futures.ThreadPoolExecutor() as executor:
            return [each.exception() or each.result() for each in [
                executor.submit(connector.ifaces.connect, method,
                                iscsi_ifaces.path(NODE, login, False))
                for method, login in zip(methods, logins)]]

    @staticmethod
    def broken(properties):
        if properties.login.name == 'default':
            return 7, True
        raise ValueError(properties.login.name)

    def test_failure_without_fallback(self):
        """It is raised as it is."""
        self.forbid_fallback()
        error, = self.outcomes('left', self.broken)
        self.assertEqual('left', str(error))

    def test_failure_beside_a_success(self):
        error, result = self.outcomes('left,right', self.broken,
                                      lambda properties: (5, True))
        self.assertEqual('left', str(error))
        self.assertEqual((5, True), result)

    def test_failures_of_all(self):
        result, error = self.outcomes('left,right', self.broken, self.broken)
        self.assertEqual((7, True), result)
        self.assertEqual('right', str(error))

    def test_sessions(self):
        for number, iface in (('3', 'left'), ('4', '(null)')):
            self.sys.write(f'iscsi_session/session{number}/targetname', IQN)
            self.sys.write(f'iscsi_session/session{number}/ifacename', iface)
            folder = f'iscsi_connection/connection{number}:0'
            self.sys.write(f'{folder}/persistent_address', '2001:db8::1')
            self.sys.write(f'{folder}/persistent_port', '3260')
        self.assertEqual(
            {'3': 'left', '4': 'default'},
            iscsi_ifaces.sessions(NODE | {
                'target_portal': '[2001:DB8::1]:3260'}))
        properties = iscsi_ifaces.path(NODE, iscsi_ifaces.Login('right'),
                                       True)
        self.assertFalse(iscsi_ifaces.has('3', properties))
        self.assertTrue(iscsi_ifaces.has('4', properties))


class LogoutTestCase(HostTestCase):

    def test_all_that_was_made(self):
        self.connect('left,right', PLURAL)
        self.disconnect(self.made, PORTAL, OTHER)
        self.assertEqual({}, self.host.sessions)
        self.assertEqual({}, self.host.nodes)

    def test_fallback(self):
        self.host.dead = {'left'}
        self.connect('left')
        self.disconnect(self.made, PORTAL)
        self.assertEqual({}, self.host.sessions)
        self.assertEqual({}, self.host.nodes)

    def test_other_ifaces_by_now(self):
        self.connect('left')
        self.disconnect(self.connector('right'), PORTAL)
        self.assertEqual({}, self.host.sessions)
        self.assertEqual({}, self.host.nodes)

    def test_default(self):
        """As it ever was."""
        self.connect('default')
        self.host.commands.clear()
        self.disconnect(self.made, PORTAL)
        node = f'-m node -T {IQN} -p {PORTAL}'
        self.assertEqual(
            [f'{node} --op update -n node.startup -v manual',
             f'{node} --logout', f'{node} --op delete'], self.host.commands)
