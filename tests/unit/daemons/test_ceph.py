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
"""A Ceph's configuration, keys and ports; tests/ceph starts one."""

import base64
import configparser
import pathlib
import socket
import stat
import subprocess

from blockpath.daemons import ceph
from blockpath.machine import errors
from tests.unit import lab_base


class TestFiles(lab_base.LabTest):

    def cluster(self, **kwargs) -> ceph.Cluster:
        folder = self.folder / 'ceph'
        folder.mkdir(exist_ok=True)
        return ceph.Cluster(folder, **kwargs)

    def conf(self, cluster: ceph.Cluster) -> configparser.ConfigParser:
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read_string(cluster.text())
        return config

    def test_addresses_and_ports(self) -> None:
        conf = self.conf(self.cluster(address='10.0.0.7', port=5000))
        self.assertEqual('[v2:10.0.0.7:5000/0]', conf['global']['mon_host'])
        self.assertEqual('10.0.0.7/32', conf['global']['public_network'])
        self.assertEqual(
            ('5001', '5023'), (conf['osd']['ms_bind_port_min'],
                               conf['osd']['ms_bind_port_max']))

    def test_options_win_over_ours(self) -> None:
        conf = self.conf(self.cluster(port=5000, options={
            'osd': {'bluestore_cache_size': '1'},
            'global': {'ms_inject_delay_max': '0.01'}}))
        self.assertEqual('1', conf['osd']['bluestore_cache_size'])
        self.assertEqual('0.01', conf['global']['ms_inject_delay_max'])

    def test_options_of_an_unknown_section(self) -> None:
        self.assertRaises(ValueError, self.cluster,
                          options={'osd.0': {'a': 'b'}})

    def test_another_start_has_the_same_identity(self) -> None:
        first = self.cluster().identity
        self.assertEqual(first, self.cluster().identity)
        self.assertEqual(first, self.cluster(port=first.port).identity)

    def test_the_address_can_not_change(self) -> None:
        port = self.cluster().identity.port
        for other in (self.cluster(port=port + 1),
                      self.cluster(address='10.0.0.7')):
            error = self.assertRaises(errors.LabError,
                                      getattr, other, 'identity')
            self.assertIn('wipe it first', str(error))

    def test_each_client_has_its_keyring(self) -> None:
        cluster = self.cluster()
        conf = self.conf(cluster)
        for client in (ceph.ADMIN, ceph.USER):
            self.assertEqual(str(cluster.keyring(client)),
                             conf[f'client.{client}']['keyring'])


class TestKeys(lab_base.LabTest):

    def test_key_is_an_aes_key(self) -> None:
        key = base64.b64decode(ceph.make_key())
        self.assertEqual((b'\1\0', b'\x10\0'), (key[:2], key[10:12]))
        self.assertEqual(12 + 16, len(key))
        self.assertNotEqual(ceph.make_key(), ceph.make_key())

    def test_ceph_reads_a_keyring(self) -> None:
        if not pathlib.Path('/usr/bin/ceph-authtool').exists():
            self.skipTest('needs ceph-common')
        path = self.folder / 'keyring'
        key = ceph.make_key()
        path.write_text(ceph.keyring({'client.cinder': key}))
        told = subprocess.run(['ceph-authtool', '--list', str(path)],
                              check=True, capture_output=True, text=True)
        self.assertIn(key, told.stdout)
        self.assertIn('caps osd = "profile rbd"', told.stdout)


class TestPorts(lab_base.LabTest):

    def test_a_range_in_use_is_left_out(self) -> None:
        first = ceph.free_port()
        with socket.socket() as taken:
            taken.bind((ceph.LOOPBACK, first + ceph.PORTS - 1))
            self.assertNotIn(ceph.free_port(),
                             range(first, first + ceph.PORTS))


class TestRun(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.cluster = ceph.Cluster(self.folder / 'ceph', port=5000)
        for folder in (self.cluster.records.run, self.cluster.records.log):
            folder.mkdir(parents=True)

    def test_a_command_that_fails(self) -> None:
        error = self.assertRaises(
            errors.LabError, self.cluster.run,
            ['sh', '-c', 'echo no such thing >&2; exit 2'])
        self.assertIn('no such thing', str(error))

    def test_a_daemon_dies_while_a_command_waits(self) -> None:
        self.cluster.records.spawn(
            ceph.OSD, ['sh', '-c', 'sleep 0.3; echo no space; exit 1'], {})
        error = self.assertRaises(errors.ServiceDied, self.cluster.run,
                                  ['sleep', '60'])
        self.assertIn('no space', str(error))

    def test_keys_are_private(self) -> None:
        self.cluster.write_keyrings({
            'mon.': 'm', 'osd.0': 'o', 'client.admin': 'a',
            'client.cinder': 'c'})
        found = {path.name: stat.S_IMODE(path.stat().st_mode)
                 for path in self.cluster.folder.glob('*.keyring')}
        self.assertEqual({'client.admin.keyring': 0o600,
                          'client.cinder.keyring': 0o600,
                          'initial.keyring': 0o600,
                          'osd.keyring': 0o600}, found)
