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

import hypothesis
from hypothesis import strategies as st
import testtools

from blockpath.series import check
from blockpath.series import git
from blockpath.series import model
from blockpath.series import refresh
from blockpath.series import trees
from tests.unit.series import base


class SlugTest(testtools.TestCase):

    @hypothesis.given(st.text(max_size=200))
    def test_is_a_name_or_nothing(self, subject):
        name = refresh.slug(subject)
        if name:
            self.assertIsNotNone(model.NAME.fullmatch(name))
        self.assertTrue(len(name) <= 60)

    def test_words(self):
        self.assertEqual('libvirt-don-t-stop-a-guest',
                         refresh.slug("1. libvirt: Don't stop a guest!"))

    def test_parts(self):
        self.assertIsNone(refresh.contained(['move-a', 'move-b']))
        self.assertEqual(('move', 'move-b'),
                         refresh.contained(['x', 'move-b', 'move']))
        self.assertEqual(('x', 'x'), refresh.contained(['x', 'x']))


class RefreshTest(base.CheckoutCase):

    def refresh(self, **kwargs) -> list[str]:
        return refresh.refresh(self.series, 'nova', **kwargs)

    def hooks(self, name: str) -> str:
        return (self.root / 'patches/nova' / f'{name}.patch').read_text()

    def names(self) -> list[str]:
        return [patch.name for patch in self.series.patches['nova']]

    def test_hooks_and_files(self):
        self.two_patches()
        first, second = self.series.patches['nova']
        self.assertEqual('libvirt-move-guests', first.name)
        self.assertEqual(('nova/moving.py', 'nova/tests/test_moving.py',
                          'releasenotes/notes/moving.yaml'), first.files)
        self.assertEqual(
            'def forget(volume):\n    pass\n',
            (self.root / 'nova/nova/moving.py').read_text())
        text = self.hooks(first.name)
        self.assertIn('@@ -14,2 +14,2 @@ def swap(volume):\n'
                      ' def detach(volume):\n'
                      '-    disconnect(volume)\n'
                      '+    forget(volume)\n', text)
        self.assertNotIn('moving.py', text)
        self.assertTrue(text.startswith('From ' + '0' * 40))
        # What an earlier patch added is edited by a hook.
        self.assertIn('+++ b/nova/moving.py', self.hooks(second.name))

    def test_again_changes_nothing(self):
        self.two_patches()
        self.assertEqual([], self.refresh())

    def test_round_trip(self):
        self.two_patches()
        before = trees.commits(git.Git(self.tree), 'HEAD')
        self.tree.rename(self.temp / 'old')
        trees.apply(self.series, 'nova', base.RELEASE)
        self.assertEqual(before, trees.commits(git.Git(self.tree), 'HEAD'))
        self.assertEqual([], self.refresh())

    def test_all_kinds_of_change(self):
        """Deleted, made executable, without a last newline, odd bytes."""
        self.commit('libvirt: Everything', {
            'nova/conf.py': None, 'nova/driver.py': base.DRIVER + 'end',
            'nova/\xe9 x.py': '', 'nova/empty.py': ''})
        (self.tree / 'nova/__init__.py').chmod(0o755)
        (self.tree / 'nova/new.sh').write_text('#!/bin/sh\n')
        (self.tree / 'nova/new.sh').chmod(0o755)
        self.commit('libvirt: Modes', {'nova/driver.py': base.DRIVER,
                                       'nova/__init__.py': '',
                                       'nova/new.sh': '#!/bin/sh\n'})
        self.refresh()
        self.test_round_trip_of_what_is_there()
        self.assertFalse((self.tree / 'nova/conf.py').exists())
        self.assertTrue((self.tree / 'nova/new.sh').stat().st_mode & 0o100)
        self.assertTrue(
            (self.root / 'nova/nova/new.sh').stat().st_mode & 0o100)

    def test_round_trip_of_what_is_there(self):
        before = trees.commits(git.Git(self.tree), 'HEAD')
        self.tree.rename(self.temp / 'old')
        trees.apply(self.series, 'nova', base.RELEASE)
        self.assertEqual(before, trees.commits(git.Git(self.tree), 'HEAD'))

    def test_comments_and_keys_survive(self):
        self.two_patches()
        self.write_toml(self.toml().replace(
            '[[patches.nova]]\nname = "libvirt-move-disks-too"',
            '# Why it is second.\n[[patches.nova]]\n'
            'name = "libvirt-move-disks-too"\nno-release-note = "internal"'))
        self.commit('libvirt: Third', {'nova/third.py': ''})
        self.refresh()
        self.assertIn('# The series of a test.', self.toml())
        self.assertIn('# Why it is second.\n', self.toml())
        self.assertEqual('internal',
                         self.series.patches['nova'][1].no_release_note)
        self.assertEqual(3, len(self.names()))

    def test_reworded_and_dropped(self):
        self.two_patches()
        git.Git(self.tree).run('reset', '--hard', '--quiet', 'HEAD^')
        git.Git(self.tree).run('commit', '--quiet', '--amend', '-m',
                               base.WHY.format(subject='libvirt: Carry'))
        lines = self.refresh()
        self.assertEqual(['libvirt-carry'], self.names())
        self.assertEqual(['libvirt-carry.patch'], [
            path.name for path in (self.root / 'patches/nova').iterdir()])
        self.assertFalse((self.root / 'nova/nova/disks.py').exists())
        self.assertIn('removed nova/nova/disks.py', lines)

    def test_reordered(self):
        self.commit('libvirt: One', {'nova/one.py': ''})
        self.commit('libvirt: Two', {'nova/two.py': ''})
        self.refresh()
        repository = git.Git(self.tree)
        one, two = repository.commits('base', 'HEAD')
        repository.run('reset', '--hard', '--quiet', 'base')
        for commit in (two, one):
            repository.run('cherry-pick', commit)
        self.refresh()
        self.assertEqual(['libvirt-two', 'libvirt-one'], self.names())

    def test_new_default_release(self):
        """Merged commits become hooks that are exact on the new release."""
        self.two_patches()
        self.write_toml(self.toml() + '\n[releases."2027.1".nova]\n'
                        'version = "34.0.0"\nsha256 = "1"\n')
        base_of_new = self.root / '.trees/2027.1/base/nova'
        shutil.copytree(self.base, base_of_new)
        (base_of_new / 'nova/driver.py').write_text(
            f'# New.\n\n{base.DRIVER}')
        trees.apply(self.series, 'nova', '2027.1')
        self.write_toml(self.toml().replace('default = "2026.2"',
                                            'default = "2027.1"'))
        self.refresh()
        report = check.check(self.series, ['nova'])
        self.assertEqual([], report.errors)
        self.assertIn('nova 2027.1: 2 patches apply exactly', report.facts)
        self.assertIn('nova 2026.2: 2 patches apply, 2 hooked files merged',
                      report.facts)

    def refused(self, words: str) -> None:
        before = base.snapshot(self.root)
        self.assert_says(refresh.RefreshError, words, self.refresh)
        self.assertEqual(before, base.snapshot(self.root))

    def test_name_in_name(self):
        self.commit('libvirt: Move', {'nova/a.py': ''})
        self.commit('libvirt: Move disks', {'nova/b.py': ''})
        self.refused('libvirt-move is a part of libvirt-move-disks')

    def test_no_name(self):
        self.commit('2026', {'nova/a.py': ''})
        self.refused('no patch name')

    def test_merge(self):
        repository = git.Git(self.tree)
        repository.run('checkout', '--quiet', '-b', 'side')
        self.commit('Side', {'nova/side.py': ''})
        repository.run('checkout', '--quiet', 'series')
        self.commit('Main', {'nova/main.py': ''})
        repository.run('merge', '--quiet', '-m', 'Both', 'side')
        self.refused('is a merge')

    def test_message_that_git_am_would_cut(self):
        self.commit('libvirt: Cut', {'nova/a.py': ''},
                    '{subject}\n\nBefore:\n---\nafter\n')
        self.refused('reword')

    def test_symlink(self):
        (self.tree / 'nova/link.py').symlink_to('driver.py')
        git.Git(self.tree).run('add', '--', 'nova/link.py')
        git.Git(self.tree).run('commit', '--quiet', '-m', 'libvirt: Link')
        self.refused('plain files')

    def test_edited_on_the_wrong_side(self):
        self.two_patches()
        (self.root / 'nova/nova/moving.py').write_text('edited here\n')
        self.commit('libvirt: Third', {'nova/third.py': ''})
        self.refused('nova/nova/moving.py was edited here')
        self.refresh(force=True)
        self.assertIn('pass',
                      (self.root / 'nova/nova/moving.py').read_text())

    def test_empty_tree_does_not_empty_the_series(self):
        self.two_patches()
        trees.reverse(self.series, 'nova', base.RELEASE)
        self.refused('has no commits')

    def test_in_a_rebase(self):
        (self.tree / '.git/rebase-merge').mkdir()
        self.assert_says(trees.TreeError, 'rebase', self.refresh)
