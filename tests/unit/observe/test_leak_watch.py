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
"""The lookout sees what it looks for: else its silence proves nothing."""

import os
import pathlib
import secrets
import subprocess
import time

import fixtures
import testtools

from blockpath.machine import topology
from blockpath.observe import leak_watch

# Other processes run these tests at the same time: not one word for all.
WORD = secrets.token_hex(8)


class _Lab:
    """As much of a lab as is looked at."""

    names = ('cmp1',)

    def __init__(self, folder: pathlib.Path) -> None:
        self.site = topology.Site(state=folder)
        self.storage: leak_watch.Storage = self
        self.hosts: leak_watch.Hosts = self
        self.words: set[str] = set()
        self.devices: list[str] = ['0:0:0:0']

    def scsi_devices(self) -> list[str]:
        return self.devices

    def passwords(self) -> set[str]:
        return self.words

    def root(self, host: str) -> pathlib.Path:
        return self.site.state / 'root' / host


class LookoutTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = self.useFixture(fixtures.TempDir()).path
        self.lab = _Lab(pathlib.Path(folder))
        self.temporary = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self.useFixture(fixtures.MockPatchObject(
            leak_watch, '_TEMPORARY', (str(self.temporary),)))
        self.watch = leak_watch.Lookout(self.lab, {WORD})

    def test_password_on_a_command_line(self) -> None:
        with self.watch:
            subprocess.run(['sh', '-c', 'sleep 0.5', f'--password={WORD}'],
                           check=True)
        [line] = self.watch.exposed
        self.assertEqual('sh -c sleep 0.5 --password=***', line.strip())

    def test_password_of_a_new_target(self) -> None:
        word = secrets.token_hex(8)
        with self.watch:
            self.lab.words = {word}
            time.sleep(0.2)
            self.lab.words = set()
            subprocess.run(['sh', '-c', 'sleep 0.5', f'--password={word}'],
                           check=True)
        [line] = self.watch.exposed
        self.assertEqual('sh -c sleep 0.5 --password=***', line.strip())

    def test_nothing_to_see(self) -> None:
        with self.watch:
            time.sleep(0.2)
        self.assertEqual(set(), self.watch.exposed)
        self.assertEqual(set(), self.watch.devices)
        self.assertGreater(self.watch.looks, 0)
        self.assertEqual([], self.watch.files_with_passwords())

    def test_device_that_appears(self) -> None:
        with self.watch:
            self.lab.devices = ['0:0:0:0', '2:0:0:1']
            time.sleep(0.3)
            self.lab.devices = ['0:0:0:0']
        self.assertEqual({'2:0:0:1'}, self.watch.devices)

    def test_password_in_a_file(self) -> None:
        places = [self.lab.site.log / 'nova.log',
                  self.lab.hosts.root('cmp1') / 'run/tmp/note',
                  self.lab.site.host('cmp1') / 'libvirt/qemu/guest.log']
        for path in places:
            path.parent.mkdir(parents=True)
            path.write_text(f'{{"auth_password": "{WORD}"}}')
        with self.watch:
            pass
        self.assertEqual(sorted(map(str, places)),
                         self.watch.files_with_passwords())

    def test_password_in_a_temporary_file(self) -> None:
        note = self.temporary / 'below' / 'note'
        note.parent.mkdir()
        note.write_text(WORD)
        self.assertIn(str(note), self.watch.files_with_passwords())
        # The clock of files is behind, but not by so much.
        for age, found in ((0.5, True), (2.0, False)):
            stamp = self.watch.began + leak_watch._TICK - age
            os.utime(note, (stamp, stamp))
            self.assertEqual(found, str(note) in
                             self.watch.files_with_passwords())
