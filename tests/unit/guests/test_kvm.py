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
"""KVM is believed only when it has booted the guest, and asked once."""

import pathlib
import tempfile
from unittest import mock

import testtools

from blockpath import errors
from blockpath.guests import kvm
from blockpath.guests import tiny

IMAGE = tiny.GuestImage(pathlib.Path('/nonexistent/guest.raw'),
                        pathlib.Path('vmlinuz'), pathlib.Path('initrd.gz'),
                        'quiet', '6.1.0-1', 'digest')


class TestDomainType(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.device = self.folder / 'kvm'
        self.device.touch()
        self.verdicts = self.folder / 'cache' / 'kvm.json'
        self.said: list[str] = []
        self.boots = mock.Mock(return_value=True)
        for name, new in (('DEVICE', self.device), ('boots', self.boots),
                          ('VERDICTS', self.verdicts)):
            patcher = mock.patch.object(kvm, name, new)
            patcher.start()
            self.addCleanup(patcher.stop)

    def domain_type(self) -> str:
        return kvm.domain_type(IMAGE, say=self.said.append)

    def test_no_device(self) -> None:
        self.device.unlink()
        self.assertEqual('qemu', self.domain_type())
        self.boots.assert_not_called()

    def test_asked_once(self) -> None:
        self.assertEqual('kvm', self.domain_type())
        self.assertEqual('kvm', self.domain_type())
        self.boots.assert_called_once_with(IMAGE, 'kvm', kvm.DEADLINE_S)
        self.assertEqual(2, len(self.said))
        self.assertEqual(['kvm.json'],
                         [path.name for path in self.folder.glob('cache/*')])

    def test_does_not_boot(self) -> None:
        self.boots.return_value = False
        self.assertEqual('qemu', self.domain_type())
        self.assertEqual('qemu', self.domain_type())
        self.boots.assert_called_once()

    def test_asked_again_on_another_kernel(self) -> None:
        self.domain_type()
        with mock.patch.object(kvm.os, 'uname',
                               return_value=mock.Mock(release='99')):
            self.domain_type()
        self.assertEqual(2, self.boots.call_count)

    def test_unreadable_verdicts_are_made_anew(self) -> None:
        self.verdicts.parent.mkdir()
        for text in ('{"half', '[]'):
            self.verdicts.write_text(text)
            self.assertEqual('kvm', self.domain_type())
        self.assertEqual(2, self.boots.call_count)


class TestBoots(testtools.TestCase):

    def test_qemu_that_ends_at_once(self) -> None:
        with mock.patch.object(kvm, 'QEMU', 'false'):
            self.assertFalse(kvm.boots(IMAGE, 'kvm', 5))

    def test_qemu_that_hangs(self) -> None:
        with mock.patch.object(kvm, '_command',
                               return_value=['sleep', '60']):
            self.assertFalse(kvm.boots(IMAGE, 'kvm', 0.1))

    def test_no_qemu(self) -> None:
        with mock.patch.object(kvm, 'QEMU', 'nonexistent-qemu'):
            error = self.assertRaises(errors.BlockpathError, kvm.boots,
                                      IMAGE, 'kvm', 1)
        self.assertIn('apt-get install qemu-system-x86', str(error))
