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
import os
import pathlib
import shutil

from click import testing
import fixtures

from blockpath import cli
from tests.unit.series import base

OLD = '2026.1'


class CliCase(base.CheckoutCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch('blockpath.paths.ROOT',
                                             self.root))

    def run_cli(self, *args: str, code: int = 0) -> testing.Result:
        result = testing.CliRunner().invoke(cli.main, ['series', *args])
        self.assertEqual(code, result.exit_code, result.output)
        return result


class CliTest(CliCase):

    def test_help(self):
        text = self.run_cli('--help').output
        for name in ('fetch', 'apply', 'refresh', 'export', 'review',
                     'check'):
            self.assertIn(f'  {name}', text)
            self.assertIn('Usage:', self.run_cli(name, '--help').output)

    def test_the_whole_way(self):
        self.two_patches()
        self.run_cli('refresh', 'nova')
        self.run_cli('check')
        self.assertIn('already', self.run_cli('apply', 'nova').output)
        self.run_cli('apply', 'nova', '--status')
        folder = str(self.unpack())
        self.run_cli('apply', 'nova', '--to', folder, '--status', code=3)
        self.run_cli('apply', 'nova', '--to', folder)
        self.run_cli('apply', 'nova', '--to', folder, '--status')
        self.run_cli('apply', 'nova', '--to', folder, '--reverse')
        output = self.run_cli('export', str(self.temp / 'out'), '--gerrit',
                              '--kolla').output
        self.assertIn('gerrit/nova: 2 patches', output)
        self.assertNotIn('quilt', output)

    def test_merged_files_are_named(self):
        self.two_patches()
        folder = self.unpack()
        (folder / 'nova/driver.py').write_text('# A\n' + base.DRIVER)
        self.assertIn('merged into another version of nova/driver.py',
                      self.run_cli('apply', 'nova', '--to',
                                   str(folder)).output)

    def test_review(self):
        self.two_patches()
        self.write_toml(self.toml().replace(
            'name = "libvirt-move-guests"\n',
            'name = "libvirt-move-guests"\ndepends = ["os-brick/log-in"]\n') +
            '[releases."2026.2".os-brick]\nversion = "7"\nsha256 = "0"\n'
            '[[patches.os-brick]]\nname = "log-in"\n')
        clone = str(self.clone_upstream())
        warned = self.run_cli('review', 'nova', '--to', clone).stderr
        self.assertIn('warning: nova/libvirt-move-guests needs', warned)
        result = self.run_cli(
            'review', 'nova', '--to', clone, '--depends-on',
            'os-brick/log-in=https://review.example.org/c/os-brick/+/1')
        self.assertEqual('', result.stderr)
        self.assertIn('branch blockpath', result.output)
        self.run_cli('review', 'nova', code=2)

    def test_own_work(self):
        self.commit('libvirt: Mine', {'nova/mine.py': ''})
        self.assertIn('left as it is',
                      self.run_cli('apply', 'nova', code=3).output)
        self.run_cli('check', code=1)

    def test_uncommitted_is_told(self):
        self.two_patches()
        (self.tree / 'nova/driver.py').write_text('mine\n')
        self.assertIn('nova/driver.py',
                      self.run_cli('refresh', 'nova').output)

    def test_wrong_usage(self):
        self.run_cli('apply', code=2)
        self.run_cli('apply', 'nova', '--reverse', '--status', code=2)
        self.run_cli('check', '--fresh', code=2)
        self.run_cli('check', '--upstream', code=2)
        for args in (('apply', 'glance'), ('fetch', '--release', '1'),
                     ('check', 'glance'),
                     ('apply', 'nova', '--to', '/nonexistent')):
            output = self.run_cli(*args, code=1).output
            self.assertTrue(output.startswith('Error: '), output)
            self.assertEqual(1, output.count('\n'), output)

    def test_releases(self):
        self.assertEqual('2026.2 nova 34.0.0\n',
                         self.run_cli('releases').output)

    def test_releases_all(self):
        text = self.toml()
        self.write_toml(text + text[text.index('[releases.'):].replace(
            '2026.2', '2026.1').replace('34.0.0', '33.0.2').partition(
                '[[')[0])
        self.assertEqual('2026.2 nova 34.0.0\n2026.1 nova 33.0.2\n',
                         self.run_cli('releases', '--all').output)
        self.assertEqual('2026.2 nova 34.0.0\n',
                         self.run_cli('releases').output)


