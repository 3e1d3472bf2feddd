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
"""A Ceph of our own, from nothing to nothing."""

import hashlib
import os
import pathlib
import socket
import stat
import subprocess
import tempfile
import types

import testtools

from blockpath.daemons import ceph
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.observe import volume_content


class TestCluster(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        missing = [package for path, package in ceph.PROGRAMS.items()
                   if not pathlib.Path(path).exists()]
        if os.geteuid() or missing:
            self.skipTest('needs root and ceph-mon, ceph-osd, ceph-common')
        # Not /tmp, which may be a tmpfs: the OSD wants O_DIRECT.
        folder = tempfile.TemporaryDirectory(dir='/var/tmp')
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name) / 'ceph'

    def test_life(self) -> None:
        """Starts, keeps what is written over a restart, leaves nothing."""
        text = os.urandom(1 << 20)
        with ceph.Cluster(self.folder, pools=('volumes', 'more'),
                          size=8 << 30) as cluster:
            pids = cluster.pids()
            self.assertEqual(set(ceph.DAEMONS), set(pids))
            self.check_keys_are_hidden(cluster)
            cluster.rbd('create', 'more/image', '--size', '64M')
            self.write(cluster, text)
            cluster.stop()
            self.assertEqual({}, cluster.pids())
            # Another process that knows the folder, and that alone.
            again = ceph.Cluster(self.folder, pools=('volumes', 'more'),
                                 size=8 << 30)
            again.start()
            read = subprocess.run(
                again.rbd_argv('export', 'more/written', '-'),
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                check=True).stdout
            self.assertEqual(text, read)
            self.assertEqual(['image', 'written'],
                             again.rbd('ls', 'more').split())
            pids |= again.pids()
            port = again.identity.port
        self.assertFalse(self.folder.exists())
        self.assertEqual([], [pid for pid in pids.values()
                              if pathlib.Path(f'/proc/{pid}').exists()])
        with socket.socket() as probe:
            # Old connections may linger; whoever listens still fails.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((ceph.LOOPBACK, port))

    def write(self, cluster: ceph.Cluster, text: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(text)
            file.seek(0)
            cluster.rbd('import', '-', 'more/written', stdin=file)

    def check_keys_are_hidden(self, cluster: ceph.Cluster) -> None:
        for path in self.folder.rglob('*keyring'):
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertFalse((self.folder / 'initial.keyring').exists())
        keys = [cluster.key(client) for client in (ceph.ADMIN, ceph.USER)]
        for pid in cluster.pids().values():
            told = pathlib.Path(f'/proc/{pid}/cmdline').read_text()
            self.assertFalse([key for key in keys if key in told])
        for path in (self.folder / 'log').iterdir():
            said = path.read_text()
            self.assertFalse([key for key in keys if key in said])

    def test_holdings(self) -> None:
        """A volume on Ceph takes a pattern, and is read as it was written."""
        site = topology.Site(self.folder / 'lab', self.folder / 'cache')
        written = self.folder.with_name('written')
        with open(written, 'wb') as file:
            file.truncate(1 << 30)
            for offset, data in volume_content.pattern(1 << 30, mib=8):
                file.seek(offset)
                file.write(data)
        with open(written, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
        with ceph.Cluster(site.ceph, pools=list(topology.POOLS.values()),
                          size=8 << 30) as cluster:
            # No volume of this test is on the storage host.
            storage = types.SimpleNamespace(read=lambda *argv: '')
            held = volume_content.Holdings(
                site, cluster, storage, '')  # type: ignore[arg-type]
            volume = types.SimpleNamespace(
                id='rbd2', name='rbd2', size=1, migration_id=None,
                host='storage@rbd2#rbd2')
            cluster.rbd('create', held.image(volume), '--size', '1G')
            self.assertEqual(0, held.allocated(volume))
            held.write(volume, mib=8)
            self.assertEqual(digest, held.sha256(volume))
            # The data, and the rest of each object.
            self.assertTrue(9 << 20 < held.allocated(volume) < 33 << 20)
            self.assertEqual({'rbd2/volume-rbd2'}, held.names())
            with testtools.ExpectedException(errors.LabError,
                                             '.*failed: .*No such file.*'):
                held.sha256(types.SimpleNamespace(
                    id='none', name='none', size=1, migration_id=None,
                    host='storage@rbd#rbd'))

    def test_a_port_in_use(self) -> None:
        """The error shows what the daemon that died said."""
        with socket.socket() as taken:
            port = ceph.free_port()
            taken.bind((ceph.LOOPBACK, port))
            taken.listen()
            cluster = ceph.Cluster(self.folder, port=port, size=8 << 30)
            self.addCleanup(cluster.wipe)
            error = self.assertRaises(errors.ServiceDied, cluster.__enter__)
        self.assertIn('ceph-mon ended unexpectedly', str(error))
        self.assertIn('Address already in use', str(error))
        self.assertEqual({}, cluster.pids())
