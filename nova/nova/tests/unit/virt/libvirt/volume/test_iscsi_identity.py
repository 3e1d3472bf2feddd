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

"""Names of volumes: where they come from, and what follows from them."""

import os
import pathlib
from unittest import mock

import ddt
import fixtures
from oslo_concurrency import processutils
from oslo_utils.fixture import uuidsentinel as uuids

from nova import exception
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.virt import fake
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import driver
from nova.virt.libvirt.volume import iscsi_identity

MODULE = 'nova.virt.libvirt.volume.iscsi_identity'
NAA = bytes.fromhex('60014055a3c1f7d2e4b64c1f9d0e8a7b')
OTHER = bytes.fromhex('60014050000000000000000000000001')
LOCAL = bytes.fromhex('3000000100000001')


def page83(*designators):
    """A page of designators, each as association, type and value."""
    body = b''.join(bytes((1, association << 4 | kind, 0, len(value))) + value
                    for association, kind, value in designators)
    return b'\0\x83' + len(body).to_bytes(2) + body


def page80(serial):
    return b'\0\x80' + len(serial).to_bytes(2) + serial


def by_host(serial, device='/dev/sda'):
    return {'connection_info': {
        'driver_volume_type': 'iscsi', 'serial': serial,
        'data': {'device_path': device}}}


def by_qemu(serial, target='iqn.2026-01.x:a', lun=1, port=1, **data):
    """A volume that QEMU's initiator has; nobody listens on port 1."""
    data |= {'target_portal': f'127.0.0.1:{port}', 'target_iqn': target,
             'target_lun': lun, 'nova_initiator': {
                 'name': 'qemu', 'host': 'here', 'iqn': 'iqn.2026-01.x:me',
                 'portal': ['127.0.0.1', port], 'target': target, 'lun': lun}}
    return {'connection_info': {
        'driver_volume_type': 'iscsi', 'serial': serial, 'data': data}}


def in_guest(bdm):
    """The disk of a guest that has the volume as it is connected."""
    data = bdm['connection_info']['data']
    disk = vconfig.LibvirtConfigGuestDisk()
    disk.serial = bdm['connection_info']['serial']
    if 'nova_initiator' in data:
        choice = data['nova_initiator']
        disk.source_type, disk.source_protocol = 'network', 'iscsi'
        disk.source_name = f"{choice['target']}/{choice['lun']}"
        disk.source_hosts = [choice['portal'][0]]
        disk.source_ports = [str(choice['portal'][1])]
        disk.initiator_iqn = choice['iqn']
    else:
        disk.source_type, disk.source_path = 'block', data['device_path']
    return disk


class Connected(Exception):
    """So far, and no further."""


class Sysfs(fixtures.Fixture):
    """SCSI disks of a host, and what is made of them."""

    def _setUp(self):
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        for module in ('iscsi_identity', 'iscsi_elsewhere'):
            self.useFixture(fixtures.MonkeyPatch(
                f'nova.virt.libvirt.volume.{module}._SYS_BLOCK',
                str(self.root)))

    def disk(self, name, **pages):
        folder = self.root / name / 'device'
        folder.mkdir(parents=True)
        (self.root / name / 'slaves').mkdir()
        for page, content in pages.items():
            (folder / f'vpd_{page}').write_bytes(content)

    def made_of(self, name, *disks):
        (self.root / name / 'slaves').mkdir(parents=True)
        for disk in disks:
            os.symlink(self.root / disk, self.root / name / 'slaves' / disk)


class IdentityTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(virt_type='kvm', iscsi_initiator='qemu',
                   iscsi_probe_timeout=30, group='libvirt')
        self.sysfs = self.useFixture(Sysfs())

    def known(self, *mapping, disks=None):
        host = mock.Mock()
        host.get_guest.return_value.get_all_disks.return_value = (
            list(map(in_guest, mapping)) if disks is None else disks)
        return iscsi_identity.known(host, mock.sentinel.instance,
                                    {'block_device_mapping': mapping})


