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
"""The samples of local.conf: stacked, and every option read as it will be.

The options are read in a process of its own by oslo.config, with what the
trees register that the plugin has just patched.
"""

import configparser
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from blockpath import paths
from tests.devstack import base

#: The options of tempest are in its wheel, which nothing else here needs.
TEMPEST = ('tempest==47.0.0 --hash=sha256:4de8438ab84be5617704181f86bd5fa223'
           'f7a59d1291c33fd2eb49d0fedd25ad\n')


def tempest() -> pathlib.Path:
    """A folder to import tempest's options from; downloaded once."""
    folder = paths.CACHE / 'devstack' / 'tempest-47.0.0'
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            wanted = pathlib.Path(name, 'wanted.txt')
            wanted.write_text(TEMPEST)
            subprocess.run(
                [sys.executable, '-m', 'pip', 'install', '--quiet',
                 '--no-deps', '--require-hashes', '-r', wanted, '--target',
                 f'{name}/site'], check=True)
            os.rename(f'{name}/site', folder)
    return folder


class SamplesTest(base.TestCase):

    whole = True

    def read(self, node: base.Node, kind: str, file: pathlib.Path,
             tree: pathlib.Path | None = None) -> dict[str, object]:
        """What a service makes of the options that the plugin set."""
        ours = [line for line in node.notes('options')
                if line.startswith(f'{file}\t')]
        brick = node.dest / 'os-brick'
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', base.HERE / 'options.py', kind,
             file, tree or node.dest / kind,
             brick if brick.exists() else node.site],
            input='\n'.join(ours) + '\n', cwd=node.top, capture_output=True,
            text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        values: dict[str, object] = json.loads(done.stdout)
        self.assertEqual(len(ours), len(values))
        return values

    def stack(self, sample: str, **settings: str) -> base.Node:
        """In a network of its own, whose loopback gets the address."""
        node = self.node(sample, **settings)
        self.said = node.run('stack', 'unshare', '--net', '--map-root-user')
        return node

    def tempest(self, node: base.Node) -> dict[str, object]:
        """What tempest with blockpath's plugin makes of its file."""
        return self.read(node, 'tempest', node.etc / 'tempest.conf',
                         tempest())

    def test_all_in_one(self):
        node = self.stack('all-in-one.conf')
        for name in ('nova.conf', 'nova-cpu.conf'):
            self.assertEqual(
                {'libvirt.volume_use_multipath': True},
                self.read(node, 'nova', node.etc / 'nova' / name))
        every = {'volume_copy_verify': 'sampled', 'volume_copy_resume': True,
                 'use_multipath_for_image_xfer': True}
        lvm = every | {'target_scope': 'host',
                       'target_secondary_ip_addresses': ['198.51.100.10']}
        wanted = {f'lvmdriver-1.{key}': value for key, value in lvm.items()}
        wanted |= {f'ceph.{key}': value for key, value in every.items()}
        self.assertEqual(wanted, self.read(
            node, 'cinder', node.etc / 'cinder/cinder.conf'))
        self.assertEqual({
            'blockpath.iscsi_volume_type': 'lvmdriver-1',
            'blockpath.rbd_volume_type': 'ceph',
            'blockpath.live_migration_between_targets': False,
            'blockpath.volume_migration_between_backends': True,
            'volume-feature-enabled.multi_backend': True,
            'volume.backend_names': ['lvmdriver-1', 'ceph'],
            'volume.storage_protocol': 'iSCSI'}, self.tempest(node))
        self.assertNotIn('[WARNING]', self.said)
        self.assertEqual(
            ['start iscsid', 'start multipathd',
             'wait for configure_neutron_nova',
             'sudo ip address add 198.51.100.10/32 dev lo',
             f'tempest plugins: {paths.ROOT}'], node.calls())

    def test_two_nodes(self):
        node = self.stack('two-node-controller.conf')
        self.assertEqual(
            {'libvirt.iscsi_initiator': 'qemu'},
            self.read(node, 'nova', node.etc / 'nova/nova-cpu.conf'))
        self.assertEqual(
            {f'lvmdriver-{number}.{key}': value for number in (1, 2)
             for key, value in (('target_scope', 'host'),
                                ('volume_copy_resume', True))},
            self.read(node, 'cinder', node.etc / 'cinder/cinder.conf'))
        self.assertEqual({
            'blockpath.iscsi_volume_type': 'lvmdriver-1',
            'blockpath.live_migration_between_targets': True,
            'blockpath.volume_migration_between_backends': False,
            'compute.min_compute_nodes': 2,
            'compute-feature-enabled.live_migration': True,
            'compute-feature-enabled.volume_backed_live_migration': True,
            'volume-feature-enabled.multi_backend': True,
            'volume.backend_names': ['lvmdriver-1', 'lvmdriver-2']},
            self.tempest(node))

    def test_two_nodes_compute(self):
        node = self.stack('two-node-compute.conf')
        self.assertEqual(
            {'libvirt.iscsi_initiator': 'qemu'},
            self.read(node, 'nova', node.etc / 'nova/nova-cpu.conf'))
        self.assertFalse((node.etc / 'cinder').exists())
        self.assertFalse((node.etc / 'tempest.conf').exists())

    def test_every_setting(self):
        """Those that no sample has, with a value that differs."""
        node = self.stack(
            'all-in-one.conf', BLOCKPATH_ISCSI_INITIATOR='host',
            BLOCKPATH_ISCSI_PROBE_TIMEOUT='7',
            BLOCKPATH_ISCSI_CHECK_IDENTITY='False',
            BLOCKPATH_ISCSI_IFACES='iser,left=tcp.eth1',
            BLOCKPATH_ISCSI_IFACE_FALLBACK='False',
            BLOCKPATH_COPY_IN_FLIGHT='4', BLOCKPATH_COPY_TIMEOUT='60',
            BLOCKPATH_COPY_ISCSI_INITIATOR='qemu',
            BLOCKPATH_DEAD_PORTAL_TYPE='half',
            BLOCKPATH_TEST_INTERRUPTED='1')
        brick = {'os_brick.iscsi_ifaces': ['iser', 'left=tcp.eth1'],
                 'os_brick.iscsi_iface_fallback': False}
        nova = node.etc / 'nova/nova.conf'
        self.assertEqual(brick | {
            'libvirt.iscsi_initiator': 'host',
            'libvirt.iscsi_probe_timeout': 7,
            'libvirt.iscsi_check_identity': False,
            'libvirt.volume_use_multipath': True},
            self.read(node, 'nova', nova))
        cinder = self.read(node, 'cinder', node.etc / 'cinder/cinder.conf')
        self.assertEqual(4, cinder['ceph.volume_copy_in_flight'])
        self.assertEqual(60, cinder['ceph.volume_copy_timeout'])
        self.assertEqual('qemu',
                         cinder['lvmdriver-1.volume_copy_iscsi_initiator'])
        self.assertEqual(brick, {key: cinder[key] for key in brick})
        flags = self.tempest(node)
        self.assertIs(True, flags['blockpath.multipath_dead_portal'])
        self.assertEqual('half', flags['blockpath.dead_portal_volume_type'])
        self.assertIs(True, flags['blockpath.interrupted_migration'])
        for key in ('kill', 'start'):
            self.assertIn('devstack@c-vol',
                          str(flags[f'blockpath.{key}_volume_service']))
        # Unstacked, the files say what devstack had written.
        node.run('unstack')
        parser = configparser.RawConfigParser(default_section='')
        parser.read([nova, node.etc / 'cinder/cinder.conf'])
        self.assertEqual({'virt_type': 'qemu',
                          'iscsi_check_identity': 'true'},
                         dict(parser['libvirt']))
        self.assertEqual({'volume_driver', 'target_helper'},
                         set(parser['ceph']))
        self.assertEqual([], list(parser['os_brick']))
