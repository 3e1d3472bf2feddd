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
"""The portals that are told are those that targets are at."""

import types
from unittest import mock

import ddt
from oslo_concurrency import processutils
import rtslib_fb

from cinder.cmd import rtstool
from cinder import context
from cinder import exception
from cinder.privsep.targets import tgt_portals as privileged
from cinder.tests.unit.targets import targets_fixture
from cinder.tests.unit import test
from cinder.volume import configuration
from cinder.volume.drivers import lvm
from cinder.volume.targets import cxt
from cinder.volume.targets import iscsi_portals
from cinder.volume.targets import lio
from cinder.volume.targets import scst
from cinder.volume.targets import tgt
from cinder.volume.targets import tgt_portals

HELPERS = (cxt.CxtAdm, lio.LioAdm, scst.SCSTAdm, tgt.TgtAdm)
ONE_PORT = (cxt.CxtAdm, scst.SCSTAdm)
SECONDARY = ['2001:db8::7', '192.0.2.8', '192.0.2.7:3261',
             '[2001:db8::8]:3262']
PORTALS = ['10.9.8.7:3260', '[2001:db8::7]:3260', '192.0.2.8:3260',
           '192.0.2.7:3261', '[2001:db8::8]:3262']
WRONG = ('', '192.0.2.7:', '192.0.2.7:x', '192.0.2.7:0x1', '192.0.2.7:99999',
         '[2001:db8::7', '[2001:db8::7]x', '[2001:db8::7]:', ':3261')


@ddt.ddt
class PortalsTestCase(test.TestCase):

    def test_each_once(self):
        self.assertEqual(PORTALS, iscsi_portals.with_ports(
            ['10.9.8.7', *SECONDARY, '[2001:db8::7]', '10.9.8.7:3260'], 3260))
        self.assertEqual(['storage.example:3260'],
                         iscsi_portals.with_ports(['storage.example'], 3260))

    @ddt.data(*WRONG)
    def test_wrong(self, text):
        self.assertRaises(ValueError, iscsi_portals.split, text, 3260)

    def check(self, helper, *secondary):
        settings = types.SimpleNamespace(
            target_port=3260, target_secondary_ip_addresses=list(secondary))
        iscsi_portals.check(settings, object.__new__(helper))

    @ddt.data(*HELPERS)
    def test_checked(self, helper):
        self.check(helper, '192.0.2.7', '2001:db8::7', '192.0.2.8:3260')
        for text in WRONG:
            self.assertRaises(exception.InvalidConfigurationValue,
                              self.check, helper, '192.0.2.7', text)

    @ddt.data(*HELPERS)
    def test_ports(self, helper):
        if helper not in ONE_PORT:
            return self.check(helper, *SECONDARY)
        error = self.assertRaises(exception.InvalidConfigurationValue,
                                  self.check, helper, '192.0.2.7:3261')
        self.assertIn(helper.__name__, str(error))
        self.assertIn('192.0.2.7:3261', str(error))

    def test_at_start_up(self):
        settings = configuration.Configuration(lvm.volume_opts)
        settings.target_helper = 'scstadmin'
        settings.target_secondary_ip_addresses = ['192.0.2.7']
        lvm.LVMVolumeDriver(configuration=settings)
        settings.target_secondary_ip_addresses = ['192.0.2.7:3261']
        self.assertRaises(exception.InvalidConfigurationValue,
                          lvm.LVMVolumeDriver, configuration=settings)


@ddt.ddt
class ConnectionInfoTestCase(targets_fixture.TargetDriverFixture):
    """What is told of a volume, from the configuration to the host."""

    def tell(self, helper, connector, secondary=SECONDARY):
        self.configuration.target_secondary_ip_addresses = secondary
        self.mock_object(lio.LioAdm, '_verify_rtstool')
        self.mock_object(lio.LioAdm, '_execute')
        target = helper(configuration=self.configuration)
        self.mock_object(target, '_get_target_and_lun', return_value=(0, 3))
        self.mock_object(target, '_get_target_chap_auth',
                         return_value=('user', 'password'))
        self.create = self.mock_object(target, 'create_iscsi_target',
                                       return_value=1)
        volume = dict(self.testvol)
        export = target.create_export(context.get_admin_context(), volume,
                                      '/dev/vg/volume')
        volume['provider_location'] = export['location']
        volume['provider_auth'] = export['auth']
        return target.initialize_connection(
            volume, {'initiator': 'iqn.1994-05.com.example:host'} | connector
        )['data']

    @ddt.data(*HELPERS)
    def test_multipath(self, helper):
        data = self.tell(helper, {'multipath': True})
        self.assertEqual(PORTALS, data['target_portals'])
        self.assertEqual([data['target_iqn']] * 5, data['target_iqns'])
        self.assertEqual([3] * 5, data['target_luns'])
        self.assertEqual(PORTALS[0], data['target_portal'])
        self.assertEqual('CHAP', data['auth_method'])

    @ddt.data(*HELPERS)
    def test_one_path(self, helper):
        for connector in ({}, {'multipath': False}):
            data = self.tell(helper, connector)
            self.assertEqual(
                ['target_discovered', 'target_iqn', 'target_lun',
                 'target_portal'],
                sorted(key for key in data if key.startswith('target_')))
            self.assertEqual(PORTALS[0], data['target_portal'])

    @ddt.data(*HELPERS)
    def test_no_secondary(self, helper):
        """An option may have no value, rather than an empty list."""
        data = self.tell(helper, {'multipath': True}, secondary=None)
        self.assertEqual(PORTALS[:1], data['target_portals'])
        if helper is not scst.SCSTAdm:
            self.assertEqual(['10.9.8.7'],
                             self.create.call_args.kwargs['portals_ips'])


