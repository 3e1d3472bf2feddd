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

import _thread
import json
import os
import shutil
import subprocess
import tempfile
from unittest import mock

import ddt

from cinder import context
from cinder import exception
from cinder.tests.unit import fake_constants as fake
from cinder.tests.unit import test
from cinder.tests.unit import utils as tests_utils
from cinder import utils
from cinder.volume import configuration
from cinder.volume.copier import engine
from cinder.volume.copier import local_file
from cinder.volume.copier import migration
from cinder.volume.copier import openers
from cinder.volume.copier import opts
from cinder.volume.copier import qemu_export
from cinder.volume.copier import rbd_file
from cinder.volume.copier import volume_file
from cinder.volume import driver
from cinder.volume.drivers import lvm
from cinder.volume.drivers import rbd

GIB = 1 << 30


class LocalConnector:
    """Connects to a file, as os-brick's connectors do to devices."""

    def __init__(self, valid=True):
        self.valid = valid
        self.connected = []

    def connect_volume(self, data):
        self.connected.append(data['path'])
        return {'type': 'block', 'path': data['path']}

    def check_valid_device(self, path, run_as_root):
        return self.valid and os.path.exists(path)

    def disconnect_volume(self, data, device, force):
        assert device['path'] == data['path'] and force
        self.connected.remove(data['path'])


class FileDriver(driver.VolumeDriver):
    """Volumes are files, which are exported one at a time."""

    def __init__(self, folder, log):
        self.configuration = configuration.Configuration(opts.OPTS + [])
        self.configuration.safe_get = self.setting
        self.settings = {}
        self.configuration.use_multipath_for_image_xfer = False
        self.configuration.enforce_multipath_for_image_xfer = False
        self.configuration.num_volume_device_scan_tries = 1
        self.folder = folder
        self.log = log
        self.format = None

    def setting(self, name):
        return self.settings.get(name)

    def path(self, volume):
        return os.path.join(self.folder, volume.id)

    def create_export(self, context, volume, connector):
        self.log.append('export')
        return {'provider_location': 'somewhere'}

    def initialize_connection(self, volume, connector):
        self.log.append('initialize')
        data = {'path': self.path(volume)}
        if self.format:
            data['format'] = self.format
        return {'driver_volume_type': 'local', 'data': data}

    def terminate_connection(self, volume, connector, force=False):
        self.log.append('terminate')

    def remove_export(self, context, volume):
        self.log.append('unexport')


class Base(test.TestCase):

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.log = []
        self.context = context.get_admin_context()
        self.driver = FileDriver(self.folder, self.log)
        self.connector = LocalConnector()
        self.patch('cinder.volume.volume_utils.brick_get_connector',
                   lambda *args, **kwargs: self.connector)
        self.patch('cinder.volume.volume_utils.'
                   'brick_get_connector_properties',
                   lambda *args: {'host': 'Here_1'})

    def volume(self, content=b'', size=GIB, **values):
        volume = tests_utils.create_volume(self.context, size=1, **values)
        with open(self.driver.path(volume), 'wb') as file:
            file.truncate(size)
            file.write(content)
        return volume

    def head(self, volume, length):
        with open(self.driver.path(volume), 'rb') as file:
            return file.read(length)

    def assert_all_undone(self):
        self.assertEqual([], self.connector.connected)
        for do, undo in (('export', 'unexport'), ('initialize', 'terminate')):
            self.assertLessEqual(self.log.count(do), self.log.count(undo))


