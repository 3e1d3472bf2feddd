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
"""LIO's part in targets of hosts, with something like LIO behind rtslib."""

from unittest import mock

import ddt

from cinder import privsep
from cinder.privsep.targets import lio_control
from cinder.tests.unit import test
from cinder.volume.targets import host_targets
from cinder.volume.targets import lio_hosts

IQN = 'iqn.2010-10.org.openstack:host-1'
INITIATOR = 'iqn.1994-05.com.example:left'
PORTALS = {('192.0.2.1', 3260), ('[2001:db8::1]', 3261)}


class Refused(Exception):
    """As RTSLibError."""


class Broken(Refused):
    """As RTSLibBrokenLink."""


class Kernel:
    """What rtslib is used for: its classes, of one kernel.

    Making a thing that is there finds it, but for those that may be there
    only once.
    """

    RTSLibError = Refused
    RTSLibBrokenLink = Broken

    def __init__(self):
        self.forgot = 0
        self.targets, self.devices, self.absent = {}, {}, set()

    # The names are those of rtslib.

    def FabricModule(self, name):
        assert name == 'iscsi'
        return mock.Mock(targets=list(self.targets.values()))

    def RTSRoot(self):
        def forget():
            self.forgot += 1

        return mock.Mock(storage_objects=list(self.devices.values()),
                         invalidate_caches=forget)

    def Target(self, fabric, iqn):
        return self.targets.setdefault(iqn, Target(self, iqn))

    def TPG(self, target, tag):
        if not target.tpgs:
            target.tpgs.append(Group(tag))
        return target.tpgs[0]

    def NetworkPortal(self, group, host, port):
        if host in self.absent:
            raise Refused(host)
        group.portals.add((host, port))

    def NodeACL(self, group, name):
        for rule in group.node_acls:
            if rule.node_wwn == name:
                return rule
        group.node_acls.append(Rule(group, name))
        return group.node_acls[-1]

    def BlockStorageObject(self, name, path=None, wwn=None):
        if (path is None) != (name in self.devices) or path in self.absent:
            raise Refused(name)
        return self.devices.setdefault(name, Device(self, name, path, wwn))

    def LUN(self, group, number, device):
        assert all(lun.lun != number for lun in group.luns)
        group.luns.append(Lun(group, number, device))

    def MappedLUN(self, rule, number, lun):
        if number in self.absent:
            raise OSError(number)
        assert all(each.mapped_lun != number for each in rule.mapped_luns)
        rule.mapped_luns.append(Mapped(rule, number, lun))


class Target:

    def __init__(self, kernel, iqn):
        self.kernel, self.wwn, self.tpgs = kernel, iqn, []

    def delete(self):
        for group in self.tpgs:
            for lun in list(group.luns):
                lun.delete()
        del self.kernel.targets[self.wwn]


class Group:

    def __init__(self, tag):
        self.tag, self.enable = tag, False
        self.luns, self.node_acls, self.portals = [], [], set()
        self.attributes = {'authentication': '0'}

    def set_attribute(self, name, value):
        self.attributes[name] = value


class Rule:

    def __init__(self, group, name):
        self.group, self.node_wwn, self.mapped_luns = group, name, []

    def delete(self):
        self.group.node_acls = [each for each in self.group.node_acls
                                if each is not self]


class Mapped:

    def __init__(self, rule, number, lun):
        self.rule, self.mapped_lun, self.lun = rule, number, lun

    @property
    def tpg_lun(self):
        if self.lun is None:
            raise Broken()
        return self.lun

    def delete(self):
        self.rule.mapped_luns = [each for each in self.rule.mapped_luns
                                 if each is not self]


class Lun:

    def __init__(self, group, number, device):
        self.group, self.lun, self.device = group, number, device
        if device:
            device.attached_luns.append(self)

    @property
    def storage_object(self):
        if self.device is None:
            raise Broken()
        return self.device

    def delete(self):
        self.group.luns.remove(self)
        if self.device:
            self.device.attached_luns.remove(self)
        for rule in self.group.node_acls:
            rule.mapped_luns = [each for each in rule.mapped_luns
                                if each.mapped_lun != self.lun]


