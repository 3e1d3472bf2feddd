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
import json
import os
import pathlib
import subprocess

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
             'none', '-f', 'raw', '-O', 'raw',
             'rbd:volumes/a:id=cinder:conf=/x/ceph.conf', '/x/file'],
            argv('qemu-img', IMAGE, FILE))
        # It does not make these, so it is told that they are empty.
        convert = argv('qemu-img', FILE, LUN)
        self.assertIn('--target-is-zero', convert)
        self.assertEqual('iscsi://127.0.0.1:3260/iqn.2026-01.org:x/4',
                         convert[-1])

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

    def test_memory(self):
        self.assertRaisesRegex(errors.BlockpathError, 'see --size',
                               copy_site.check_memory, 1 << 50)


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