@ddt.ddt
class OpenersTestCase(Base):

    def test_the_default_attaches_and_undoes_it_at_close(self):
        volume = self.volume(b'content')
        file = self.driver.open_volume(self.context, volume)
        self.assertEqual(b'content', file.read_at(0, 7))
        self.assertFalse(file.writable())
        self.assertEqual('somewhere', volume.provider_location)
        self.assertEqual([self.driver.path(volume)], self.connector.connected)
        self.assertEqual(['export', 'initialize'], self.log)
        self.driver.close_volume(self.context, file)
        self.driver.close_volume(self.context, file)
        self.assertEqual(['export', 'initialize', 'terminate', 'unexport'],
                         self.log)
        self.assert_all_undone()

    def test_a_device_that_is_not_valid_is_disconnected(self):
        self.connector.valid = False
        self.assertRaises(exception.DeviceUnavailable,
                          self.driver.open_volume, self.context,
                          self.volume())
        self.assert_all_undone()

    @ddt.data('create_export', 'initialize_connection')
    def test_what_fails_half_way_is_undone(self, method):
        with mock.patch.object(self.driver, method, side_effect=RuntimeError):
            self.assertRaises(RuntimeError, self.driver.open_volume,
                              self.context, self.volume())
        self.assertIn('unexport', self.log)
        self.assert_all_undone()

    @ddt.data('wb', 'w+b', 'ab', 'r', '')
    def test_other_modes_are_refused_before_anything(self, mode):
        self.assertRaises(ValueError, self.driver.open_volume, self.context,
                          self.volume(), mode)
        self.assertEqual([], self.log)

    def test_what_is_in_a_qcow2_image_is_the_volume(self):
        if shutil.which('qemu-storage-daemon') is None:
            self.skipTest('needs qemu-storage-daemon')
        volume = self.volume()
        path = self.driver.path(volume)
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path,
                        '1G'], check=True)
        self.driver.format = 'qcow2'
        with self.driver.open_volume(self.context, volume, 'r+b') as file:
            self.assertEqual(GIB, file.size)
            file.write_at(0, b'guest data')
        with self.driver.open_volume(self.context, volume) as file:
            self.assertEqual(b'guest data', file.read_at(0, 10))
        self.assertEqual(b'QFI\xfb', self.head(volume, 4))
        self.assert_all_undone()

    def test_a_handle_in_place_of_a_path(self):
        handle = mock.Mock(spec=['seek', 'read', 'flush'])
        handle.read.return_value = b'abc'
        self.connector.connect_volume = lambda data: {'path': handle}
        self.connector.check_valid_device = lambda path, root: True
        self.connector.disconnect_volume = mock.Mock()
        with self.driver.open_volume(self.context, self.volume()) as file:
            self.assertEqual(b'abc', file.read_at(5, 3))
            self.assertEqual(GIB, file.size)
        self.connector.disconnect_volume.assert_called_once()

    def test_lvm_opens_the_local_path_and_exports_nothing(self):
        volume = self.volume(b'local')
        here = mock.Mock(spec=lvm.LVMVolumeDriver)
        here.local_path.side_effect = self.driver.path
        with lvm.LVMVolumeDriver.open_volume(here, self.context, volume,
                                             'r+b') as file:
            self.assertIsInstance(file, local_file.LocalFile)
            file.write_at(0, b'LOCAL')
        self.assertEqual(b'LOCAL', self.head(volume, 5))
        self.assertEqual(['local_path'], [call[0] for call
                                          in here.method_calls])

    def test_rbd_opens_with_what_the_backend_is_configured_with(self):
        here = mock.Mock(spec=rbd.RBDDriver)
        here._get_config_tuple.return_value = ('c', '/c.conf', 'u', None)
        here.configuration = mock.Mock(rbd_pool='pool')
        here.configuration.safe_get.side_effect = {
            'rados_connect_timeout': -1, 'volume_copy_timeout': 7}.get
        with mock.patch.object(rbd_file.RBDFile, 'open') as opened:
            rbd.RBDDriver.open_volume(here, self.context,
                                      mock.Mock(), 'r+b')
        cluster, pool, image, write = opened.call_args.args
        self.assertEqual(rbd_file.Cluster('u', '/c.conf', 'c', timeout=7),
                         cluster)
        self.assertEqual(('pool', True), (pool, write))

    def rbd_info(self, **data):
        return {'driver_volume_type': 'rbd', 'data': {
            'name': 'pool/image', 'hosts': ['[::1]', '10.0.0.1'],
            'ports': ['6789', '6790'], 'cluster_name': 'nowhere',
            'auth_username': 'u'} | data}

    def test_a_remote_rbd_volume_without_a_file_for_its_key(self):
        info = self.rbd_info(keyring='[client.u]\n\tkey = s3cret==\n')
        with mock.patch.object(rbd_file.RBDFile, 'open') as opened:
            openers.connect(info, {}, self.driver.configuration,
                            mock.Mock(host='a@b#c'), False)
        cluster = opened.call_args.args[0]
        self.assertEqual('[::1]:6789,10.0.0.1:6790', cluster.mon_host)
        self.assertEqual('s3cret==', cluster.key)

    def test_a_remote_rbd_volume_of_a_backend_that_is_configured_here(self):
        self.override_config('enabled_backends', ['b'])
        with mock.patch.object(configuration, 'Configuration',
                               return_value=mock.Mock(rbd_ceph_conf='/b')), \
                mock.patch.object(rbd_file.RBDFile, 'open') as opened:
            openers.connect(self.rbd_info(), {}, self.driver.configuration,
                            mock.Mock(host='a@b#c'), False)
        cluster = opened.call_args.args[0]
        # Its monitors are not those of the file if it is another cluster's.
        self.assertEqual(('/b', '[::1]:6789,10.0.0.1:6790'),
                         (cluster.conffile, cluster.mon_host))

    @ddt.data(('ports', {'hosts': ['a']}), ('name', {'name': None}),
              ('name', {'name': 'no-pool'}), ('name', {'name': 'pool/'}),
              ('ports', {'ports': None}), ('hosts', {'hosts': 'abc'}),
              ('hosts', {'hosts': [], 'ports': []}),
              ('hosts', {'hosts': [None, 'a']}),
              ('ports', {'ports': ['1', '2 3']}),
              ('cluster_name', {'cluster_name': None}),
              ('auth_username', {'auth_username': 7}),
              ('keyring', {'keyring': ['key']}))
    @ddt.unpack
    def test_a_malformed_rbd_connection(self, key, data):
        self.assert_names(key, self.rbd_info(**data))

    @ddt.data(('driver_volume_type', {'data': {}}),
              ('driver_volume_type', {'driver_volume_type': None,
                                      'data': {}}),
              ('data', {'driver_volume_type': 'rbd'}),
              ('data', {'driver_volume_type': 'iscsi', 'data': 'text'}))
    @ddt.unpack
    def test_a_malformed_connection(self, key, info):
        self.assert_names(key, info)

    def assert_names(self, key, info):
        error = self.assertRaises(
            exception.InvalidInput, openers.connect, info, {},
            self.driver.configuration, mock.Mock(host='a@b#c'), False)
        self.assertIn(f': {key} of the connection_info', str(error))

    def test_iscsi_without_a_device(self):
        self.driver.settings['volume_copy_iscsi_initiator'] = 'qemu'
        properties = openers.connector_properties(self.driver.configuration)
        self.assertEqual('iqn.2010-10.org.openstack:cinder.here-1',
                         properties['initiator'])
        info = {'driver_volume_type': 'iscsi', 'data': {'target_lun': 1}}
        with mock.patch.object(qemu_export, 'open_iscsi') as opened:
            openers.connect(info, properties, self.driver.configuration,
                            mock.Mock(), True)
        opened.assert_called_once_with(info['data'], properties['initiator'],
                                       True, 24 * 3600)

    def test_iscsi_keeps_to_the_time_limit(self):
        self.driver.settings.update(volume_copy_iscsi_initiator='qemu',
                                    volume_copy_timeout=7)
        with mock.patch.object(qemu_export, 'open_iscsi') as opened:
            openers.connect({'driver_volume_type': 'iscsi', 'data': {}}, {},
                            self.driver.configuration, mock.Mock(), True)
        self.assertEqual(7, opened.call_args.args[-1])

    @ddt.data(({'enforce_multipath': True}, True), ({}, False))
    @ddt.unpack
    def test_whether_multipath_is_enforced_reaches_os_brick(self, properties,
                                                            expected):
        volume, seen = self.volume(b'x'), []
        connect = self.connector.connect_volume
        self.connector.connect_volume = lambda data: (
            seen.append(data['enforce_multipath']), connect(data))[1]
        openers.connect({'driver_volume_type': 'local', 'data': {
            'path': self.driver.path(volume)}}, properties,
            self.driver.configuration, volume, False).close()
        self.assertEqual([expected], seen)

    @ddt.data(({'iscsiadm', 'qemu-storage-daemon'}, None, False),
              ({'qemu-storage-daemon'}, None, True),
              (set(), None, False),
              ({'iscsiadm'}, 'qemu', True))
    @ddt.unpack
    def test_which_initiator(self, programs, setting, expected):
        self.driver.settings['volume_copy_iscsi_initiator'] = setting
        self.patch('shutil.which', lambda name, path=None:
                   name if name in programs else None)
        self.assertEqual(expected,
                         openers.use_qemu(self.driver.configuration))

    def test_open_iscsi_where_only_root_looks(self):
        for folder, program in (('bin', 'qemu-storage-daemon'),
                                ('sbin', 'iscsiadm')):
            os.mkdir(os.path.join(self.folder, folder))
            path = os.path.join(self.folder, folder, program)
            with open(path, 'w'):
                os.chmod(path, 0o700)
        self.patch('cinder.volume.copier.openers._ROOTS_PATH',
                   os.path.join(self.folder, 'sbin'))
        with mock.patch.dict(os.environ,
                             PATH=os.path.join(self.folder, 'bin')):
            self.assertFalse(openers.use_qemu(self.driver.configuration))

    def note_disconnections(self):
        disconnect = self.connector.disconnect_volume

        def noted(*args, **kwargs):
            self.log.append('disconnect')
            disconnect(*args, **kwargs)
        self.connector.disconnect_volume = noted

    def test_is_disconnected_before_it_is_unmapped(self):
        self.note_disconnections()
        self.driver.open_volume(self.context, self.volume(b'x')).close()
        self.assertEqual(['disconnect', 'terminate', 'unexport'],
                         self.log[-3:])

    def test_a_remote_one_is_disconnected_before_it_is_unmapped(self):
        self.note_disconnections()
        rpcapi = mock.Mock()
        rpcapi.initialize_connection.side_effect = (
            lambda context, volume, properties:
            self.driver.initialize_connection(volume, properties))
        rpcapi.terminate_connection.side_effect = (
            lambda *args, **kwargs: self.log.append('terminate'))
        rpcapi.remove_export.side_effect = (
            lambda *args, **kwargs: self.log.append('unexport'))
        openers.open_remote(self.driver, self.context, self.volume(b'x'),
                            'r+b', rpcapi).close()
        self.assertEqual(['disconnect', 'terminate', 'unexport'],
                         self.log[-3:])

    def test_an_export_is_made_by_an_administrator(self):
        seen = []
        self.driver.create_export = (
            lambda context, volume, connector: seen.append(context.is_admin))
        user = context.RequestContext('user', 'project', is_admin=False)
        self.driver.open_volume(user, self.volume(
            b'x', project_id='project')).close()
        self.assertEqual([True], seen)

    def test_an_inactive_logical_volume_is_activated(self):
        volume = self.volume(b'x')
        path = self.driver.path(volume)
        os.rename(path, path + '.inactive')
        here = mock.Mock(spec=lvm.LVMVolumeDriver)
        here.vg = mock.Mock()
        here.vg.activate_lv.side_effect = (
            lambda name: os.rename(path + '.inactive', path))
        here.local_path.side_effect = self.driver.path
        with lvm.LVMVolumeDriver.open_volume(here, self.context, volume,
                                             'rb') as file:
            self.assertEqual(b'x', file.read(1))

    def test_a_stream_of_what_is_no_file(self):
        odd = mock.Mock()
        odd.open_volume.return_value = object()
        self.assertRaises(exception.VolumeBackendAPIException,
                          openers.stream(odd, None, None).__enter__)
        odd.close_volume.assert_called_once()