@ddt.ddt
class KnownTestCase(IdentityTestCase):

    def test_device(self):
        self.sysfs.disk('sda', pg80=page80(b'  5a3c1f7d  '), pg83=page83(
            (0, 3, NAA), (0, 1, b'LIO-ORG volume-1:5a3c1f7d\0\0'),
            (1, 3, OTHER), (1, 4, b'\0\0\0\1'), (2, 8, b'iqn.x:t,t,0x0001'),
            (0, 3, LOCAL), (0, 2, NAA[:8]), (0, 10, NAA), (0, 8, b'eui.\x80'),
            (0, 1, b' \0')))
        self.assertEqual(
            {uuids.a: sorted([
                f'naa.{NAA.hex()}', 't10.LIO-ORG volume-1:5a3c1f7d',
                f'eui.{NAA[:8].hex()}', f'uuid.{NAA.hex()}',
                'name.6575692e80', 't10.2000', 'serial.5a3c1f7d'])},
            self.known(by_host(uuids.a)))

    def test_below_multipath_and_encryption(self):
        for name in ('sda', 'sdb'):
            self.sysfs.disk(name, pg83=page83((0, 3, NAA)))
        # A path that the kernel has not asked says nothing.
        self.sysfs.disk('sdc')
        self.sysfs.made_of('dm-0', 'sda', 'sdb', 'sdc')
        self.sysfs.made_of('dm-1', 'dm-0')
        self.assertEqual({uuids.a: [f'naa.{NAA.hex()}']},
                         self.known(by_host(uuids.a, '/dev/dm-1')))

    def test_paths_that_differ(self):
        self.sysfs.disk('sda', pg83=page83((0, 3, NAA)))
        self.sysfs.disk('sdb', pg83=page83((0, 3, OTHER)))
        self.sysfs.made_of('dm-0', 'sda', 'sdb')
        self.assertEqual({}, self.known(by_host(uuids.a, '/dev/dm-0')))
        self.assertIn('no name in common', self.stdlog.logger.output)

    @ddt.data(b'', b'\0\x83\0', page83((0, 3, NAA))[:10],
              page83((1, 3, NAA)), page83((0, 3, LOCAL)), page83((0, 3, b'')))
    def test_no_name(self, page):
        self.sysfs.disk('sda', pg83=page)
        shorter = {f'naa.{NAA[:2].hex()}'}
        for names in self.known(by_host(uuids.a)).values():
            self.assertEqual(shorter, set(names))

    def test_what_the_guest_has(self):
        """Devices have other names after a reboot of the host."""
        self.sysfs.disk('sda', pg83=page83((0, 3, OTHER)))
        self.sysfs.disk('sdb', pg83=page83((0, 3, NAA)))
        found = self.known(by_host(uuids.a),
                           disks=[in_guest(by_host(uuids.a, '/dev/sdb'))])
        self.assertEqual({uuids.a: [f'naa.{NAA.hex()}']}, found)

    def test_numbers_of_tgt(self):
        """They are not the volume's; those that were set are."""
        for name, known in ((b'IET     00010001', False),
                            (b'deadbeef', True)):
            self.sysfs.disk(name.decode()[-8:], pg83=page83(
                (0, 3, NAA), (0, 1, name + bytes(9))), pg80=page80(b'1'))
            found = self.known(by_host(uuids.a, f'/dev/{name.decode()[-8:]}'))
            self.assertEqual(known, bool(found))
        self.assertIn('numbers of a target', self.stdlog.logger.output)

    def test_nothing_to_look_at(self):
        nothing = by_host(uuids.c)
        nothing['connection_info'] = None
        odd = in_guest(by_qemu(uuids.b))
        odd.source_ports = []
        shared = vconfig.LibvirtConfigGuestDisk()
        shared.serial, shared.source_type = uuids.d, 'file'
        volumes = [by_host(name) for name in (uuids.a, uuids.b, uuids.d)]
        self.assertEqual({}, self.known(*volumes, nothing,
                                        disks=[odd, shared]))
        for name in (uuids.a, uuids.b, uuids.d):
            self.assertIn(name, self.stdlog.logger.output)
        for info in (None, {}, {'block_device_mapping': None}):
            self.assertEqual({}, iscsi_identity.known(None, None, info))
        host = mock.Mock()
        host.get_guest.side_effect = exception.InstanceNotFound(
            instance_id=uuids.server)
        self.assertEqual({}, iscsi_identity.known(
            host, None, {'block_device_mapping': volumes}))

    def test_not_for_other_types(self):
        self.sysfs.disk('sda', pg83=page83((0, 3, NAA)))
        rbd, local = by_host(uuids.a), by_host(None)
        rbd['connection_info']['driver_volume_type'] = 'rbd'
        self.assertEqual({}, self.known(rbd, local))

    def test_switched_off(self):
        self.flags(iscsi_check_identity=False, group='libvirt')
        self.sysfs.disk('sda', pg83=page83((0, 3, NAA)))
        self.assertEqual({}, self.known(by_host(uuids.a)))

    def test_each_target_once(self):
        """The program is asked of all volumes at once, and told secrets."""
        chap = {'auth_method': 'CHAP', 'auth_username': 'user',
                'auth_password': 's3cr3t'}
        told = (b'[[{"serial": null, "designators": [[0, 3, "%s"]]}, '
                b'{"error": "no LUN"}], [{"serial": "2061", '
                b'"designators": []}]]' % NAA.hex().encode())
        ran = []

        def run(deadline, stdin, *argv):
            ran.append((argv, stdin.decode()))
            return told

        with mock.patch(f'{MODULE}.iscsi_probe.run', run):
            found = self.known(
                by_qemu(uuids.a, lun=1, **chap), by_qemu(uuids.b, lun=2,
                                                         **chap),
                by_qemu(uuids.c, target='iqn.2026-01.x:b'))
        self.assertEqual({uuids.a: [f'naa.{NAA.hex()}'],
                          uuids.c: ['serial.a']}, found)
        self.assertIn('no LUN', self.stdlog.logger.output)
        [(argv, asked)] = ran
        self.assertNotIn('s3cr3t', str(argv) + self.stdlog.logger.output)
        self.assertEqual(1, asked.count('s3cr3t'))
        self.assertIn('"luns": [1, 2]', asked)

    def test_nobody_answers(self):
        """By the program itself, with libiscsi or without."""
        self.assertEqual({}, self.known(by_qemu(uuids.a)))
        self.assertIn(f'volume {uuids.a} is the same on another host will '
                      'not be known: ', self.stdlog.logger.output)
        self.assertNotIn('could not be asked', self.stdlog.logger.output)

    @ddt.data(OSError('no python'), TimeoutError(),
              processutils.ProcessExecutionError())
    def test_program_that_fails(self, error):
        with mock.patch(f'{MODULE}.iscsi_probe.run', side_effect=error):
            self.assertEqual({}, self.known(by_qemu(uuids.a)))

    def test_unusable(self):
        unusable = by_qemu(uuids.b)
        del unusable['connection_info']['data']['target_iqn']
        self.assertEqual({}, self.known(unusable))
        self.assertIn('target_iqn', self.stdlog.logger.output)


