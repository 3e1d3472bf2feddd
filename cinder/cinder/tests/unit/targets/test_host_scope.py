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
"""A target for each host: what is shown to whom, whatever happens."""

import os
from unittest import mock

import ddt
import fixtures
from oslo_utils import timeutils

from cinder import context
from cinder import exception
from cinder import objects
from cinder.tests.unit import fake_constants as fake
from cinder.tests.unit import test
from cinder.tests.unit import utils
from cinder.volume import configuration
from cinder.volume import driver
from cinder.volume.drivers import lvm
from cinder.volume.targets import host_scope
from cinder.volume.targets import host_targets
from cinder.volume.targets import lio
from cinder.volume.targets import tgt

BACKEND = 'storage@lvm'
LEFT = 'iqn.1994-05.com.example:left'
RIGHT = 'iqn.1994-05.com.example:right'


class Killed(BaseException):
    """The service ends here, and does nothing any more."""


class Daemon:
    """What serves targets: it outlives the service.

    :ivar targets: IQN -> units by LUN, the initiator that is let in, and its
        account
    :ivar kill_at: the step at which the service is killed: before it, if
        negative after it
    """

    FIRST_LUN = 1

    def __init__(self):
        self.targets = {}
        self.absent = set()
        self.steps = 0
        self.listens = 0
        self.kill_at = None

    def made(self, configuration):
        self.configuration = configuration
        return self

    def listen(self):
        self.listens += 1

    def _step(self, change):
        self.steps += 1
        if self.kill_at is not None and self.steps >= abs(self.kill_at):
            if self.kill_at == -self.steps:
                change()
            raise Killed()
        change()

    def iqns(self):
        return set(self.targets)

    def read(self):
        return {iqn: dict(target['units'])
                for iqn, target in self.targets.items()}

    def add_target(self, iqn):
        if iqn in self.targets:
            raise ValueError(iqn)
        self._step(lambda: self.targets.update(
            {iqn: {'units': {}, 'in': None, 'account': None}}))

    def admit(self, iqn, initiator, user, password):
        self._step(lambda: self.targets[iqn].update(
            {'in': initiator, 'account': (user, password)}))

    def remove_target(self, iqn, user):
        if not self.targets.get(iqn, {}).get('units'):
            self._step(lambda: self.targets.pop(iqn, None))

    def add_lun(self, iqn, unit):
        units = self.targets[iqn]['units']
        if unit.lun in units or unit.path in self.absent:
            raise ValueError(unit)
        self._step(lambda: units.update({unit.lun: unit}))

    def remove_lun(self, iqn, lun):
        if iqn in self.targets:
            self._step(lambda: self.targets[iqn]['units'].pop(lun, None))

    def resize(self, iqn, lun, path):
        self.resized = (iqn, lun, path)


class HostScopeTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.daemon = Daemon()
        self.useFixture(fixtures.MockPatch(
            'cinder.volume.targets.host_scope._DAEMONS',
            {'tgtadm': self.daemon.made, 'lioadm': self.daemon.made}))
        self.exports = {}
        self.mock_object(tgt.TgtAdm, 'create_iscsi_target', self._export)
        self.mock_object(tgt.TgtAdm, 'remove_iscsi_target', self._unexport)
        self.mock_object(tgt.TgtAdm, 'show_target')
        self.begin()

    def _export(self, name, tid, lun, path, chap_auth=None, **kwargs):
        self.exports[name.partition(':')[2]] = path
        return 1

    def _unexport(self, tid, lun, volume_id, name, **kwargs):
        del self.exports[name]

    def begin(self, scope='host', **settings):
        """Start the service anew."""
        self.daemon.kill_at = None
        options = configuration.Configuration(
            [*driver.volume_opts, *lvm.volume_opts], config_group='lvm')
        for name, value in {
                'target_helper': 'tgtadm', 'target_scope': scope,
                'target_ip_address': '192.0.2.1', 'volumes_dir': self.folder,
                'target_prefix': 'iqn.2010-10.org.openstack:',
                'target_secondary_ip_addresses': ['2001:db8::1'],
                **settings}.items():
            self.override_config(name, value, group='lvm')
        by_volume = tgt.TgtAdm(configuration=options)
        self.options = options
        self.target = host_scope.scoped(by_volume, options, BACKEND)
        return self.target

    def volume(self, **values):
        return utils.create_volume(
            self.context, host=f'{BACKEND}#pool', testcase_instance=self,
            volume_type_id=fake.VOLUME_TYPE_ID, **values)

    @staticmethod
    def path(volume):
        return f'/dev/vg/{volume.name}'

    def reserve(self, volume):
        """An attachment before the service knows of it."""
        attachment = objects.VolumeAttachment(
            self.context, volume_id=volume.id, attach_status='reserved',
            instance_uuid=fake.INSTANCE_ID)
        attachment.create()
        return attachment

    def attach(self, volume, initiator=LEFT, **connector):
        """As the manager and the API do; the attachment."""
        attachment = self.reserve(volume)
        self.connect(volume, initiator, attachment, **connector)
        return attachment

    def connect(self, volume, initiator, attachment=None, **connector):
        connector['initiator'] = initiator
        volume.refresh()
        export = self.target.create_export(self.context, volume,
                                           self.path(volume))
        volume.provider_location = export['location']
        volume.provider_auth = export['auth']
        volume.save()
        told = self.target.initialize_connection(volume, connector)['data']
        if attachment:
            self.record(attachment, connector, told)
        return told

    @staticmethod
    def record(attachment, connector, told):
        """As the API does when the service has answered."""
        attachment.update({'connector': connector, 'connection_info': told})
        attachment.save()

    def detach(self, volume, attachment):
        volume.refresh()
        self.target.terminate_connection(volume, attachment.connector)
        attachment.destroy()
        if not objects.VolumeAttachmentList.get_all_by_volume_id(
                self.context, volume.id):
            self.target.remove_export(self.context, volume)

    def shown(self, initiator=LEFT):
        """LUN -> path, as a host finds it."""
        units = self.daemon.read().get(self.target.targets.iqn(initiator))
        return units and {lun: unit.path for lun, unit in units.items()}

    def ensure(self, *volumes):
        """As the manager does when the service begins."""
        for volume in volumes:
            volume.refresh()
            self.target.ensure_export(self.context, volume,
                                      self.path(volume))