@ddt.ddt
class CopyVolumeDataTestCase(Base):

    def setUp(self):
        super().setUp()
        self.manager = mock.Mock(driver=self.driver,
                                 configuration=self.driver.configuration)
        self.patch('cinder.volume.volume_types.'
                   'volume_types_encryption_changed', return_value=False)
        self.capabilities = self.patch(
            'cinder.volume.rpcapi.VolumeAPI.get_capabilities',
            return_value={})
        self.source = self.volume(b'the source')
        self.destination = self.volume(
            b'something old', migration_status=f'target:{self.source.id}')

    def copy(self, **kwargs):
        migration.copy_volume_data(self.manager, self.context, self.source,
                                   self.destination, **kwargs)

    def test_copies_and_leaves_nothing_attached(self):
        self.copy()
        self.assertEqual(b'the source\0\0\0', self.head(self.destination, 13))
        self.assertEqual(4, len({*self.log}))
        self.assert_all_undone()

    def test_zeros_are_left_out_only_where_the_backend_says_so(self):
        # A lie, to see the difference.
        self.capabilities.return_value = {'sparse_copy_volume': True}
        self.volume_to_volume(b'\0' * 10)
        self.assertEqual(b'something ', self.head(self.destination, 10))
        # Nor when an interrupted copy goes on.
        self.copy(start=4)
        self.assertEqual(b'something ', self.head(self.destination, 10))
        # Never of a volume that is reverted to a snapshot.
        self.destination.migration_status = None
        self.copy()
        self.assertEqual(bytes(13), self.head(self.destination, 13))

    def volume_to_volume(self, content):
        with open(self.driver.path(self.source), 'r+b') as file:
            file.write(content)
        self.copy()

    def test_capabilities_that_can_not_be_learnt(self):
        self.capabilities.side_effect = exception.RPCTimeout(
            service='cinder-volume')
        self.copy()
        self.assertEqual(b'the source\0\0\0', self.head(self.destination, 13))

    @ddt.data('destination', 'source')
    def test_an_end_that_can_not_be_opened(self, end):
        os.unlink(self.driver.path(getattr(self, end)))
        self.assertRaises(exception.DeviceUnavailable, self.copy)
        self.assert_all_undone()

    def test_a_copy_that_fails(self):
        before = self.head(self.source, 100)
        with mock.patch.object(local_file.LocalFile, '_read_at',
                               side_effect=OSError(5, 'EIO')):
            self.assertRaises(volume_file.VolumeIOError, self.copy)
        self.assert_all_undone()
        self.assertEqual(before, self.head(self.source, 100))

    def test_a_detachment_that_fails_is_a_copy_that_failed(self):
        with mock.patch.object(self.driver, 'terminate_connection',
                               side_effect=RuntimeError):
            self.assertRaises(RuntimeError, self.copy)
        self.assertEqual(2, self.log.count('unexport'))

    def test_a_source_that_is_smaller_than_it_should_be(self):
        self.source = self.volume(b'x', size=GIB - 512)
        self.assertRaises(engine.CopyError, self.copy)
        self.assertEqual(b'something old', self.head(self.destination, 13))
        self.assert_all_undone()

    def test_a_volume_that_was_managed_with_a_fraction_of_a_gib(self):
        self.source = self.volume(b'x', size=1 << 20)
        with open(self.driver.path(self.destination), 'r+b') as file:
            file.seek(2 << 20)
            file.write(b'old')
        source = local_file.LocalFile.open(self.driver.path(self.source))
        source.size_is_current = True
        real = self.driver.open_volume
        self.driver.open_volume = lambda context, volume, mode: (
            source if mode == 'rb' else real(context, volume, mode))
        self.copy()
        self.assertEqual(b'x' + bytes(3 << 20),
                         self.head(self.destination, (3 << 20) + 1))

    @ddt.data(None, 'a plain file')
    def test_a_driver_that_returns_something_else(self, what):
        real = self.driver.open_volume
        odd = what and mock.Mock(spec=['read', 'close'])
        self.driver.open_volume = lambda context, volume, mode: (
            odd if mode == 'rb' else real(context, volume, mode))
        error = self.assertRaises(exception.VolumeBackendAPIException,
                                  self.copy)
        self.assertIn('FileDriver', str(error))
        if odd:
            odd.close.assert_called_once_with()
        self.assert_all_undone()

    def test_a_remote_destination(self):
        rpcapi = self.patch('cinder.volume.rpcapi.VolumeAPI').return_value
        rpcapi.get_capabilities.return_value = {}
        rpcapi.initialize_connection.side_effect = (
            lambda context, volume, properties:
            self.driver.initialize_connection(volume, properties))
        self.copy(remote='dest')
        self.assertEqual(b'the source\0\0\0', self.head(self.destination, 13))
        rpcapi.terminate_connection.assert_called_once_with(
            self.context, self.destination, mock.ANY, force=True)
        rpcapi.remove_export.assert_called_once_with(self.context,
                                                     self.destination)
        self.assertEqual([], self.connector.connected)

    def encrypted(self, size):
        """Let the source's plain text have a size."""
        self.patch('cinder.volume.volume_types.'
                   'volume_types_encryption_changed', return_value=True)
        self.patch('cinder.volume.volume_types.is_encrypted',
                   lambda context, type_id: type_id == fake.VOLUME_TYPE_ID)
        self.source = self.volume(volume_type_id=fake.VOLUME_TYPE_ID)
        self.manager._attach_volume.return_value = {'device': {
            'path': self.driver.path(self.volume(b'plain', size=size))}}

    def test_plain_text_is_shorter_by_its_header(self):
        self.encrypted(GIB - (2 << 20))
        with open(self.driver.path(self.destination), 'r+b') as file:
            file.seek(-1, os.SEEK_END)
            file.write(b'x')
        self.copy()
        self.assertEqual(b'plain\0', self.head(self.destination, 6))
        with open(self.driver.path(self.destination), 'rb') as file:
            file.seek(-1, os.SEEK_END)
            self.assertEqual(b'\0', file.read())

    def local(self, *sizes):
        """Let both be local, as LVM's are, and of a size."""
        here = mock.Mock(spec=lvm.LVMVolumeDriver)
        here.local_path.side_effect = self.driver.path
        self.driver.open_volume = (
            lambda context, volume, mode:
            lvm.LVMVolumeDriver.open_volume(here, context, volume, mode))
        for volume, size in zip((self.source, self.destination), sizes):
            os.truncate(self.driver.path(volume), size)

    def test_what_is_zeroed_beyond_the_source_is_flushed(self):
        self.encrypted(GIB - (2 << 20))
        calls = []
        zero, flush = (local_file.LocalFile._zero_at,
                       local_file.LocalFile._flush)
        self.mock_object(local_file.LocalFile, '_zero_at', lambda *args: (
            calls.append('zero'), zero(*args)))
        self.mock_object(local_file.LocalFile, '_flush', lambda file: (
            calls.append('flush'), flush(file)))
        # Closing it flushes as well, but without anybody being told.
        self.mock_object(local_file.LocalFile, 'release')
        self.copy()
        self.assertEqual('flush', calls[-1])

    @ddt.data(None, {}, {'sparse_copy_volume': False})
    def test_what_the_destination_says_itself_counts(self, told):
        """A new one that reads as zeros is not written with them."""
        self.capabilities.return_value = told
        path = self.driver.path(self.destination)
        zeroed = []
        self.mock_object(local_file.LocalFile, '_zero_at',
                         lambda *args: zeroed.append(args))
        os.truncate(path, 0)
        os.truncate(path, GIB)
        self.copy()
        self.assertEqual([], zeroed)

    def test_both_with_a_fraction_of_a_gib(self):
        self.local(3 << 20, 3 << 20)
        self.copy()
        self.assertEqual(b'the source\0\0\0', self.head(self.destination, 13))

    def test_whole_gibs_are_missing(self):
        self.source.update({'size': 3})
        self.destination.update({'size': 3})
        self.local(GIB, 3 * GIB)
        self.assertRaises(engine.CopyError, self.copy)

    def test_a_reset_just_before_the_end(self):
        self.source.update({'migration_status': 'migrating'})
        self.source.save()
        copy = engine.copy

        def reset_and_copy(*args):
            other = type(self.source).get_by_id(self.context, self.source.id)
            other.migration_status = None
            other.save()
            return copy(*args)
        self.patch('cinder.volume.copier.engine.copy', reset_and_copy)
        self.assertRaises(engine.Cancelled, self.copy)

    def test_a_close_that_takes_its_time_does_not_hold_up_the_service(self):
        threads = []
        close = local_file.LocalFile._close

        def noted(file):
            threads.append(_thread.get_native_id())
            close(file)
        self.mock_object(local_file.LocalFile, '_close', noted)
        self.copy()
        self.assertEqual(2, len(threads))
        self.assertEqual(utils.concurrency_mode_threading(),
                         _thread.get_native_id() in threads)

    def test_a_remote_destination_that_answers_too_late(self):
        rpcapi = self.patch('cinder.volume.rpcapi.VolumeAPI').return_value
        rpcapi.initialize_connection.side_effect = exception.RPCTimeout(
            service='cinder-volume')
        self.assertRaises(exception.RPCTimeout, self.copy, remote='dest')
        rpcapi.terminate_connection.assert_called_once()
        rpcapi.remove_export.assert_called_once()

    def test_goes_through_dm_crypt_if_the_encryption_changes(self):
        self.patch('cinder.volume.volume_types.'
                   'volume_types_encryption_changed', return_value=True)
        self.patch('cinder.volume.volume_types.is_encrypted',
                   lambda context, type_id: type_id == fake.VOLUME_TYPE_ID)
        self.destination.volume_type_id = fake.VOLUME_TYPE_ID
        plain = self.volume(b'x' * 20)
        attached = {'device': {'path': self.driver.path(plain)}}
        self.manager._attach_volume.return_value = attached
        self.copy(remote='dest')
        self.assertEqual(b'the source' + bytes(10), self.head(plain, 20))
        self.manager._attach_volume.assert_called_once_with(
            self.context, self.destination, mock.ANY, remote=True,
            attach_encryptor=True)
        self.manager._detach_volume.assert_called_once_with(
            self.context, attached, self.destination, mock.ANY, force=True,
            remote=True, attach_encryptor=True)

    def test_what_the_operator_set(self):
        self.driver.settings.update(
            volume_copy_verify='full', volume_copy_in_flight=3,
            volume_copy_bps_limit=1 << 40, volume_copy_timeout=9,
            volume_copy_resume=True)
        with mock.patch.object(migration.native, 'copy',
                               return_value=engine.Progress(done=GIB)) as copy:
            self.copy()
        options = copy.call_args.args[3]
        self.assertEqual((engine.Verify.FULL, 3, 9, None),
                         (options.verify, options.in_flight, options.stall,
                          options.checkpoint))
        self.assertIsNotNone(options.limiter)


