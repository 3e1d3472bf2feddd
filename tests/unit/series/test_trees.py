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
import shutil

from blockpath.series import git
from blockpath.series import model
from blockpath.series import refresh
from blockpath.series import target
from blockpath.series import trees
from tests.unit.series import base


class TreeTest(base.CheckoutCase):

    def apply(self) -> target.Result:
        return trees.apply(self.series, 'nova', base.RELEASE)

    def remake(self) -> str:
        """Make the tree anew; returns the id of its last commit."""
        self.tree.rename(self.temp / f'old-{len(list(self.temp.iterdir()))}')
        self.apply()
        return git.Git(self.tree).commit_of('HEAD')

    def test_base_is_the_whole_release(self):
        """Also what upstream's own .gitignore would leave out."""
        listed = git.Git(self.tree).text('ls-tree', '-r', '--name-only',
                                         'base').split('\n')
        self.assertEqual(sorted(base.FILES), sorted(listed))

    def test_one_commit_a_patch(self):
        self.two_patches()
        self.assertFalse(self.apply().changed)
        before = base.snapshot(self.tree)
        first = self.remake()
        self.assertEqual(before, base.snapshot(self.tree))
        self.assertEqual(first, self.remake())
        self.assertEqual('applied', trees.status(self.series, 'nova',
                                                 base.RELEASE).state)

    def test_new_patches_arrive(self):
        self.two_patches()
        stored = base.snapshot(self.root / 'patches')
        files = base.snapshot(self.root / 'nova')
        git.Git(self.tree).run('reset', '--hard', '--quiet', 'HEAD^')
        refresh.refresh(self.series, 'nova')
        for folder, content in (('patches', stored), ('nova', files)):
            for path, data in content.items():
                place = self.root / folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        self.assertTrue(self.apply().changed)
        self.assertTrue((self.tree / 'nova/disks.py').exists())

    def test_own_commits_are_left_alone(self):
        self.two_patches()
        mine = self.commit('Mine', {'nova/mine.py': ''})
        error = self.assert_says(trees.OwnWork, 'refresh', self.apply)
        self.assertEqual(3, error.exit_code)
        self.assert_says(trees.OwnWork, 'refresh', trees.reverse, self.series,
                         'nova', base.RELEASE)
        self.assertEqual(mine, git.Git(self.tree).commit_of('HEAD'))

    def test_uncommitted_edits_are_left_alone(self):
        self.two_patches()
        (self.tree / 'nova/driver.py').write_text('mine\n')
        self.assert_says(trees.TreeError, 'nova/driver.py', trees.reverse,
                         self.series, 'nova', base.RELEASE)
        self.assertEqual('mine\n', (self.tree / 'nova/driver.py').read_text())
        self.assertFalse(self.apply().changed)

    def test_reverse(self):
        self.two_patches()
        trees.reverse(self.series, 'nova', base.RELEASE)
        self.assertEqual(base.snapshot(self.base), base.snapshot(self.tree))
        self.assertTrue(self.apply().changed)
        self.assertFalse(self.apply().changed)

    def test_reverse_makes_a_tree_to_start_from(self):
        self.two_patches()
        shutil.rmtree(self.tree)
        result = trees.reverse(self.series, 'nova', base.RELEASE)
        self.assertIn('0 patches on 34.0.0', result.message)
        self.assertEqual(base.snapshot(self.base), base.snapshot(self.tree))
        self.assertTrue(self.apply().changed)

    def test_not_fetched(self):
        self.base.rename(self.temp / 'gone')
        self.assert_says(trees.TreeError, 'blockpath series fetch',
                         self.apply)

    def test_no_tree_of_ours(self):
        self.tree.rename(self.temp / 'gone')
        self.tree.mkdir()
        self.assert_says(trees.TreeError, 'move it away', self.apply)

    def test_failed_making_leaves_nothing(self):
        self.two_patches()
        self.tree.rename(self.temp / 'gone')
        (self.root / 'nova/nova/disks.py').unlink()
        self.assert_says(model.SeriesError, 'disks.py is missing', self.apply)
        self.assertEqual(['base'], [
            path.name for path in self.tree.parent.iterdir()])
