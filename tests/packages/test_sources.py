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
"""Packages built from the sdists: quilt, and builds that apply a folder."""

import os
import pathlib

from tests.packages import base

#: quilt reads no settings of the user's.
QUILT = {**os.environ, 'QUILT_PATCHES': 'debian/patches',
         'QUILT_PC': '.pc', 'LC_ALL': 'C'}


class SourcesTest(base.PackagesTestCase):

    def patches(self, tree: str) -> list[str]:
        """What ``find -type f | sort`` and a shell's ``*`` give alike."""
        folder = self.exported / 'numbered' / tree
        return sorted(map(str, folder.iterdir()))

    def test_quilt(self):
        """As dh and dpkg-source do it: debian/patches/series, no fuzz."""
        for tree in base.SERIES.trees():
            with self.subTest(tree):
                folder = self.unpacked(tree)
                pristine = base.snapshot(folder)
                (folder / 'debian').mkdir()
                (folder / 'debian/patches').symlink_to(
                    self.exported / 'quilt' / tree)
                self.quilt(folder, 'push', '-a', '--fuzz=0')
                self.assert_same(self.patched(tree), self.state(folder))
                self.quilt(folder, 'pop', '-a')
                self.assert_same(pristine, self.state(folder))

    def quilt(self, folder: pathlib.Path, *arguments: str) -> None:
        said = base.run('quilt', '--quiltrc', '-', *arguments, cwd=folder,
                        env=QUILT)
        self.assertNotRegex(said, 'fuzz|offset')

    def state(self, folder: pathlib.Path) -> dict[str, str]:
        """What is there beside quilt's own."""
        return {path: digest for path, digest in base.snapshot(folder).items()
                if not path.startswith(('.pc/', 'debian/'))}

    def test_patch_with_a_dry_run_first(self):
        """As OSISM's build does on the tarballs of its images."""
        for tree in base.SERIES.trees():
            with self.subTest(tree):
                folder = self.unpacked(tree)
                for path in self.patches(tree):
                    for dry in (['--dry-run'], []):
                        said = base.run('patch', '--forward', '--batch',
                                        '-p1', *dry, '-i', path, cwd=folder)
                        self.assertNotRegex(said, 'fuzz|offset')
                self.assert_same(self.patched(tree), base.snapshot(folder))

    def test_git_apply(self):
        """All of them by one command, in a clone that is built from."""
        for tree in base.SERIES.trees():
            with self.subTest(tree):
                folder = self.unpacked(tree)
                base.run('git', 'apply', '--verbose', *self.patches(tree),
                         cwd=folder)
                self.assert_same(self.patched(tree), base.snapshot(folder))
