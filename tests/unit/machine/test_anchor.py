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
"""A host of namespaces has files of its own, for as long as it lives."""

import os
import pathlib
import select
import socket
import subprocess
import sys

from blockpath.machine import anchor
from blockpath.machine import wait
from blockpath import paths
from tests.unit import lab_base


#: Whatever an anchor does, the machine's files stay as they are.
_GUARD = '''
mount -t tmpfs none /run
touch /run/of-the-machine
mount --bind /etc /etc
mount -o remount,bind,ro /etc
exec "$0" -m blockpath.machine.anchor "$@"
'''


class TestAnchor(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.own = self.folder / 'own'
        (self.own / 'etc' / 'blockpath').mkdir(parents=True)
        (self.own / 'etc' / 'hosts').write_text('10.77.0.10 control\n')
        (self.own / 'etc' / 'blockpath' / 'deep').write_text('of the host')
        self.child = self.start(self.own)

    def start(self, folder: pathlib.Path) -> 'subprocess.Popen[str]':
        child = subprocess.Popen(
            ['unshare', '--mount', '--uts', '--propagation', 'private', 'sh',
             '-ec', _GUARD, sys.executable, str(folder), 'control'],
            env=dict(os.environ, PYTHONPATH=str(paths.ROOT)), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        assert child.stdout
        with child.stdout:
            self.assertEqual('ready\n', child.stdout.readline())
            # It holds on to no pipe, or its starter would not see its end.
            readable, _, _ = select.select([child.stdout], [], [], 10)
            self.assertTrue(readable)
            self.assertEqual('', child.stdout.readline())
        return child

    def inside(self, script: str) -> str:
        return subprocess.run(
            ['nsenter', '--target', str(self.child.pid), '--mount', '--uts',
             '--', 'sh', '-ec', script], check=True, capture_output=True,
            text=True).stdout

    def test_its_own(self) -> None:
        self.assertEqual('control\n', self.inside('uname -n'))
        self.assertEqual('10.77.0.10 control\nof the host', self.inside(
            'cat /etc/hosts /etc/blockpath/deep'))
        # All else of /etc is as it is outside.
        self.assertEqual(pathlib.Path('/etc/passwd').read_text(),
                         self.inside('cat /etc/passwd'))
        self.assertNotIn('of-the-machine', self.inside('ls /run'))
        self.assertEqual('700\n', self.inside(
            f'stat --format=%a {anchor.TEMPORARY}'))

    def test_its_changes_stay_there(self) -> None:
        self.assertNotEqual('control', socket.gethostname())
        self.inside('echo 1.2.3.4 other >>/etc/hosts')
        self.assertEqual('10.77.0.10 control\n',
                         (self.own / 'etc' / 'hosts').read_text())

    def test_a_host_with_no_files_of_its_own(self) -> None:
        self.child = self.start(self.folder / 'none')
        self.assertEqual(pathlib.Path('/etc/hosts').read_text(),
                         self.inside('cat /etc/hosts'))

    def test_small(self) -> None:
        name = pathlib.Path(f'/proc/{self.child.pid}/comm')
        wait.until(lambda: name.read_text() == 'sleep\n',
                   'Python to have left', 10)
