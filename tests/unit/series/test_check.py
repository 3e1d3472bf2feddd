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

from blockpath.series import check
from blockpath.series import diff
from blockpath.series import git
from blockpath.series import refresh
from tests.unit.series import base


class CheckTest(base.CheckoutCase):

    def setUp(self):
        super().setUp()
        self.two_patches()
        self.hooks = self.root / 'patches/nova/libvirt-move-guests.patch'

    def check(self) -> check.Report:
        return check.check(self.series, ['nova'])

    def assert_error(self, words: str) -> None:
        found = self.check().errors
        self.assertTrue([each for each in found if words in each], found)

    def replace(self, old: str, new: str) -> None:
        self.write_toml(self.toml().replace(old, new))

    def test_in_order(self):
        report = self.check()
        self.assertEqual([], report.errors)
        self.assertEqual([], report.warnings)
        self.assertIn('nova 2026.2: 2 patches apply exactly', report.facts)
        self.assertIn('nova: hooks change 5 lines, tests aside',
                      report.facts)

    def test_drift_in_the_tree(self):
        self.commit('libvirt: Third', {'nova/third.py': ''})
        self.assert_error('differ (3 commits, the first 2 as stored)')

    def test_drift_in_the_store(self):
        (self.root / 'nova/nova/disks.py').write_text('edited\n')
        self.assert_error('differ (2 commits, the first 1 as stored)')

    def test_uncommitted(self):
        (self.tree / 'nova/driver.py').write_text('mine\n')
        report = self.check()
        self.assertEqual([], report.errors)
        self.assertIn('not committed', report.warnings[0])

    def test_unlisted_file(self):
        (self.root / 'nova/nova/stray.py').write_text('')
        self.assert_error('nova/nova/stray.py is listed under no patch')

    def test_unlisted_patch(self):
        shutil.copy(self.hooks, self.hooks.with_name('stray.patch'))
        self.assert_error('patches/nova/stray.patch is no patch')

    def test_patch_for_no_release(self):
        folder = self.hooks.parent / '2020.1'
        folder.mkdir()
        shutil.copy(self.hooks, folder)
        self.assert_error('2020.1/libvirt-move-guests.patch is no patch')

    def test_missing_file(self):
        (self.root / 'nova/nova/disks.py').unlink()
        self.assert_error('nova/nova/disks.py')

    def test_missing_patch(self):
        self.hooks.unlink()
        self.assert_error('libvirt-move-guests.patch is listed, but missing')

    def test_listed_twice(self):
        self.replace('"nova/disks.py"', '"nova/disks.py", "nova/moving.py"')
        self.assert_error('is listed under libvirt-move-guests and '
                          'libvirt-move-disks-too')

    def test_order(self):
        text = self.toml()
        head, first, second = text.split('[[patches.nova]]')
        self.write_toml('[[patches.nova]]'.join(
            (head, second + '\n', first.rstrip() + '\n')))
        self.assert_error('nova/libvirt-move-disks-too')

    def test_names(self):
        self.replace('"libvirt-move-guests"', '"0001-Move"')
        self.assert_error('0001-Move: a name is lower-case words')

    def test_name_in_name(self):
        self.commit('libvirt: Move', {'nova/third.py': ''})
        self.replace('name = "libvirt-move-guests"', 'name = "libvirt-move"')
        self.assert_error('libvirt-move is a part of')

    def test_depends_on_nothing(self):
        self.replace('name = "libvirt-move-guests"\n',
                     'name = "libvirt-move-guests"\ndepends = ["cinder/x"]\n')
        self.assert_error('depends on cinder/x')

    def edit(self, old: str, new: str) -> None:
        text = self.hooks.read_text()
        self.assertIn(old, text)
        self.hooks.write_text(text.replace(old, new, 1))

    def test_hook_edited_by_hand(self):
        self.edit('+    forget(volume)', '+    forget(volumes)')
        self.assert_error('edited by hand')

    def test_hook_of_another_release(self):
        self.edit(f'index {diff.blob_id(base.DRIVER.encode())}',
                  f'index {"1" * 40}')
        self.assert_error('its hook was made on another file')

    def test_hook_at_the_wrong_line(self):
        """patch(1) would say "succeeded at 14 (offset 1 line)"."""
        self.edit('@@ -14,2 +14,2 @@', '@@ -13,2 +13,2 @@')
        self.assert_error('nova/driver.py: hunk 1 of 1 does not fit at '
                          'line 13')

    def test_wide_context(self):
        wide = git.Git(self.tree).run(
            'format-patch', '--stdout', '-1', '--zero-commit',
            '--no-signature', '--no-stat', '-U3', '--full-index', 'HEAD~1',
            '--', 'nova/driver.py')
        self.hooks.write_bytes(wide)
        self.assert_error('3 lines of context')

    def test_signature_and_commit_id(self):
        self.edit('From 0000', 'From 1234')
        self.assert_error('--zero-commit')
        self.hooks.write_text(self.hooks.read_text() + '-- \n2.39.5\n')
        self.assert_error('--no-signature')

    def test_message_without_why_or_blueprint(self):
        self.edit('Guests could not be moved before, because nobody had '
                  'thought of it.', 'Short.')
        self.assert_error('does not say why')
        self.edit('Implements: blueprint moving-guests', 'Thanks.')
        self.assert_error('no blueprint or bug')

    def test_bug_will_do(self):
        self.edit('Implements: blueprint moving-guests',
                  'Partial-Bug: #12345')
        self.assertEqual([], [each for each in self.check().errors
                              if 'blueprint' in each])

    def test_release_note(self):
        git.Git(self.tree).run('rm', '--quiet', '--',
                               'releasenotes/notes/disks.yaml')
        git.Git(self.tree).run('commit', '--quiet', '--amend', '--no-edit')
        refresh.refresh(self.series, 'nova')
        self.assert_error('without a release note')
        self.replace('name = "libvirt-move-disks-too"\n',
                     'name = "libvirt-move-disks-too"\n'
                     'no-release-note = "nobody sees it"\n')
        self.assertEqual([], self.check().errors)

    def test_long_hunk_and_limit(self):
        self.replace('[releases', '[hook-lines]\nnova = 20\n\n[releases')
        self.commit('libvirt: Inline it all', {
            'nova/conf.py': ''.join(f'{n} = {n}\n' for n in range(16)),
            'releasenotes/notes/all.yaml': ''})
        refresh.refresh(self.series, 'nova')
        self.assertIn('18 changed lines', self.check().warnings[0])
        self.assert_error('more than 20')

    def test_tests_do_not_count(self):
        self.replace('[releases', '[hook-lines]\nnova = 20\n\n[releases')
        self.commit('tests: Try it all', {
            'nova/tests/test_driver.py': 'import nova\n' * 50})
        refresh.refresh(self.series, 'nova')
        report = self.check()
        self.assertEqual(([], []), (report.errors, report.warnings))

    def test_not_fetched(self):
        shutil.rmtree(self.base)
        self.assert_error('blockpath series fetch')

    def test_second_release(self):
        """A hook of a release's own takes the place of the common one."""
        self.write_toml(self.toml() + '\n[releases."2026.1".nova]\n'
                        'version = "33.0.0"\nsha256 = "1"\n')
        self.assertIn('2026.1 is not fetched', self.check().warnings[0])
        old = self.root / '.trees/2026.1/base/nova'
        shutil.copytree(self.base, old)
        (old / 'nova/driver.py').write_text('# Old.\n\n' + base.DRIVER)
        self.assertIn('nova 2026.1: 2 patches apply, 2 hooked files merged',
                      self.check().facts)
        self._own_hook()
        self.assertIn('nova 2026.1: 2 patches apply, 1 hooked files merged, '
                      '1 by hooks of its own',
                      self.check().facts)

    def _own_hook(self):
        """Write patches/nova/2026.1/… against that release's own file."""
        folder = self.temp / 'old-release'
        folder.mkdir()
        git.Git(folder).run('init', '--quiet')
        old = '# Old.\n\n' + base.DRIVER
        self.commit('Old', {'nova/driver.py': old}, folder=folder)
        self.commit('libvirt: Move guests', {'nova/driver.py': old.replace(
            '    disconnect(volume)', '    forget(volume)')}, folder=folder)
        own = self.hooks.parent / '2026.1' / self.hooks.name
        own.parent.mkdir()
        own.write_bytes(git.Git(folder).run(
            'format-patch', '--stdout', '-1', '--zero-commit', '-U1',
            '--no-signature', '--no-stat', '--full-index'))
