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
"""The guest that one may log in to: its address, its key, its tools."""

import pathlib
import socket
import tempfile
import time

import paramiko
import testtools

from blockpath.guests import tiny
from tests.guests import machine

MIB = 1 << 20
#: What answers as the metadata service: QEMU runs it for each connection.
SERVER = '''#!/bin/sh
read -r request
case $request in
*openssh-key*) printf 'HTTP/1.0 200 OK\\r\\n\\r\\n%s\\n' '{key}' ;;
*) printf 'HTTP/1.0 404 Not Found\\r\\n\\r\\n' ;;
esac
'''


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


class TestLogins(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix='blockpath-logins-')
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.key = paramiko.ECDSAKey.generate()
        self.port = free_port()
        server = self.folder / 'metadata'
        server.write_text(SERVER.format(
            key=f'{self.key.get_name()} {self.key.get_base64()}'))
        server.chmod(0o755)
        self.vm = machine.Machine(
            tiny.build(takes_logins=True), self.folder, more=(
                '-netdev', 'user,id=net,net=169.254.169.0/24,'
                           f'hostfwd=tcp:127.0.0.1:{self.port}-:22,'
                           f'guestfwd=tcp:169.254.169.254:80-cmd:{server}',
                '-device', 'virtio-net-pci,netdev=net'))
        self.addCleanup(self.vm.close)

    def connect(self, key: paramiko.PKey) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        self.addCleanup(client.close)
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect('127.0.0.1', self.port, 'root', pkey=key, timeout=30,
                       allow_agent=False, look_for_keys=False)
        return client

    def test_a_user_at_work(self) -> None:
        """As tempest's tests: file systems on disks, and sudo."""
        self.vm.wait_text('takes logins')
        client = self.connect(self.key)

        def run(command: str) -> str:
            _, out, err = client.exec_command(
                f'set -eu -o pipefail; PATH=$PATH:/sbin; {command}',
                timeout=60)
            text = out.read().decode()
            self.assertEqual(0, out.channel.recv_exit_status(),
                             f'{command}: {err.read().decode()}')
            return text

        path = self.folder / 'volume'
        with open(path, 'wb') as file:
            file.truncate(64 * MIB)
        self.vm.plug(path, 'serial')
        deadline = time.monotonic() + 20
        while 'vdb' not in (listed := run('lsblk -lb --nodeps')):
            self.assertLess(time.monotonic(), deadline, listed)
        self.assertIn('TYPE', listed)
        for kind in ('ext4', 'vfat'):
            run(f'sudo mkfs -t {kind} /dev/vdb')
            run('sudo mount /dev/vdb /mnt')
            run(f'sudo sh -c "echo {kind} > /mnt/file; sync"')
            self.assertEqual(f'{kind}\n', run('sudo cat /mnt/file'))
            run('sudo umount /mnt')
        # What a reboot must not lose is on the disk that it booted from.
        self.assertIn('/dev/vda1 /tmp', run('cat /proc/mounts'))
        self.assertNotIn(b'BPWRITE1', path.read_bytes())

    def test_another_key(self) -> None:
        self.vm.wait_text('takes logins')
        self.assertRaises(paramiko.AuthenticationException, self.connect,
                          paramiko.ECDSAKey.generate())