class LIOTestCase(test.TestCase):

    def test_own_ports(self):
        made = []

        def portal(tpg, host, port, mode):
            made.append((host, port))
            return mock.Mock()

        with mock.patch.multiple(
                rtslib_fb, NetworkPortal=portal, LUN=mock.DEFAULT,
                TPG=mock.DEFAULT, FabricModule=mock.DEFAULT,
                Target=mock.DEFAULT, BlockStorageObject=mock.DEFAULT), \
                mock.patch.object(rtslib_fb.root, 'RTSRoot',
                                  return_value=mock.Mock(storage_objects=[])):
            rtstool.create('/dev/vg/volume', 'iqn', 'user', 'password',
                           'False', portals_ips=['10.9.8.7', *SECONDARY],
                           portals_port=3260)
        self.assertEqual(PORTALS, ['%s:%s' % each for each in made])


class Tgtd:
    """What tgtd listens on, as tgtadm shows and changes it."""

    def __init__(self, *portals):
        self.portals = list(portals)
        self.added = []

    def show(self):
        return ''.join(f'Portal: {portal},1\n' for portal in self.portals)

    def add(self, portal):
        if portal.startswith('198.51.100.'):
            raise processutils.ProcessExecutionError(
                stderr='tgtadm: invalid request\n', exit_code=22)
        self.added.append(portal)
        self.portals.append(portal)


class TgtTestCase(test.TestCase):

    def tgtd(self, *portals):
        tgtd = Tgtd(*portals)
        self.mock_object(privileged, 'show', tgtd.show)
        self.mock_object(privileged, 'add', tgtd.add)
        return tgtd

    def test_what_is_not_there(self):
        tgtd = self.tgtd('0.0.0.0:3260', '[::]:3260')
        for _ in range(2):
            tgt_portals.listen(['10.9.8.7', *SECONDARY], 3260)
            self.assertEqual(PORTALS[-2:], tgtd.added)

    def test_one_family(self):
        tgtd = self.tgtd('0.0.0.0:3260')
        tgt_portals.listen(['10.9.8.7', '2001:db8::7'], 3260)
        self.assertEqual(['[2001:db8::7]:3260'], tgtd.added)

    def test_single_addresses(self):
        tgtd = self.tgtd('192.0.2.7:3260')
        tgt_portals.listen(['192.0.2.7', '192.0.2.8'], 3260)
        self.assertEqual(['192.0.2.8:3260'], tgtd.added)

    def test_name(self):
        tgtd = self.tgtd('[::]:3260')
        tgt_portals.listen(['storage.example'], 3260)
        self.assertEqual([], tgtd.added)

    def test_not_possible(self):
        self.tgtd('0.0.0.0:3260')
        error = self.assertRaises(
            exception.ISCSITargetHelperCommandFailed,
            tgt_portals.listen, ['198.51.100.7:3261'], 3260)
        self.assertIn('198.51.100.7:3261: tgtadm: invalid', str(error))

    def test_translated(self):
        """An address may be another's, who passes on what comes there."""
        tgtd = self.tgtd('192.0.2.7:3260')
        tgt_portals.listen(['198.51.100.7', '192.0.2.8'], 3260)
        self.assertEqual(['192.0.2.8:3260'], tgtd.added)

    def test_no_answer(self):
        self.mock_object(privileged, 'show', side_effect=(
            processutils.ProcessExecutionError(exit_code=107)))
        tgt_portals.listen(['192.0.2.7'], 3260)
