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
import dataclasses
import json
import os
import pathlib
import subprocess
from unittest import mock

import fixtures
import testtools

from blockpath.bench import copy_job
from blockpath.bench import copy_measure
from blockpath.bench import copy_site
from blockpath.bench import copy_tools
from blockpath.bench import copy_volumes
from blockpath import errors

MIB = 1 << 20
CEPH = copy_volumes.Ceph('/x/ceph.conf', 'cinder', '127.0.0.1:3300',
                         '/x/keyring')
IMAGE = copy_volumes.Image(CEPH, 'volumes', 'a')
OTHER = copy_volumes.Image(CEPH, 'others', 'b')
LUN = copy_volumes.Lun('127.0.0.1:3260', 'iqn.2026-01.org:x', 4, '/x/lun')
FILE = copy_volumes.File('/x/file')


def argv(tool, source, destination):
    command = copy_tools.command(tool, source, destination, MIB)
    return command and command[0]


def command(tool, source, destination):
    found = copy_tools.command(tool, source, destination, 4 * MIB)
    assert found
    return found


class CommandTest(testtools.TestCase):

    def test_qemu_img(self):
        self.assertEqual(
            ['qemu-img', 'convert', '-m', '16', '-W', '-t', 'none', '-T',
             'none', '-n', '--target-is-zero', '-f', 'raw', '-O', 'raw',
             'rbd:volumes/a:id=cinder:conf=/x/ceph.conf', '/x/file'],
            argv('qemu-img', IMAGE, FILE))
        self.assertEqual('iscsi://127.0.0.1:3260/iqn.2026-01.org:x/4',
                         argv('qemu-img', FILE, LUN)[-1])

    def test_rbd(self):
        self.assertEqual(['export', 'volumes/a', '/x/file'],
                         argv('rbd', IMAGE, FILE)[-3:])
        self.assertEqual(['import', '/x/file', 'volumes/a'],
                         argv('rbd', FILE, IMAGE)[-3:])
        self.assertIn('export volumes/a - | rbd',
                      argv('rbd', IMAGE, OTHER)[-1])

    def test_rbd_makes_what_it_writes(self):
        self.assertTrue(copy_tools.makes_destination('rbd', IMAGE))
        self.assertTrue(copy_tools.makes_destination('rbd', FILE))
        self.assertFalse(copy_tools.makes_destination('series', IMAGE))

    def test_nbdcopy(self):
        self.assertEqual(
            ['/x/file', '[', 'qemu-nbd', '--persistent', '--format=raw',
             '--discard=unmap', 'rbd:volumes/a:id=cinder:conf=/x/ceph.conf',
             ']'], argv('nbdcopy', FILE, IMAGE)[4:])

    def test_what_can_not_be(self):
        self.assertIsNone(argv('rbd', LUN, IMAGE))
        self.assertIsNone(argv('rbd', IMAGE, LUN))
        self.assertIsNone(argv('cinder', LUN, IMAGE))
        self.assertIsNotNone(argv('series', LUN, IMAGE))

    def test_volumes_survive_json(self):
        for volume in (IMAGE, LUN, FILE):
            text = json.dumps(copy_volumes.to_json(volume))
            self.assertEqual(volume, copy_volumes.from_json(json.loads(text)))


class ContentTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'x'

    def test_all_is_written(self):
        for fill in ('random', 'zeros'):
            copy_site.write(self.path, fill, 8 * MIB)
            self.assertEqual(8 * MIB, self.path.stat().st_size)
            self.assertGreaterEqual(
                copy_volumes.File(str(self.path)).allocated, 8 * MIB)
        self.assertEqual(bytes(8 * MIB), self.path.read_bytes())

    def test_a_tenth(self):
        copy_site.write(self.path, 'tenth', 40 * MIB)
        self.assertEqual(40 * MIB, self.path.stat().st_size)
        self.assertEqual(4 * MIB, copy_volumes.File(str(self.path)).allocated)

    def test_a_blank_file_has_all_of_its_room(self):
        self.path.write_bytes(b'x' * MIB)
        copy_site.blank(self.path, 3 * MIB)
        self.assertEqual(bytes(3 * MIB), self.path.read_bytes())
        self.assertGreaterEqual(
            copy_volumes.File(str(self.path)).allocated, 3 * MIB)

    def test_occupied_holes_are_zeros_and_the_rest_stays(self):
        for content in ({}, {0: b'a' * MIB}, {2 * MIB: b'b' * MIB},
                        {5 * MIB: b'c' * MIB}):
            with self.path.open('wb') as file:
                file.truncate(6 * MIB)
                for offset, data in content.items():
                    file.seek(offset)
                    file.write(data)
            before = self.path.read_bytes()
            copy_site.occupy(self.path)
            self.assertEqual(before, self.path.read_bytes())
            self.assertGreaterEqual(
                copy_volumes.File(str(self.path)).allocated, 6 * MIB)

    def test_memory(self):
        self.assertRaisesRegex(errors.BlockpathError, 'see --size',
                               copy_site.check_memory, 1 << 50)


class DestinationTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        cluster, target = mock.MagicMock(), mock.Mock()
        cluster.keyring.return_value = '/x/keyring'
        target.add.side_effect = lambda path: dataclasses.replace(
            LUN, backing=str(path))
        self.site = copy_site.Site(self.folder, MIB, cluster, target)

    def allocated(self, kind, **options):
        with self.site.destination(kind, False, **options) as volume:
            assert not isinstance(volume, copy_volumes.Image)
            path = pathlib.Path(volume.backing)
            self.assertEqual(bytes(MIB), path.read_bytes())
            allocated = copy_volumes.File(volume.backing).allocated
            path.write_bytes(b'x' * MIB)
            return allocated

    def test_thick_ones_have_their_room_and_others_none(self):
        for kind in ('file', 'iscsi'):
            for thick in (False, True, True, False):
                self.assertEqual(MIB if thick else 0,
                                 self.allocated(kind, thick=thick))

    def test_one_that_the_tool_makes_is_not_there(self):
        self.allocated('file', thick=True)
        with self.site.destination('file', True, thick=True) as volume:
            self.assertEqual(self.site.named('file'), volume)
            self.assertEqual([], list(self.folder.glob('file.raw')))


class JobTest(testtools.TestCase):
    """Both Cinders copy, each its own; files need no server."""

    def copy(self, **changes: str) -> copy_measure.Usage:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        source, self.destination = folder / 'a', folder / 'b'
        self.data = os.urandom(4 * MIB)
        source.write_bytes(self.data)
        with self.destination.open('wb') as file:
            file.truncate(4 * MIB)
        [*argv, text], env = command(
            'series', copy_volumes.File(str(source)),
            copy_volumes.File(str(self.destination)))
        job = {**json.loads(text), **changes}
        return copy_measure.run([*argv, json.dumps(job)], env)

    def test_series(self):
        usage = self.copy()
        self.assertEqual(self.data, self.destination.read_bytes())
        # Imports, which take seconds, are not the copy's.
        self.assertTrue(0 < usage.seconds < 1, usage)

    def test_another_cinder(self):
        error = self.assertRaises(
            copy_measure.Failed, self.copy,
            tree=str(copy_tools.tree('cinder')))
        self.assertIn(f'not of {copy_tools.tree("cinder")}', str(error))

    def test_pristine_cinder_is_found(self):
        [python, *_], env = command('cinder', IMAGE, FILE)
        found = subprocess.run(
            [python, '-P', '-c', 'import cinder; print(cinder.__file__)'],
            env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
        self.assertTrue(
            pathlib.Path(found.stdout.strip()).is_relative_to(
                copy_tools.tree('cinder')), found.stdout)
        self.assertIn('/base/', found.stdout)

    def test_pristine_cinder_writes_to_a_file_as_to_a_device(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        source, destination = folder / 'a', folder / 'b'
        source.write_bytes(b's' * 4 * MIB)
        destination.write_bytes(b'd' * 5 * MIB)
        self.run_cinder(copy_volumes.File(str(source)),
                        copy_volumes.File(str(destination)))
        self.assertEqual(b's' * 4 * MIB + b'd' * MIB,
                         destination.read_bytes())

    def test_pristine_cinder_has_no_way_to_a_lun(self):
        error = self.assertRaises(
            copy_measure.Failed, self.run_cinder, LUN, FILE)
        self.assertIn('needs a SCSI device', str(error))

    def run_cinder(self, source, destination):
        argv, env = command('cinder', IMAGE, FILE)
        job = json.loads(argv[-1])
        job['source'] = copy_volumes.to_json(source)
        job['destination'] = copy_volumes.to_json(destination)
        copy_measure.run([*argv[:-1], json.dumps(job)], env)


class MarkTest(testtools.TestCase):

    def test_monitor_as_os_brick_takes_it(self):
        path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'keyring'
        path.write_text('[client.cinder]\nkey = x\n')
        image = copy_volumes.Image(copy_volumes.Ceph(
            '/x', 'cinder', '127.0.0.1:3300', str(path)), 'volumes', 'a')
        properties = copy_job._connection_properties(image)
        self.assertEqual((['127.0.0.1'], ['3300'], 'volumes/a'), (
            properties['hosts'], properties['ports'], properties['name']))