class WatchTestCase(Base):

    def setUp(self):
        super().setUp()
        self.source = self.volume(migration_status='migrating')
        self.destination = self.volume()
        self.progress = engine.Progress(length=100, done=50)
        self.watch = migration._Watch(self.context, self.source,
                                      self.destination, self.progress)
        self.notify = self.patch(
            'cinder.volume.volume_utils.notify_about_volume_usage')

    def test_tells_how_far_it_is(self):
        self.watch._look()
        told = self.notify.call_args.kwargs['extra_usage_info']['progress']
        self.assertEqual((50, 100), (told['done'], told['length']))
        self.assertEqual('migrate.progress', self.notify.call_args.args[2])
        json.dumps(told)
        self.assertFalse(self.watch.is_cancelled())

    def test_a_users_own_retype(self):
        watch = migration._Watch(
            context.RequestContext('user', 'project', is_admin=False),
            self.source, self.destination, self.progress)
        watch.checkpoint(40)
        watch._look()
        self.notify.assert_called_once()
        self.destination.refresh()
        self.assertEqual('40', self.destination.admin_metadata[
            migration.CHECKPOINT_KEY])

    def test_is_cancelled_when_the_volume_is_attached(self):
        other = type(self.source).get_by_id(self.context, self.source.id)
        other.attach_status = 'attached'
        other.save()
        self.watch._look()
        self.assertTrue(self.watch.is_cancelled())

    def test_saves_what_was_flushed(self):
        self.watch.checkpoint(40)
        self.watch._look()
        self.destination.refresh()
        self.assertEqual({migration.CHECKPOINT_KEY: '40'},
                         self.destination.admin_metadata)

    def test_is_cancelled_when_the_migration_is_reset(self):
        other = type(self.source).get_by_id(self.context, self.source.id)
        other.migration_status = None
        other.save()
        self.watch._look()
        self.assertTrue(self.watch.is_cancelled())

    def test_stays_cancelled(self):
        other = type(self.source).get_by_id(self.context, self.source.id)
        for status in (None, 'migrating'):
            other.migration_status = status
            other.save()
            self.watch._look()
        self.assertTrue(self.watch.is_cancelled())

    def test_is_cancelled_when_the_volume_is_deleted(self):
        type(self.source).get_by_id(self.context, self.source.id).destroy()
        self.watch._look()
        self.assertTrue(self.watch.is_cancelled())

    def test_looks_while_it_is_copied(self):
        self.patch('cinder.volume.copier.migration.INTERVAL', 0.01)
        with self.watch.watching():
            for attempt in range(500):
                if self.notify.called:
                    break
                migration.time.sleep(0.01)
        self.assertTrue(self.notify.called)


