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
import pathlib
import shutil
import subprocess

import fixtures

from blockpath.series import export
from blockpath.series import git
from blockpath.series import plan
from blockpath.series import refresh
from blockpath.series import target
from blockpath.series import trees
from tests.unit.series import base


class ExportTest(base.CheckoutCase):

    def setUp(self):
        super().setUp()
        self.two_patches()
        self.to = self.temp / 'exported'

    def export(self, *layouts: str) -> pathlib.Path:
        export.export(self.series, ['nova'], base.RELEASE,
                      layouts or export.LAYOUTS, self.to, {})
        return self.to

    def mails(self) -> list[pathlib.Path]:
        return sorted((self.to / 'gerrit/nova').iterdir())

    def assert_whole(self, folder: pathlib.Path) -> None:
        self.assertEqual(base.snapshot(self.tree), base.snapshot(folder))

    def test_git_am(self):
        self.export('gerrit')
        folder = self.clone_upstream()
        git.Git(folder).run('am', '--quiet', *map(str, self.mails()))
        self.assert_whole(folder)

    def test_git_am_keeps_authors_and_messages(self):
        self.export('quilt')
        folder = self.clone_upstream()
        names = (self.to / 'quilt/nova/series').read_text().split()
        git.Git(folder).run('am', '--quiet', *(
            str(self.to / 'quilt/nova' / name) for name in names))
        git.Git(folder).run('tag', '--force', 'base', 'HEAD~2')
        strip = [(each.author, each.date, each.message)
                 for each in trees.commits(git.Git(folder), 'HEAD')]
        self.assertEqual([(each.author, each.date, each.message) for each in
                          trees.commits(git.Git(self.tree), 'HEAD')], strip)

    def test_gerrit_message(self):
        self.export('gerrit')
        text = self.mails()[0].read_text()
        self.assertRegex(text, (
            'Implements: blueprint moving-guests\n'
            'Change-Id: I[0-9a-f]{40}\n'
            'Signed-off-by: Carl Committer <carl@example.org>\n'))
        # Reviewers get the usual context.
        self.assertIn('@@ -12,4 +12,4 @@', text)

    def test_packages_need_no_signer(self):
        for name in ('NAME', 'EMAIL'):
            self.useFixture(fixtures.EnvironmentVariable(
                f'GIT_COMMITTER_{name}', ''))
        self.assert_says(target.TargetError, 'user.name', self.export,
                         'gerrit')
        self.export('kolla', 'quilt', 'numbered')

    def test_numbered(self):
        """As OSISM does it: every file of the folder, sorted by name."""
        folder = self.unpack()
        home = self.export('numbered') / 'numbered/nova'
        for path in sorted(home.iterdir()):
            subprocess.run(['patch', '--forward', '--batch', '-p1', '-i',
                            path], cwd=folder, check=True,
                           capture_output=True)
        self.assert_whole(folder)

    def test_quilt(self):
        """Each patch applies by patch -p1 in the order of the series file."""
        folder = self.unpack()
        self.export('quilt')
        home = self.to / 'quilt/nova'
        for name in (home / 'series').read_text().split():
            subprocess.run(['patch', '-p1', '--fuzz=0', '-i', home / name],
                           cwd=folder, check=True, capture_output=True)
        self.assert_whole(folder)

    def test_kolla(self):
        """As Kolla's images do it: patch -p0 in /, code alone."""
        self.export('kolla')
        home = self.to / 'kolla/nova-base'
        root = self.temp / 'root'
        packages = root / export.KOLLA
        shutil.copytree(self.install(), packages)
        for name in (home / 'series').read_text().split():
            subprocess.run(['patch', '-p0', '--fuzz=0', '--ignore-whitespace',
                            '-i', home / name],
                           cwd=root, check=True, capture_output=True)
        after = base.snapshot(packages)
        for path in ('nova/driver.py', 'nova/moving.py', 'nova/disks.py'):
            self.assertEqual((self.tree / path).read_bytes(), after[path])
        self.assertNotIn('nova/tests/test_moving.py', after)

    def test_kolla_leaves_out_what_is_no_code(self):
        self.commit('tests: Try', {'nova/tests/test_try.py': ''})
        refresh.refresh(self.series, 'nova')
        self.export('kolla')
        self.assertEqual(
            ['libvirt-move-guests.patch', 'libvirt-move-disks-too.patch'],
            (self.to / 'kolla/nova-base/series').read_text().split())

    def test_folder_in_use(self):
        self.to.mkdir()
        (self.to / 'mine').write_text('')
        self.assert_says(export.ExportError, 'not an empty folder',
                         self.export)
        self.assertEqual(['mine'], [path.name for path in self.to.iterdir()])

    def test_failure_leaves_nothing(self):
        shutil.rmtree(self.base)
        before = sorted(self.temp.iterdir())
        self.assert_says(plan.NotFetched, 'blockpath series fetch',
                         self.export)
        self.assertEqual(before, sorted(self.temp.iterdir()))
