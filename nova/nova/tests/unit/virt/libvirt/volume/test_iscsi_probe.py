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

"""The trial login, with a real process in the place of qemu-img."""

import os
import subprocess
import time

import ddt
import fixtures
from oslo_serialization import jsonutils

from nova import exception
from nova import test
from nova.virt.libvirt.volume import iscsi_connection
from nova.virt.libvirt.volume import iscsi_probe

A = iscsi_connection.Path('192.0.2.1', 3260, 'iqn.2026-01.x:a', 3)
B = iscsi_connection.Path('2001:db8::1', 3261, 'iqn.2026-01.x:b', 4)
CHAP = iscsi_connection.CHAP('user', 's3cr3t')
GOOD = """echo '{"virtual-size": 1073741824}'"""
BAD = """echo "qemu-img: Could not open 'json:{\\"file\\": {}}': iSCSI: \
Failed to log in to target. Status: Authentication failure(513)" >&2; exit 1"""


class QemuImgTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        self.useFixture(fixtures.EnvironmentVariable(
            'PATH', self.dir + ':' + os.environ['PATH']))
        self.flags(virt_type='kvm', iscsi_initiator='qemu',
                   iscsi_probe_timeout=30, group='libvirt')

    def _qemu_img(self, script):
        path = os.path.join(self.dir, 'qemu-img')
        with open(path, 'w') as stub:
            stub.write(f'#!/bin/sh\necho "$@" >> {self.dir}/argv\n'
                       f'cat >> {self.dir}/stdin\n{script}\n')
        os.chmod(path, 0o755)

    def _read(self, name):
        with open(os.path.join(self.dir, name)) as written:
            return written.read()


class ProbeTestCase(QemuImgTestCase):

    def test_what_qemu_img_is_asked(self):
        self._qemu_img(GOOD)
        self.assertIsNone(iscsi_probe.probe(B, CHAP, 'iqn.y:host'))
        argv = self._read('argv')
        self.assertIn('--object secret,id=chap,file=/dev/stdin', argv)
        disk = jsonutils.loads(argv[argv.index('json:') + 5:])
        self.assertEqual(
            {'driver': 'iscsi', 'transport': 'tcp',
             'portal': '[2001:db8::1]:3261', 'target': 'iqn.2026-01.x:b',
             'lun': 4, 'user': 'user', 'password-secret': 'chap',
             'initiator-name': 'iqn.y:host'}, disk['file'])

    def test_password(self):
        self._qemu_img(BAD)
        why = iscsi_probe.probe(A, CHAP, 'iqn.y:host')
        self.assertEqual('s3cr3t', self._read('stdin'))
        for told in (self._read('argv'), why, self.stdlog.logger.output):
            self.assertNotIn('s3cr3t', told)

    def test_no_credentials(self):
        self._qemu_img(GOOD)
        self.assertIsNone(iscsi_probe.probe(A, None, 'iqn.y:host'))
        self.assertNotIn('secret', self._read('argv'))

    def test_reason(self):
        self._qemu_img(BAD)
        self.assertEqual(
            'Failed to log in to target. Status: Authentication failure(513)',
            iscsi_probe.probe(A, CHAP, 'iqn.y:host'))

    def test_silent_failure(self):
        self._qemu_img('exit 1')
        self.assertEqual('qemu-img gave no reason',
                         iscsi_probe.probe(A, CHAP, 'iqn.y:host'))

    def test_lun_that_is_no_disk(self):
        self._qemu_img("""echo '{"virtual-size": 0}'""")
        self.assertEqual('LUN 3 has no size',
                         iscsi_probe.probe(A, CHAP, 'iqn.y:host'))

    def test_deadline(self):
        # The one that is asked does not survive the answer that never comes.
        self.flags(iscsi_probe_timeout=1, group='libvirt')
        self._qemu_img(f'echo $$ > {self.dir}/pid; exec sleep 60')
        start = time.monotonic()
        self.assertEqual('no answer within 1 seconds',
                         iscsi_probe.probe(A, CHAP, 'iqn.y:host'))
        self.assertLess(time.monotonic() - start, 30)
        pid = int(self._read('pid'))
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_first_healthy(self):
        self._qemu_img(f"case $* in *:3260*) {BAD};; *) {GOOD};; esac")
        connection = iscsi_connection.Connection((A, B), CHAP)
        self.assertEqual(
            B, iscsi_probe.first_healthy(connection, 'iqn.y:host', 'vol'))
        self.assertIn('192.0.2.1:3260', self.stdlog.logger.output)

    def test_none_healthy(self):
        self._qemu_img(BAD)
        connection = iscsi_connection.Connection((A, B), CHAP)
        exc = self.assertRaises(
            exception.ISCSIPathsFailed, iscsi_probe.first_healthy,
            connection, 'iqn.y:host', 'vol')
        for part in ('vol', '192.0.2.1:3260', '[2001:db8::1]:3261', '(513)'):
            self.assertIn(part, str(exc))


@ddt.ddt
class CheckBlockDriverTestCase(QemuImgTestCase):

    def test_absent(self):
        self._qemu_img(
            "echo 'qemu: module block-block-iscsi not found' >&2; echo "
            "\"qemu-img: Could not open 'json:{\\\"file\\\": {}}': "
            "Unknown driver 'iscsi'\" >&2; exit 1")
        exc = self.assertRaises(
            exception.InternalError, iscsi_probe.check_block_driver)
        self.assertIn('qemu-block-extra', str(exc))

    def test_there(self):
        self._qemu_img(BAD)
        iscsi_probe.check_block_driver()

    @ddt.data({'iscsi_initiator': 'host'}, {'virt_type': 'lxc'})
    def test_not_needed(self, flags):
        self.flags(group='libvirt', **flags)
        self._qemu_img("echo Unknown driver >&2; exit 1")
        iscsi_probe.check_block_driver()

    def test_no_qemu_img(self):
        self.useFixture(fixtures.EnvironmentVariable('PATH', self.dir))
        exc = self.assertRaises(
            exception.InternalError, iscsi_probe.check_block_driver)
        self.assertIn('qemu-img: No such file', str(exc))

    def test_real(self):
        if subprocess.run(['sh', '-c', 'command -v qemu-img'],
                          stdout=subprocess.DEVNULL).returncode:
            self.skipTest('there is no qemu-img')
        # Whichever it is, it is told within the deadline and without a trace.
        try:
            iscsi_probe.check_block_driver()
        except exception.InternalError as exc:
            self.assertIn('iSCSI block driver', str(exc))