@ddt.ddt
class MapTestCase(HostScopeTestCase):

    def test_own_target(self):
        volume = self.volume(shared_targets=False)
        left = self.attach(volume).connection_info
        right = self.attach(volume, RIGHT, multipath=True).connection_info
        self.assertEqual('192.0.2.1:3260', left['target_portal'])
        self.assertNotIn('target_portals', left)
        self.assertEqual(['192.0.2.1:3260', '[2001:db8::1]:3260'],
                         right['target_portals'])
        self.assertEqual([right['target_iqn']] * 2, right['target_iqns'])
        for told, initiator in ((left, LEFT), (right, RIGHT)):
            self.assertEqual(
                {'in': initiator,
                 'account': (told['auth_username'], told['auth_password']),
                 'units': {told['target_lun']: host_targets.Unit(
                     told['target_lun'], self.path(volume),
                     volume.id.replace('-', ''))}},
                self.daemon.targets[told['target_iqn']])
        self.assertEqual(
            4, len({told[key] for told in (left, right)
                    for key in ('auth_username', 'auth_password')}))
        self.assertEqual(volume.id, left['volume_id'])
        self.assertTrue(volume.shared_targets)

    def test_luns(self):
        """One that was given comes again as late as can be."""
        self.mock_object(host_targets, 'LAST_LUN', 4)
        volumes = [self.volume() for _ in range(5)]
        attachments = [self.attach(volume) for volume in volumes[:3]]
        self.detach(volumes[1], attachments[1])
        self.assertEqual({1: self.path(volumes[0]), 3: self.path(volumes[2])},
                         self.shown())
        self.attach(volumes[3])
        self.assertEqual({1, 3, 4}, set(self.shown()))
        self.begin()
        self.attach(volumes[1])
        self.assertEqual({1, 2, 3, 4}, set(self.shown()))
        self.assertRaises(exception.ISCSITargetHelperCommandFailed,
                          self.attach, volumes[4])
        self.assertEqual({1, 2, 3, 4}, set(self.shown()))

    def test_last(self):
        volume = self.volume()
        for _ in range(2):
            attachment = self.attach(volume)
            self.assertEqual(1, len(self.daemon.targets))
            self.detach(volume, attachment)
            self.assertEqual({}, self.daemon.targets)

    def test_connected_again(self):
        """A hard reboot does so."""
        volume = self.volume()
        told = self.attach(volume).connection_info
        self.assertEqual(told, self.connect(volume, LEFT))

    def test_case(self):
        """tgtd compares names as they are, so a name is as it is."""
        volume = self.volume()
        names = ('iqn.1994-05.com.Example:Left', LEFT)
        for name in names:
            told = self.attach(volume, name).connection_info
            self.assertEqual(name, self.daemon.targets[
                told['target_iqn']]['in'])

    def test_no_text(self):
        volume = self.volume()
        for name in (None, 7):
            self.assertRaises(exception.InvalidConnectorException,
                              self.target.validate_connector,
                              {'initiator': name})
            self.assertRaises(exception.InvalidConnectorException,
                              self.connect, volume, name)
        self.assertTrue(self.target.validate_connector({'initiator': LEFT}))

    @ddt.data('', 'left', 'iqn.x,targetname=iqn.y', 'iqn.x y', 'iqn.x\0',
              'iqn.x/../y', 'iqn.' + 'x' * 220)
    def test_no_initiator(self, name):
        self.assertRaises(exception.InvalidConnectorException,
                          self.target.validate_connector, {'initiator': name})
        self.assertRaises(exception.InvalidConnectorException,
                          self.connect, self.volume(), name)
        self.assertEqual({}, self.daemon.targets)

    def test_twice_on_a_host(self):
        """As when a server is resized to the host it is on."""
        volume = self.volume()
        first, second = self.attach(volume), self.attach(volume)
        self.assertEqual(first.connection_info, second.connection_info)
        self.detach(volume, first)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.detach(volume, second)
        self.assertIsNone(self.shown())

    def test_failure_elsewhere(self):
        """The manager calls remove_export when a host could not connect."""
        volume = self.volume()
        self.attach(volume)
        self.connect(volume, RIGHT)
        self.target.remove_export(self.context, volume)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.assertIsNone(self.shown(RIGHT))

    def test_two_hosts_at_once(self):
        """The volume was read before the other host was told of it."""
        volume = self.volume()
        early = objects.Volume.get_by_id(self.context, volume.id)
        self.attach(volume)
        self.assertEqual(volume.provider_location, self.target.create_export(
            self.context, early, self.path(volume))['location'])

    def test_told_meanwhile(self):
        """One host is told of it while another one's connection fails."""
        volume = self.volume()
        coming = self.reserve(volume)
        told = self.connect(volume, RIGHT)
        self.target.remove_export(self.context, volume)
        self.assertEqual({1: self.path(volume)}, self.shown(RIGHT))
        self.record(coming, {'initiator': RIGHT}, told)
        self.detach(volume, coming)
        self.assertIsNone(self.shown(RIGHT))

    def test_told_meanwhile_on_a_host(self):
        """A host is told of it again while it lets go of it."""
        volume = self.volume()
        going, coming = self.attach(volume), self.reserve(volume)
        told = self.connect(volume, LEFT)
        self.detach(volume, going)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.record(coming, {'initiator': LEFT}, told)
        self.detach(volume, coming)
        self.assertIsNone(self.shown())

    def test_beside_a_shelved_server(self):
        """Its attachment is not taken for one that is about to be recorded."""
        volume = self.volume()
        shelved = self.reserve(volume)
        shelved.update({'attach_status': 'attached'})
        shelved.save()
        going = self.attach(volume)
        self.detach(volume, going)
        self.assertIsNone(self.shown())
        # Unshelved, on the host that another server leaves meanwhile.
        going = self.attach(volume)
        told = self.connect(volume, LEFT)
        self.detach(volume, going)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.record(shelved, {'initiator': LEFT}, told)
        self.detach(volume, shelved)
        self.assertIsNone(self.shown())

    def test_by_force(self):
        """The host is not known: it is by who is left."""
        volume = self.volume()
        left = self.attach(volume)
        self.attach(volume, RIGHT)
        self.target.terminate_connection(volume, None, force=True)
        left.destroy()
        self.target.remove_export(self.context, volume)
        self.assertIsNone(self.shown())
        self.assertEqual({1: self.path(volume)}, self.shown(RIGHT))

    def test_failure(self):
        """Nothing is left of a volume that could not be shown."""
        other, volume = self.volume(), self.volume()
        self.daemon.absent.add(self.path(volume))
        self.assertRaises(ValueError, self.attach, volume)
        self.assertEqual({}, self.daemon.targets)
        self.attach(other)
        self.assertRaises(ValueError, self.attach, volume)
        self.assertEqual({1: self.path(other)}, self.shown())
        self.daemon.absent.clear()
        self.attach(volume)
        self.assertEqual({self.path(other), self.path(volume)},
                         set(self.shown().values()))

    def test_taken_over(self):
        """By a connector of another host, and then one that is refused."""
        volume, other, kept = (self.volume() for _ in range(3))
        self.attach(kept)
        attachment = self.attach(volume)
        before = attachment.connection_info['target_lun']
        self.connect(volume, RIGHT, attachment)
        self.target.remove_export(self.context, volume)
        self.assertNotEqual(before, self.attach(
            other).connection_info['target_lun'])

    def test_listens(self):
        for _ in range(2):
            self.connect(self.volume(), LEFT)
        self.assertIs(self.options, self.daemon.configuration)
        self.assertEqual(1, self.daemon.listens)

    def test_extended(self):
        volume = self.volume()
        told = self.attach(volume).connection_info
        self.target.extend_target(volume)
        self.assertEqual((told['target_iqn'], 1, self.path(volume)),
                         self.daemon.resized)

    def test_migrated(self):
        """While attached: it has what is another's until then."""
        volume, other = self.volume(), self.volume()
        attachment = self.attach(other)
        path, location = self.path(other), other.provider_location
        volume.finish_volume_migration(other)
        # As the driver and the manager do.
        volume.update({'_name_id': other.id, 'provider_location': location})
        volume.save()
        attachment.volume_id = volume.id
        attachment.save()
        other.refresh()
        self.target.remove_export(self.context, other)
        self.assertEqual({1: path}, self.shown())
        self.detach(volume, attachment)
        self.assertIsNone(self.shown())

    def test_named_by_another(self):
        """After a migration its data has another volume's name."""
        volume = self.volume()
        volume.update({'_name_id': fake.VOLUME2_ID})
        volume.save()
        told = self.attach(volume).connection_info
        self.assertEqual(volume.id, told['volume_id'])
        self.assertEqual(
            host_targets.Unit(1, self.path(volume),
                              fake.VOLUME2_ID.replace('-', '')),
            self.daemon.targets[told['target_iqn']]['units'][1])
        self.begin()
        self.ensure(volume)
        self.assertEqual({1: self.path(volume)}, self.shown())

    def test_lio(self):
        """Without what LioAdm does, with passwords, for its own targets."""
        self.mock_object(lio.LioAdm, '_verify_rtstool')
        run = self.mock_object(lio.LioAdm, '_execute')
        self.begin(target_helper='lioadm')
        self.target = host_scope.scoped(
            lio.LioAdm(configuration=self.options), self.options, BACKEND)
        volume = self.volume()
        attachment = self.attach(volume, multipath=True)
        told = attachment.connection_info
        # Its own are restored only where there is no target.
        run.assert_called_once_with('cinder-rtstool', 'restore',
                                    run_as_root=True)
        run.reset_mock()
        self.assertEqual({told['target_lun']: self.path(volume)},
                         self.shown())
        self.assertEqual(2, len(told['target_portals']))
        self.detach(volume, attachment)
        self.assertIsNone(self.shown())
        run.assert_not_called()

    def test_writes_through(self):
        """What is not done is not accepted."""
        self.assertRaises(exception.InvalidConfigurationValue, self.begin,
                          iscsi_write_cache='off')
        self.begin('volume', iscsi_write_cache='off')

    def test_failure_of_the_daemon(self):
        """It fails, and can not take back what it may have done."""
        volume, other = self.volume(), self.volume()
        self.attach(other)
        self.daemon.absent.add(self.path(volume))
        with mock.patch.object(self.daemon, 'remove_lun',
                               side_effect=OSError):
            self.assertRaises(OSError, self.attach, volume)
        self.assertRaises(ValueError, self.connect, volume, LEFT)
        self.daemon.absent.clear()
        lun = self.connect(volume, LEFT)['target_lun']
        self.assertEqual(self.path(volume), self.shown()[lun])

    def test_by_rdma(self):
        self.assertRaises(exception.InvalidConfigurationValue, self.begin,
                          target_protocol='iser')

    def test_driver(self):
        """It uses what hosts are to have, and says that they share it."""
        for scope, shared in (('host', True), ('volume', False)):
            self.begin(scope)
            made = lvm.LVMVolumeDriver(mock.MagicMock(vg_thin_pool_size=0),
                                       configuration=self.options,
                                       host=BACKEND)
            self.assertIsInstance(made.target_driver,
                                  host_scope.ScopedTarget)
            made._update_volume_stats()
            self.assertIs(shared, made._stats['pools'][0].get(
                'shared_targets', made._stats.get('shared_targets')))

    def test_secrets(self):
        told = self.attach(self.volume()).connection_info
        self.assertNotIn(told['auth_password'],
                         repr(self.target.targets.hosts))
        path = os.path.join(self.folder, 'hosts', f'{BACKEND}.json')
        self.assertEqual(0o100600, os.stat(path).st_mode)
        self.assertEqual([f'{BACKEND}.json'],
                         os.listdir(os.path.dirname(path)))

    @ddt.data('lioadm', 'scstadmin', 'nvmet')
    def test_other_helper(self, helper):
        target = mock.Mock()
        settings = {'target_helper': helper, 'target_scope': 'host'}
        options = mock.Mock(safe_get=settings.get)
        self.assertRaises(exception.InvalidConfigurationValue,
                          host_scope.scoped, target, options, BACKEND)
        settings['target_scope'] = 'volume'
        self.assertIs(target, host_scope.scoped(target, options, BACKEND))