@ddt.ddt
class CheckEncryptionTestCase(Base):

    @ddt.data(('ceph', 'LVM_iSCSI', 'a', True),
              ('iSCSI', 'ceph', 'b', True),
              ('iSCSI', 'ceph', 'a', False),
              ('ceph', 'iSCSI', 'b', False),
              ('iSCSI', 'iSCSI', 'b', False))
    @ddt.unpack
    def test_refuses_what_has_no_device(self, here, there, encrypted,
                                        refused):
        self.patch('cinder.volume.volume_types.'
                   'volume_types_encryption_changed', return_value=True)
        self.patch('cinder.volume.volume_types.is_encrypted',
                   lambda context, type_id: type_id == encrypted)
        self.patch('cinder.volume.copier.openers.has_open_iscsi',
                   return_value=True)
        manager = mock.Mock()
        manager.driver.get_volume_stats.return_value = {
            'storage_protocol': here}
        backend = {'host': 'there',
                   'capabilities': {'storage_protocol': there}}
        volume = mock.Mock(volume_type_id='a')
        if refused:
            self.assertRaises(exception.VolumeMigrationFailed,
                              migration.check_encryption, manager,
                              self.context, volume, backend, 'b')
        else:
            migration.check_encryption(manager, self.context, volume,
                                       backend, 'b')