class OtherReleaseTest(CliCase):
    """A checkout that has fetched nothing, and an older release's tree."""

    missing = (f'.trees/{base.RELEASE}/base/nova is missing; run: blockpath '
               f'series fetch --release {base.RELEASE} nova\n')

    def setUp(self):
        super().setUp()
        self.two_patches()
        self.files = base.FILES | {
            'nova/driver.py': '# Old.\n\n' + base.DRIVER}
        self.add_release(OLD, '33.0.0', self.files)
        shutil.rmtree(self.root / '.trees')

    def fetched(self) -> list[str]:
        return sorted(path.parent.parent.name for path in
                      self.root.glob('.trees/*/base/nova'))

    def drop_default(self) -> None:
        shutil.rmtree(self.root / '.trees' / base.RELEASE)

    def assert_patched(self, folder: pathlib.Path) -> None:
        text = (folder / 'nova/driver.py').read_text()
        self.assertTrue(text.startswith('# Old.\n'))
        self.assertIn('    forget(volume)\n', text)

    def test_fetch(self):
        self.assertEqual(
            f'nova: 33.0.0 unpacked in .trees/{OLD}/base/nova\n'
            f'nova: 34.0.0 unpacked in .trees/{base.RELEASE}/base/nova\n',
            self.run_cli('fetch', '--release', OLD).stdout)
        self.assertEqual([OLD, base.RELEASE], self.fetched())
        self.run_cli('check', '--release', OLD)

    def test_fetch_of_the_default(self):
        self.run_cli('fetch')
        self.assertEqual([base.RELEASE], self.fetched())

    def test_apply(self):
        folder = self.unpack()
        said = self.run_cli('apply', 'nova', '--release', OLD, '--to',
                            str(folder)).stdout
        self.assertIn('nova: 34.0.0 unpacked', said)
        self.assertIn('merged into another version of nova/driver.py', said)
        self.assert_patched(folder)
        self.assertEqual(
            f'nova: all patches are in {folder} already\n', self.run_cli(
                'apply', 'nova', '--release', OLD, '--to',
                str(folder)).stdout)

    def test_apply_with_one_release_fetched(self):
        self.run_cli('fetch', '--release', OLD)
        self.drop_default()
        self.run_cli('apply', 'nova', '--release', OLD)
        self.assert_patched(self.root / '.trees' / OLD / 'nova')

    def test_apply_to_no_tree(self):
        """A wrong folder is refused before anything is downloaded."""
        self.run_cli('apply', 'nova', '--release', OLD, '--to',
                     str(self.temp), code=1)
        self.assertEqual([], self.fetched())

    def test_review(self):
        clone = self.clone_upstream()
        self.run_cli('review', 'nova', '--release', OLD, '--to', str(clone))
        self.assertEqual([OLD, base.RELEASE], self.fetched())

    def test_export(self):
        to = self.temp / 'out'
        self.run_cli('export', str(to), '--numbered', '--release', OLD)
        self.assertEqual(2, len(os.listdir(to / 'numbered/nova')))

    def test_what_only_looks_names_what_is_missing(self):
        self.run_cli('fetch', '--release', OLD)
        self.drop_default()
        for command in (('apply', 'nova', '--status', '--to',
                         str(self.unpack())), ('check',)):
            output = self.run_cli(*command, '--release', OLD, code=1).output
            self.assertIn(self.missing, output)
            self.assertNotIn('another file', output)
        self.assertEqual([OLD], self.fetched())
