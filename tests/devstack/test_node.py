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
"""The node's packages and address, the tool's venv, wrong settings."""

import os
import pathlib
import subprocess
import sys

from blockpath import paths
from tests.devstack import base

#: With a loopback that is down and has no address yet.
NETWORK = ('unshare', '--net', '--map-root-user')


class AddressTest(base.TestCase):
    """In a network of its own for each run, with ip itself."""

    def script(self, node: base.Node, text: str, code: int = 0) -> list[str]:
        """Run the functions of lib/address.sh and ip, as root.

        :param code: that it ends with
        """
        done = subprocess.run(
            [*NETWORK, 'bash', '-c',
             'set -o errexit; sudo() { "$@"; }\n'
             'die() { echo "${@:2}"; exit 1; }\n'
             f'BLOCKPATH_STATE={node.state} BLOCKPATH_SECOND_DEVICE=lo\n'
             'BLOCKPATH_SECOND_ADDRESS=198.51.100.10/24\n'
             f'source {base.PLUGIN}/lib/address.sh\n{text}'],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(code, done.returncode, done.stdout)
        return done.stdout.splitlines()

    def test_added_once_and_removed(self):
        show = 'ip -o address show to 198.51.100.10'
        lines = self.script(self.node(), f'''
            add_blockpath_address; add_blockpath_address; {show}
            echo --; remove_blockpath_address; {show}; echo --
            remove_blockpath_address; add_blockpath_address; {show}''')
        self.assertEqual(4, len(lines), str(lines))
        self.assertIn('inet 198.51.100.10/24', lines[0])
        self.assertEqual(['--', '--'], lines[1:3])

    def test_one_that_was_there_stays(self):
        lines = self.script(self.node(), '''
            ip address add 198.51.100.10/24 dev lo
            add_blockpath_address; remove_blockpath_address
            ip -o address show to 198.51.100.10''')
        self.assertEqual(1, len(lines), str(lines))
        self.assertIn('inet 198.51.100.10/24', lines[0])

    def test_no_such_device(self):
        lines = self.script(self.node(), 'BLOCKPATH_SECOND_DEVICE=eth9\n'
                                         'add_blockpath_address', code=1)
        self.assertIn('cannot add 198.51.100.10/24 to eth9; is '
                      'BLOCKPATH_SECOND_DEVICE right?', lines)


class SettingsTest(base.TestCase):

    def test_address_without_prefix(self):
        node = self.node(BLOCKPATH_SECOND_ADDRESS='198.51.100.10')
        said = node.run('stack', ok=False)
        self.assertIn('has no prefix length; write ADDRESS/PREFIX', said)
        self.assertFalse((node.dest / 'nova').exists())

    def test_warnings_are_whole(self):
        """devstack shows one word of them; nothing is stacked after these."""
        node = self.node(BLOCKPATH_ISCSI_INITIATOR='qemu', DISTRO='rhel9',
                         ABSENT_PACKAGES='qemu-block-iscsi',
                         DEVSTACK_PLUGINS='blockpath')
        said = node.run('stack', ok=False)
        self.assertIn('BLOCKPATH_MULTIPATH is for what the hosts connect\n',
                      said)
        self.assertIn('but devstack-plugin-ceph is not enabled\n', said)

    def test_no_block_driver_for_qemu(self):
        node = self.node('two-node-compute.conf')
        said = node.run('stack', ok=False, DISTRO='rhel9',
                        ABSENT_PACKAGES='qemu-block-iscsi')
        self.assertIn('rhel9 has no package qemu-block-iscsi; set '
                      'BLOCKPATH_ISCSI_INITIATOR=host', said)

    def test_multipath_configuration_where_multipathd_needs_it(self):
        node = self.node(BLOCKPATH_SECOND_ADDRESS='')
        conf = node.top / 'multipath.conf'
        node.run('stack', DISTRO='rhel9', BLOCKPATH_MULTIPATH_CONF=str(conf))
        self.assertIn('start multipathd', node.calls())
        self.assertTrue(conf.exists())
        node.run('unstack', DISTRO='rhel9')
        self.assertFalse(conf.exists())


class PackagesTest(base.TestCase):

    def test_debian_has_them(self):
        """As this machine's package lists say, where apt is."""
        if not list(pathlib.Path('/var/lib/apt/lists').glob('*Packages*')):
            self.skipTest('apt has no package lists')
        names = (base.PLUGIN / 'files/debs/blockpath').read_text().split()
        done = subprocess.run(['apt-cache', 'show', '--no-all-versions',
                               *names], capture_output=True, text=True)
        found = {line.removeprefix('Package: ')
                 for line in done.stdout.splitlines()
                 if line.startswith('Package: ')}
        self.assertEqual(set(names), found, done.stderr)


class ToolTest(base.TestCase):

    def test_venv_has_what_the_series_imports(self):
        """And none of what OpenStack runs with."""
        python = base.tool() / 'venv/bin/python'
        done = subprocess.run(
            [python, '-m', 'blockpath', 'series', 'releases'],
            cwd=paths.ROOT, capture_output=True, text=True)
        self.assertEqual('', done.stderr)
        self.assertIn(f'{base.SERIES.default} nova', done.stdout)
        [site] = base.tool().glob('venv/lib/python3*/site-packages')
        self.assertFalse((site / 'oslo_config').exists())

    def test_venv_is_made_once(self):
        node = self.node('two-node-compute.conf')
        stamp = node.state / 'venv/pyvenv.cfg'
        before = stamp.stat().st_mtime_ns
        node.run('stack')
        self.assertEqual(before, stamp.stat().st_mtime_ns)

    def test_python_that_is_too_old(self):
        folder = self.node().top
        old = pathlib.Path(folder, 'python3')
        old.write_text('#!/bin/sh\nexit 1\n')
        old.chmod(0o755)
        done = subprocess.run(
            ['bash', '-c', 'die() { echo "${@:2}" >&2; exit 1; }\n'
             f'BLOCKPATH_DIR={paths.ROOT} BLOCKPATH_STATE={folder}\n'
             f'source {base.PLUGIN}/lib/tool.sh; PATH={folder}:$PATH\n'
             'install_blockpath_tool'], capture_output=True, text=True,
            env=os.environ | {'PYTHON3_VERSION': '3'})
        self.assertEqual(f'{old} is older than 3.11; set PYTHON3_VERSION\n',
                         done.stderr)
        self.assertNotEqual(0, done.returncode)
        self.assertGreaterEqual(sys.version_info, (3, 11))