@ddt.ddt
class CheckTestCase(IdentityTestCase):

    def check(self, theirs, ours, **device):
        if ours:
            self.sysfs.disk('sda', **ours)
        data = objects.LibvirtLiveMigrateData()
        if theirs is not None:
            data.src_volume_identities = {uuids.a: theirs}
        iscsi_identity.check(data, [by_host(uuids.a)])

    def refused(self, *args):
        error = self.assertRaises(exception.MigrationPreCheckError,
                                  self.check, *args)
        for text in (uuids.a, '[libvirt]iscsi_check_identity'):
            self.assertIn(text, str(error))
        return str(error)

    def test_same(self):
        self.check([f'naa.{NAA.hex()}', 'serial.1'],
                   {'pg83': page83((0, 3, NAA)), 'pg80': page80(b'2')})

    def test_another(self):
        why = self.refused([f'naa.{OTHER.hex()}', 'serial.1'],
                           {'pg83': page83((0, 3, NAA)),
                            'pg80': page80(b'1')})
        self.assertIn(f'naa.{OTHER.hex()}', why)
        self.assertIn(f'naa.{NAA.hex()}', why)

    @ddt.data((['t10.x', 'serial.2'], False), (['serial.1'], True),
              (['serial.12'], False), (['eui.00', 'serial.1'], True),
              (['uuid.00'], False), ([], False))
    @ddt.unpack
    def test_by_what_both_have(self, theirs, same):
        ours = {'pg83': page83((0, 1, b'y'), (0, 3, NAA)),
                'pg80': page80(b'1')}
        (self.check if same else self.refused)(theirs, ours)

    def test_by_qemu(self):
        """What was connected is asked, and not what the guest has."""
        data = objects.LibvirtLiveMigrateData(
            src_volume_identities={uuids.a: ['naa.1'], uuids.b: ['naa.1']})
        absent = by_qemu(uuids.b)
        del absent['connection_info']['data']['nova_initiator']['target']
        for bdms, names, why in (
                ([by_qemu(uuids.a), by_qemu(uuids.c)], {'naa.1'}, None),
                ([by_qemu(uuids.a)], {'naa.2'}, 'there naa.1, here naa.2'),
                ([by_qemu(uuids.a), absent], {'naa.1'},
                 'has not been connected')):
            with mock.patch(f'{MODULE}._ask', return_value={
                    uuids.a: names}) as ask:
                if why:
                    error = self.assertRaises(
                        exception.MigrationPreCheckError,
                        iscsi_identity.check, data, bdms)
                    self.assertIn(why, str(error))
                else:
                    iscsi_identity.check(data, bdms)
            ask.assert_called_once_with({
                ('127.0.0.1:1', 'iqn.2026-01.x:a', 'iqn.2026-01.x:me', None):
                {uuids.a: 1}})

    def test_no_name_here(self):
        self.assertIn('no names in sysfs', self.refused(['serial.1'], None))

    def test_when_a_device_is_connected(self):
        self.sysfs.disk('sda', pg83=page83((0, 3, NAA)))
        data = objects.LibvirtLiveMigrateData()
        for migrate_data in (data, None):
            self.assertEqual({}, iscsi_identity.checked(migrate_data))
        data.src_volume_identities = {uuids.a: [f'naa.{OTHER.hex()}'],
                                      uuids.b: [f'naa.{NAA.hex()}']}
        look = iscsi_identity.checked(data)['check']
        self.assertRaises(exception.MigrationPreCheckError, look,
                          by_host(uuids.a)['connection_info'])
        for bdm in (by_host(uuids.b), by_qemu(uuids.a)):
            look(bdm['connection_info'])
        self.flags(iscsi_check_identity=False, group='libvirt')
        self.assertEqual({}, iscsi_identity.checked(data))

    @ddt.data((NAA, ['encryptor', 'connected']), (OTHER, ['disconnected']))
    @ddt.unpack
    def test_not_formatted(self, theirs, expected):
        """An encryptor formats what is not encrypted."""
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.flags(iscsi_initiator='host', group='libvirt')
        self.sysfs.disk('sda', pg83=page83((0, 3, NAA)))
        done = []
        drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        volumes = mock.Mock()
        volumes.disconnect_volume.side_effect = (
            lambda *args: done.append('disconnected'))
        self.replace(drvr, _get_volume_driver=lambda info: volumes,
                     _attach_encryptor=lambda *args: done.append('encryptor'),
                     _pre_live_migration_plug_vifs=mock.Mock(
                         side_effect=Connected))
        data = objects.LibvirtLiveMigrateData(
            is_shared_instance_path=True, is_shared_block_storage=True,
            block_migration=False,
            src_volume_identities={uuids.a: [f'naa.{theirs.hex()}']})
        try:
            drvr.pre_live_migration(
                None, mock.MagicMock(),
                {'block_device_mapping': [by_host(uuids.a)]}, None, None,
                data)
        except Connected:
            done.append('connected')
        except exception.MigrationPreCheckError:
            self.assertEqual(OTHER, theirs)
        self.assertEqual(expected, done)

    def replace(self, target, **methods):
        for name, method in methods.items():
            self.useFixture(fixtures.MockPatchObject(target, name, method))

    def test_source_does_not_know(self):
        for theirs in (None, []):
            data = objects.LibvirtLiveMigrateData()
            if theirs is not None:
                data.src_volume_identities = {}
            iscsi_identity.check(data, [by_host(uuids.a)])
        iscsi_identity.check(None, [by_host(uuids.a)])

    def test_switched_off(self):
        self.flags(iscsi_check_identity=False, group='libvirt')
        self.check([f'naa.{OTHER.hex()}'], {'pg83': page83((0, 3, NAA))})

    def test_older_peers(self):
        data = objects.LibvirtLiveMigrateData(
            src_volume_identities={uuids.a: ['serial.1']},
            src_supports_dest_disk_xml=True)
        # The version is another on each release; the one before it has none.
        release, _dot, own = data.VERSION.rpartition('.')
        primitive = data.obj_to_primitive(
            f'{release}.{int(own) - 1}')['nova_object.data']
        self.assertEqual({'src_supports_dest_disk_xml': True}, primitive)
