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
"""A libvirtd of its own: no domain, secret or socket of the host's."""

import subprocess
import tempfile
import time

import fixtures
import libvirt

#: What a libvirtd writes to. Each is empty inside, and gone afterwards.
_PRIVATE = ('/run', '/etc/libvirt', '/var/lib/libvirt', '/var/log/libvirt',
            '/var/cache/libvirt')
#: Seconds until the socket answers; the first start asks QEMU what it can.
_DEADLINE = 60
_START = """
set -e
for folder in {folders}; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
mkdir -p /run/libvirt /etc/libvirt
cat > /etc/libvirt/libvirtd.conf <<C
auth_unix_rw = "none"
unix_sock_group = "root"
C
cat > /etc/libvirt/qemu.conf <<C
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
C
exec libvirtd
"""


class Libvirtd(fixtures.Fixture):
    """Starts libvirtd in mount and network namespaces of its own; as root.

    ``conn`` is a connection to it.
    """

    conn: libvirt.virConnect

    def _setUp(self) -> None:
        # A callable: the default handler writes each error to stderr.
        libvirt.registerErrorHandler(lambda ctx, error: None, None)
        self._log = tempfile.TemporaryFile()
        self.addCleanup(self._log.close)
        self._process = subprocess.Popen(
            ['unshare', '--mount', '--net', '--propagation', 'private', 'sh',
             '-c', _START.format(folders=' '.join(_PRIVATE))],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        self.addCleanup(self._stop)
        self.conn = self._connect()
        self.addCleanup(self.conn.close)

    def _connect(self) -> libvirt.virConnect:
        socket = (f'/proc/{self._process.pid}/root'
                  '/run/libvirt/libvirt-sock')
        deadline = time.monotonic() + _DEADLINE
        while True:
            try:
                return libvirt.open(f'qemu:///system?socket={socket}')
            except libvirt.libvirtError:
                if (self._process.poll() is not None or
                        time.monotonic() > deadline):
                    self._log.seek(0)
                    raise RuntimeError('libvirtd does not answer: ' +
                                       self._log.read().decode())
                time.sleep(0.1)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