class SwitchTestCase(HostScopeTestCase):
    """The option changes while volumes are attached."""

    def test_to_hosts(self):
        self.begin('volume')
        volume, other = self.volume(), self.volume()
        first = self.attach(volume)
        self.begin('host')
        self.ensure(volume)
        second = self.attach(volume, RIGHT)
        self.assertEqual(first.connection_info, second.connection_info)
        self.attach(other)
        self.assertEqual({1: self.path(other)}, self.shown())
        self.detach(volume, first)
        self.assertEqual([volume.name], list(self.exports))
        self.detach(volume, second)
        self.assertEqual({}, self.exports)
        self.attach(volume)
        self.assertEqual(2, len(self.shown()))

    def test_to_volumes(self):
        volume = self.volume()
        first = self.attach(volume)
        self.begin('volume')
        self.ensure(volume)
        second = self.attach(volume, RIGHT)
        self.assertEqual({1: self.path(volume)}, self.shown(RIGHT))
        self.detach(volume, first)
        self.detach(volume, second)
        self.assertEqual(({}, {}), (self.daemon.targets, self.exports))
        self.attach(volume)
        self.assertEqual([volume.name], list(self.exports))


@ddt.ddt
class RestartTestCase(HostScopeTestCase):

    def assert_shown(self, *pairs):
        """Exactly these attachments' volumes are shown."""
        self.assertEqual(
            {each.connection_info['target_iqn']:
             [(each.connection_info['target_lun'], self.path(volume))]
             for each, volume in pairs},
            {iqn: [(lun, unit.path) for lun, unit in units.items()]
             for iqn, units in self.daemon.read().items()})

    def test_killed(self):
        """At each step of an attach and of a detach, before it and after."""
        kept, volume = self.volume(), self.volume()
        attachment = self.attach(kept, RIGHT)
        for step in (1, -1, 2, -2, 3, -3):
            self.kill_at(step, self.attach, volume)
            for left in objects.VolumeAttachmentList.get_all_by_volume_id(
                    self.context, volume.id):
                left.destroy()
            self.begin()
            self.ensure(kept)
            self.assert_shown((attachment, kept))
        for step in (1, -1, 2, -2):
            going = self.attach(volume)
            self.kill_at(step, self.detach, volume, going)
            self.begin()
            self.ensure(kept, volume)
            self.assert_shown((attachment, kept), (going, volume))
            self.detach(volume, going)
            self.assert_shown((attachment, kept))

    def kill_at(self, step, what, *args):
        """At one of its steps, from 1; after it if it is negative."""
        self.daemon.kill_at = step + (self.daemon.steps if step > 0
                                      else -self.daemon.steps)
        self.assertRaises(Killed, what, *args)

    def lose_file(self):
        os.unlink(os.path.join(self.folder, 'hosts', f'{BACKEND}.json'))

    def test_file_lost_alone(self):
        """The daemon has all, and hosts use it."""
        volumes = [self.volume() for _ in range(3)]
        for volume in volumes:
            self.attach(volume)
        volumes[2].update({'status': 'extending'})
        volumes[2].save()
        before = self.daemon.read()
        steps = self.daemon.steps
        self.lose_file()
        self.begin()
        self.ensure(volumes[0])
        self.assertEqual(before, self.daemon.read())
        self.assertEqual(steps + 1, self.daemon.steps)

    def test_file_not_readable(self):
        volume = self.volume()
        told = self.attach(volume).connection_info
        path = os.path.join(self.folder, 'hosts', f'{BACKEND}.json')
        for text in ('', '{"x": 1}', '[]', '{"x": {"units": {"a": {}}}}'):
            with open(path, 'w') as file:
                file.write(text)
            self.begin()
            self.ensure(volume)
            self.assertEqual(told, self.connect(volume, LEFT))
            self.assertTrue(os.path.exists(f'{path}.broken'))

    def test_file_of_another_time(self):
        """Another node has served meanwhile: attachments know better."""
        volumes = [self.volume() for _ in range(2)]
        path = os.path.join(self.folder, 'hosts', f'{BACKEND}.json')
        attachments = [self.attach(volume) for volume in volumes]
        with open(path) as file:
            old = file.read()
        for volume, attachment in zip(volumes, attachments):
            self.detach(volume, attachment)
        attachments = [self.attach(volume) for volume in volumes[::-1]]
        before = self.daemon.read()
        with open(path, 'w') as file:
            file.write(old)
        self.begin()
        self.ensure(*volumes)
        self.assertEqual(before, self.daemon.read())
        for volume, attachment in zip(volumes[::-1], attachments):
            self.assertEqual(attachment.connection_info,
                             self.connect(volume, LEFT))

    def test_two_for_a_lun(self):
        """Which of them a host uses there is not known: neither is shown."""
        volumes = [self.volume() for _ in range(3)]
        attachments = [self.attach(volume) for volume in volumes]
        attachments[1].connection_info = attachments[0].connection_info
        attachments[1].save()
        for lost in (False, True):
            if lost:
                self.lose_file()
            self.begin()
            self.ensure(*volumes)
            self.assertEqual({3: self.path(volumes[2])}, self.shown())

    def test_file_against_a_record(self):
        """A host was told of one and it was recorded, and not of the other."""
        volumes = [self.volume() for _ in range(2)]
        first, second = (self.attach(volume) for volume in volumes)
        path = os.path.join(self.folder, 'hosts', f'{BACKEND}.json')
        with open(path) as file:
            text = file.read()
        with open(path, 'w') as file:
            file.write(text.replace('"lun": 2', '"lun": 1'))
        second.connection_info = {}
        second.save()
        self.begin()
        self.ensure(*volumes)
        self.assertEqual({1: self.path(volumes[0])}, self.shown())

    def test_one_host_that_fails(self):
        """The others do not wait for it, and it is tried again."""
        volume = self.volume(multiattach=True)
        for host in (LEFT, RIGHT):
            self.attach(volume, host)
        shown = self.shown(RIGHT)
        self.daemon.targets.clear()
        self.begin()
        add_target = self.daemon.add_target

        def fail(iqn):
            if iqn == self.target.targets.iqn(LEFT):
                raise ValueError(iqn)
            add_target(iqn)

        with mock.patch.object(self.daemon, 'add_target', fail):
            self.attach(self.volume(), RIGHT)
        self.assertIsNone(self.shown())
        self.assertEqual(self.path(volume), self.shown(RIGHT)[1])
        self.attach(self.volume(), RIGHT)
        self.assertEqual(shown, self.shown())

    def test_older_configuration(self):
        """The daemon has the targets, and not what is in them now."""
        volume, other = self.volume(), self.volume()
        self.attach(volume)
        self.attach(other)
        shown = self.shown()
        units = self.daemon.targets[self.target.targets.iqn(LEFT)]['units']
        units.pop(1)
        units[9] = host_targets.Unit(9, '/dev/vg/old', 'old')
        self.connect(volume, LEFT)
        self.assertEqual(shown, self.shown())

    def test_unknown_target(self):
        """Of a host that is not known to have one, but something in it."""
        volume = self.volume()
        iqn = self.target.targets.iqn(LEFT)
        self.daemon.add_target(iqn)
        self.attach(volume)
        self.daemon.targets[iqn]['units'][9] = host_targets.Unit(9, 'x', 'x')
        self.lose_file()
        for attachment in objects.VolumeAttachmentList.get_all_by_volume_id(
                self.context, volume.id):
            attachment.destroy()
        self.begin()
        self.assertRaises(exception.ISCSITargetHelperCommandFailed,
                          self.attach, volume)
        self.assertEqual({1, 9}, set(self.shown()))

    def test_by_the_old_api(self):
        """It records neither connector nor what was told."""
        volume, other = self.volume(), self.volume()
        attachment = self.reserve(volume)
        told = self.connect(volume, LEFT)
        attachment.update({'attach_status': 'attached',
                           'attach_time': timeutils.utcnow()})
        attachment.save()
        self.connect(volume, RIGHT)
        self.target.remove_export(self.context, volume)
        self.begin()
        self.attach(other, RIGHT)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.assertEqual(told, self.connect(volume, LEFT))
        self.target.terminate_connection(volume, {'initiator': LEFT})
        self.assertIsNone(self.shown())

    def test_attached_to_a_shelved_server(self):
        """In use, but by no host until the server is unshelved."""
        volume = self.volume()
        attachment = self.reserve(volume)
        attachment.update({'attach_status': 'attached'})
        attachment.save()
        self.connect(volume, LEFT, attachment)
        self.assertEqual({1: self.path(volume)}, self.shown())
        self.detach(volume, attachment)
        self.assertIsNone(self.shown())

    def test_let_in_last(self):
        """A host that looks before all is there would take it for gone."""
        volumes = [self.volume() for _ in range(2)]
        told = [self.attach(volume).connection_info for volume in volumes][0]
        self.daemon.targets.clear()
        self.daemon.absent.add(self.path(volumes[1]))
        self.begin()
        self.ensure(volumes[0])
        target = self.daemon.targets[told['target_iqn']]
        self.assertIsNone(target['in'])
        self.daemon.absent.clear()
        self.ensure(volumes[1])
        self.assertEqual(LEFT, target['in'])

    def test_daemon_anew(self):
        """Whatever comes next, all is as it was; with the service too."""
        volume, other = self.volume(), self.volume()
        first, right = self.attach(volume), self.attach(volume, RIGHT)
        going = self.attach(other)

        for what in (self.begin, lambda: self.connect(volume, LEFT),
                     lambda: self.target.extend_target(volume),
                     lambda: self.detach(other, going),
                     lambda: self.attach(other)):
            self.daemon.targets.clear()
            what()
            self.ensure(volume)
            self.assertEqual({1: self.path(volume)}, self.shown(RIGHT))
            self.assertEqual(self.path(volume), self.shown()[1])
        for each in (first, right):
            target = self.daemon.targets[each.connection_info['target_iqn']]
            self.assertEqual((each.connection_info['auth_username'],
                              each.connection_info['auth_password']),
                             target['account'])
        self.assertEqual(2, len(self.shown()))

    def test_file_lost(self):
        """Or the service runs on another node now."""
        volumes = [self.volume() for _ in range(3)]
        attachments = [self.attach(volume) for volume in volumes]
        self.detach(volumes[0], attachments[0])
        before = dict(self.daemon.targets)
        self.lose_file()
        self.daemon.targets.clear()
        self.begin()
        self.ensure(*volumes[1:])
        self.assertEqual(before, self.daemon.targets)
        for volume, attachment in zip(volumes[1:], attachments[1:]):
            self.assertEqual(attachment.connection_info,
                             self.connect(volume, LEFT))

    def test_no_attachment(self):
        """A service had it, and was killed."""
        volume = self.volume()
        self.connect(volume, LEFT)
        self.begin()
        self.ensure(volume)
        self.assertEqual({}, self.daemon.targets)

    @ddt.data({'status': 'backing-up'}, {'status': 'uploading'},
              {'migration_status': 'migrating'},
              {'migration_status': f'target:{fake.VOLUME_ID}'})
    def test_busy(self, state):
        """Another service has it."""
        volume = self.volume()
        self.connect(volume, LEFT)
        volume.update(state)
        volume.save()
        self.begin()
        self.ensure(volume)
        self.assertEqual({1: self.path(volume)}, self.shown())

    def test_stranger(self):
        """What is not mapped is not shown, whoever did it."""
        volume = self.volume()
        told = self.attach(volume).connection_info
        for lun in (7, 1):
            self.daemon.targets[told['target_iqn']]['units'][lun] = (
                host_targets.Unit(lun, '/dev/vg/x', 'x'))
            self.begin()
            self.ensure(volume)
            self.assertEqual({1: self.path(volume)}, self.shown())

    def test_deleted(self):
        """There is no such volume any more."""
        kept, volume = self.volume(), self.volume()
        self.attach(kept)
        self.attach(volume, RIGHT)
        volume.destroy()
        self.begin()
        self.ensure(kept)
        self.assertIsNone(self.shown(RIGHT))

    def test_told_of_another_target(self):
        """By another backend, or before the volume was migrated."""
        volume = self.volume()
        attachment = self.attach(volume)
        path = os.path.join(self.folder, 'hosts', f'{BACKEND}.json')
        attachment.connection_info = attachment.connection_info | {
            'target_iqn': 'iqn.2010-10.org.openstack:host-other'}
        attachment.save()
        os.unlink(path)
        self.daemon.targets.clear()
        self.begin()
        self.ensure(volume)
        self.assertIsNone(self.shown())

    def test_written(self):
        """The file has what is shown, no less and no more."""
        volume, other = self.volume(), self.volume()
        first, second = self.attach(volume), self.attach(other)
        self.detach(volume, first)
        again = host_targets.HostTargets(
            self.daemon, os.path.join(self.folder, 'hosts',
                                      f'{BACKEND}.json'), '', BACKEND)
        self.assertEqual(self.target.targets.hosts, again.load())
        self.detach(other, second)
        self.assertEqual({}, again.load())

    def test_device_later(self):
        """LVM activates volumes one after another."""
        volumes = [self.volume() for _ in range(2)]
        for volume in volumes:
            self.attach(volume)
        before = dict(self.daemon.targets)
        self.daemon.targets.clear()
        self.daemon.absent.add(self.path(volumes[1]))
        self.begin()
        self.ensure(volumes[0])
        self.assertEqual({1: self.path(volumes[0])}, self.shown())
        self.assertRaises(ValueError, self.ensure, volumes[1])
        self.daemon.absent.clear()
        self.ensure(volumes[1])
        self.assertEqual(before, self.daemon.targets)

    def test_two_backends(self):
        """Of one host, and for one initiator."""
        other = host_targets.HostTargets(self.daemon, '', 'iqn.x:', 'other')
        self.assertNotEqual(other.iqn(LEFT), host_targets.HostTargets(
            self.daemon, '', 'iqn.x:', BACKEND).iqn(LEFT))