class Device:

    def __init__(self, kernel, name, path, wwn):
        self.kernel, self.name = kernel, name
        self.udev_path, self.wwn, self.attached_luns = path, wwn, []

    def delete(self):
        assert not self.attached_luns
        del self.kernel.devices[self.name]


def unit(lun, name='a'):
    return host_targets.Unit(lun, f'/dev/vg/volume-{name}', f'serial-{name}')


@ddt.ddt
class LioHostsTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.mock_object(privsep.sys_admin_pctxt, 'client_mode', False)
        self.kernel = Kernel()
        self.mock_object(lio_control, 'rtslib_fb', self.kernel)
        self.hosts = self.begin()

    def begin(self):
        return lio_hosts.Lio(mock.Mock(
            target_ip_address='192.0.2.1', target_port=3260,
            target_secondary_ip_addresses=['[2001:db8::1]:3261']))

    def add_target(self, iqn=IQN, *units):
        self.hosts.add_target(iqn)
        for each in units:
            self.hosts.add_lun(iqn, each)
        self.hosts.admit(iqn, INITIATOR, 'user', 'password')

    def group(self, iqn=IQN):
        [group] = self.kernel.targets[iqn].tpgs
        return group

    def found(self, iqn=IQN):
        """What an initiator finds: path by LUN."""
        [rule] = self.group(iqn).node_acls
        return {mapped.mapped_lun: lun.storage_object.udev_path
                for mapped in rule.mapped_luns for lun in
                self.group(iqn).luns if lun.lun == mapped.tpg_lun}

    def test_admitted(self):
        self.hosts.add_target(IQN)
        self.assertFalse(self.group().enable)
        self.hosts.admit(IQN, INITIATOR, 'user', 'password')
        group = self.group()
        [rule] = group.node_acls
        self.assertEqual((INITIATOR, 'user', 'password'),
                         (rule.node_wwn, rule.chap_userid,
                          rule.chap_password))
        self.assertEqual({'authentication': '1', 'generate_node_acls': '0'},
                         group.attributes)
        self.assertEqual(PORTALS, group.portals)
        self.assertTrue(group.enable)
        self.assertEqual({IQN}, self.hosts.iqns())

    def test_units(self):
        """Before and after somebody is let in."""
        self.add_target(IQN, unit(0))
        self.hosts.add_lun(IQN, unit(3, 'b'))
        self.assertEqual({IQN: {0: unit(0), 3: unit(3, 'b')}},
                         self.hosts.read())
        self.assertEqual({0: '/dev/vg/volume-a', 3: '/dev/vg/volume-b'},
                         self.found())
        self.hosts.remove_lun(IQN, 0)
        self.assertEqual({3: '/dev/vg/volume-b'}, self.found())
        for _ in range(2):
            self.hosts.remove_lun(IQN, 0)
            self.hosts.remove_lun(IQN + 'other', 0)
        self.assertEqual({IQN: {3: unit(3, 'b')}}, self.hosts.read())

    def test_two_hosts(self):
        """A device is opened once, and let go of after the last one."""
        for number in '12':
            self.add_target(IQN + number, unit(int(number)))
        self.assertEqual(['host-scope-volume-a'], list(self.kernel.devices))
        self.hosts.remove_lun(IQN + '1', 1)
        self.assertEqual(1, len(self.kernel.devices))
        self.hosts.remove_lun(IQN + '2', 2)
        self.assertEqual({}, self.kernel.devices)

    def test_again(self):
        """What was begun is done again by a service that was killed."""
        self.add_target(IQN, unit(1))
        self.group().node_acls[0].mapped_luns.clear()
        self.group().enable = False
        self.hosts.admit(IQN, INITIATOR, 'user', 'password')
        self.hosts.add_target(IQN)
        self.assertEqual({1: '/dev/vg/volume-a'}, self.found())
        self.assertTrue(self.group().enable)

    def test_lun_that_is_there(self):
        self.add_target(IQN, unit(1))
        self.assertRaises(lio_control.LioError, self.hosts.add_lun, IQN,
                          unit(1, 'b'))
        self.assertEqual({IQN: {1: unit(1)}}, self.hosts.read())

    def test_device_of_another_identity(self):
        self.add_target(IQN, unit(1))
        other = host_targets.Unit(2, '/dev/vg/volume-a', 'another')
        self.assertRaises(lio_control.LioError, self.hosts.add_lun, IQN,
                          other)
        self.assertEqual({IQN: {1: unit(1)}}, self.hosts.read())

    @ddt.data('/dev/vg/volume-b', 2)
    def test_refused(self, absent):
        """Without its device, or in the middle: nothing is left."""
        self.add_target(IQN, unit(1))
        self.kernel.absent.add(absent)
        error = self.assertRaises(lio_control.LioError, self.hosts.add_lun,
                                  IQN, unit(2, 'b'))
        self.assertIn('add_unit', str(error))
        self.assertEqual({IQN: {1: unit(1)}}, self.hosts.read())
        self.assertEqual(['host-scope-volume-a'], list(self.kernel.devices))

    def test_killed_before_it_let_go(self):
        """What others opened is theirs."""
        for name in ('host-scope-volume-a', 'volume-b'):
            self.kernel.BlockStorageObject(name, f'/dev/vg/{name}', 'x')
        self.hosts.read()
        self.assertEqual(['volume-b'], list(self.kernel.devices))

    def test_killed_before_a_link(self):
        """Of a unit, and of what is shown: it is as if it were not there."""
        self.add_target(IQN, unit(1), unit(2, 'b'))
        group = self.group()
        group.luns.append(Lun(group, 7, None))
        group.node_acls[0].mapped_luns[0].lun = None
        self.assertEqual({1: unit(1), 2: unit(2, 'b'),
                          7: host_targets.Unit(7, '', '')},
                         self.hosts.read()[IQN])
        self.hosts.remove_lun(IQN, 7)
        self.hosts.admit(IQN, INITIATOR, 'user', 'password')
        self.assertEqual({1: unit(1), 2: unit(2, 'b')},
                         self.hosts.read()[IQN])
        self.assertEqual({1, 2}, set(self.found()))

    def test_another_initiator(self):
        self.add_target(IQN, unit(1))
        self.kernel.NodeACL(self.group(), 'iqn.1994-05.com.example:stranger')
        self.hosts.admit(IQN, INITIATOR, 'user', 'password')
        self.hosts.add_lun(IQN, unit(2, 'b'))
        [rule] = self.group().node_acls
        self.assertEqual(INITIATOR, rule.node_wwn)

    def test_portal_that_is_not_up(self):
        self.kernel.absent.add('[2001:db8::1]')
        self.add_target(IQN, unit(1))
        self.assertTrue(self.group().enable)
        self.assertEqual({('192.0.2.1', 3260)}, self.group().portals)
        self.kernel.absent.add('192.0.2.1')
        self.assertRaises(lio_control.LioError, self.add_target, IQN + '2')

    def test_what_others_change(self):
        """rtslib numbers devices by what it remembers."""
        self.add_target(IQN, unit(1))
        before = self.kernel.forgot
        self.hosts.add_lun(IQN, unit(2, 'b'))
        self.assertEqual(before + 1, self.kernel.forgot)

    def test_target_that_has_units(self):
        self.add_target(IQN, unit(1))
        self.hosts.remove_target(IQN, 'user')
        self.assertEqual({IQN}, self.hosts.iqns())
        self.hosts.remove_lun(IQN, 1)
        for _ in range(2):
            self.hosts.remove_target(IQN, 'user')
        self.assertEqual(set(), self.hosts.iqns())

    def test_no_target(self):
        for call in (lambda: self.hosts.add_lun(IQN, unit(1)),
                     lambda: self.hosts.admit(IQN, INITIATOR, 'u', 'p')):
            self.assertRaises(lio_control.LioError, call)

    def test_listen(self):
        self.hosts.listen()
        self.hosts.resize(IQN, 1, '/dev/vg/volume-a')
        self.assertEqual({}, self.kernel.targets)
