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

from blockpath.series import check
from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import plan
from blockpath.series import refresh
from blockpath.series import release_hooks
from blockpath.series import trees
from tests.unit.series import base

OLD = '2026.1'
#: Here the very line that the first patch changes is another one.
OLD_DRIVER = '# Old.\n\n' + base.DRIVER.replace(
    'disconnect(volume)', 'disconnect(volume, force=True)')


class OwnTest(base.CheckoutCase):
    """An older release, in which the first of two patches conflicts."""

    def setUp(self):
        super().setUp()
        self.two_patches()
        self.add_release(OLD, '33.0.0',
                         base.FILES | {'nova/driver.py': OLD_DRIVER})
        fetch.fetch(self.series, 'nova', OLD)
        self.own = self.root / 'patches/nova' / OLD
        self.first = self.own / 'libvirt-move-guests.patch'

    @property
    def old_tree(self) -> pathlib.Path:
        return self.root / '.trees' / OLD / 'nova'

    def port(self) -> None:
        """As one does it by hand: pick each, and mend the first."""
        trees.reverse(self.series, 'nova', OLD)
        repository = git.Git(self.old_tree)
        repository.run('fetch', '--quiet', str(self.tree), 'series')
        repository.run('cherry-pick', 'FETCH_HEAD~1', ok=(0, 1))
        (self.old_tree / 'nova/driver.py').write_text(OLD_DRIVER.replace(
            'disconnect(volume, force=True)', 'forget(volume)'))
        repository.run('add', '--all')
        repository.run('-c', 'core.editor=true', 'cherry-pick', '--continue')
        repository.run('cherry-pick', 'FETCH_HEAD')

    def refresh(self) -> list[str]:
        return release_hooks.refresh(self.series, 'nova', OLD)

    def test_conflicts_without(self):
        self.assert_says(plan.PlanError, 'conflicts with line', trees.apply,
                         self.series, 'nova', OLD)

    def test_only_where_it_must(self):
        self.port()
        self.assertEqual(
            [f'wrote patches/nova/{OLD}/libvirt-move-guests.patch'],
            self.refresh())
        self.assertEqual([self.first], list(self.own.iterdir()))
        self.assertIn('-    disconnect(volume, force=True)\n'
                      '+    forget(volume)\n', self.first.read_text())
        self.assertEqual([], self.refresh())

    def test_applied_from_it(self):
        self.port()
        self.refresh()
        report = check.check(self.series, ['nova'], OLD)
        self.assertEqual([], report.errors)
        self.assertIn(f'nova {OLD}: 2 patches apply, 1 hooked files merged, '
                      f'1 by hooks of its own', report.facts)
        before = base.snapshot(self.old_tree)
        git.Git(self.old_tree).run('reset', '--hard', '--quiet', trees.BASE)
        trees.apply(self.series, 'nova', OLD)
        self.assertEqual(before, base.snapshot(self.old_tree))

    def test_goes_when_it_need_not_be(self):
        self.port()
        self.refresh()
        second = self.own / 'libvirt-move-disks-too.patch'
        second.write_bytes(self.first.read_bytes())
        self.assertEqual([f'removed patches/nova/{OLD}/{second.name}'],
                         self.refresh())
        self.assertFalse(second.exists())

    def test_drift_in_its_tree(self):
        self.port()
        self.refresh()
        self.commit('libvirt: Third', {'nova/third.py': ''},
                    folder=self.old_tree)
        errors = check.check(self.series, ['nova']).errors
        self.assertIn(f'run blockpath series refresh nova --release {OLD}',
                      errors[0])

    def test_new_files_are_the_same(self):
        self.port()
        moving = self.old_tree / 'nova/moving.py'
        moving.write_text('def forget(volume, force):\n    del volume\n')
        git.Git(self.old_tree).run('commit', '--quiet', '--all', '--amend',
                                   '--no-edit')
        self.refresh()
        # A later patch may change it by a hook; the file itself may not be
        # another.
        git.Git(self.old_tree).run('reset', '--hard', '--quiet', 'HEAD~1')
        moving.write_text('def forget(volume, force):\n    pass\n')
        git.Git(self.old_tree).run('commit', '--quiet', '--all', '--amend',
                                   '--no-edit')
        git.Git(self.old_tree).run('cherry-pick', '-X', 'theirs',
                                   'FETCH_HEAD')
        self.assert_says(refresh.RefreshError, 'nova/moving.py is not the '
                         'stored one', self.refresh)

    def test_what_merges_cannot_be_known_without_the_merge_base(self):
        """Nothing is stored as a release's own for want of the other."""
        self.port()
        self.base.rename(self.temp / 'gone')
        self.assert_says(plan.NotFetched, f'.trees/{base.RELEASE}/base/nova '
                         'is missing; run: blockpath series fetch --release '
                         f'{base.RELEASE} nova', self.refresh)
        self.assertFalse(self.own.exists())

    def test_as_many_commits_as_patches(self):
        self.port()
        git.Git(self.old_tree).run('reset', '--hard', '--quiet', 'HEAD~1')
        self.assert_says(refresh.RefreshError, 'one commit for each patch',
                         self.refresh)
