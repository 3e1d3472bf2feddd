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

import re

import fixtures

from blockpath.console import suite
from blockpath.series import check_each
from blockpath.series import git
from blockpath.series import model
from blockpath.series import refresh
from tests.unit.series import base

FILES = base.FILES | {
    '.stestr.conf': '[DEFAULT]\ntest_path=./nova/tests/unit\ntop_dir=./\n',
    'tox.ini': '[flake8]\nignore = E3,W6\n',
    'doc/dictionary.txt': 'nova\n',
    'nova/ugly.py': 'x=1\n',
    'nova/tests/unit/__init__.py': '',
    'nova/tests/unit/test_conf.py':
        'import unittest\n\n\nclass ConfTest(unittest.TestCase):\n\n'
        '    def test_a(self):\n        pass\n',
}
#: It reads what the commit holds, from wherever nova is imported.
TEST = '''\
import unittest

from nova import moving


class MovingTest(unittest.TestCase):

    def test_step(self):
        self.assertEqual({step}, moving.STEP)
'''


class EachTest(base.CheckoutCase):
    """With real repositories, stestr and flake8."""

    files = FILES

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.console.suite.LOGS', self.temp / 'logs'))
        self.stdout = self.useFixture(fixtures.StringStream('stdout')).stream
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', self.stdout))
        self.useFixture(fixtures.EnvironmentVariable('PYTHONPATH', None))

    def add(self, step: int, **edits: str) -> None:
        """A commit that a test of its own goes with."""
        self.commit(f'libvirt: Move {"step by " * step}step', {
            'nova/moving.py': f'STEP = {step}\n',
            f'nova/tests/unit/test_step_{step}.py': TEST.format(step=step),
            **{path.replace('__', '/') + '.py': text
               for path, text in edits.items()}})

    def check(self, **options: bool) -> list[str]:
        """Which commits were run: their number, how it went, their tests."""
        self.stdout.seek(0)
        self.stdout.truncate()
        try:
            check_each.check(self.series, ['nova'],
                             options.get('upstream', False),
                             options.get('fresh', False))
        finally:
            self.stdout.seek(0)
            self.lines = [
                f'{match[2] or match[3]} {"FAILED" if match[1] else "ok"} '
                f'{match[4]} {match[5]} {match[6] or ""}'
                for match in re.finditer(
                    r"  (?:(FAILED) in step 'nova-(\d+)-.* s|nova-(\d+)-\S+): "
                    # A line about a step that takes long ends in dots.
                    r'(\d+) passed, (\d+) failed, \d+ skipped'
                    r'(?: \([\d.]+ s\))?( \(kept\))?$',
                    self.stdout.read(), re.M)]
        return self.lines

    def fails(self, **options: bool) -> list[str]:
        error = self.assertRaises(check_each.EachError, self.check, **options)
        self.assertIn('.log', error.message)
        return self.lines

    def test_each_commit_runs_the_tests_of_its_time(self):
        self.two_commits()
        # What is edited in the tree is neither run nor touched.
        (self.tree / 'nova/moving.py').write_text('STEP = 9\n')
        self.assertEqual(['01 ok 1 0 ', '02 ok 2 0 '], self.check())
        self.assertEqual('STEP = 9\n',
                         (self.tree / 'nova/moving.py').read_text())
        self.assertEqual([], [path.name for path in (
            self.root / '.cache/each').glob('clone-*')])

    def two_commits(self) -> None:
        self.add(1)
        self.commit('libvirt: Do not move', {
            'nova/tests/unit/test_still.py':
                TEST.replace('MovingTest', 'StillTest').format(step=1)})
        refresh.refresh(self.series, 'nova')

    def test_what_passed_is_kept(self):
        self.two_commits()
        self.check()
        self.assertEqual(['01 ok 1 0  (kept)', '02 ok 2 0  (kept)'],
                         self.check())
        self.assertEqual(['01 ok 1 0 ', '02 ok 2 0 '],
                         self.check(fresh=True))
        self.commit('fixup! libvirt: Do not move', {'nova/more.py': ''})
        self.autosquash()
        refresh.refresh(self.series, 'nova')
        self.assertEqual(['01 ok 1 0  (kept)', '02 ok 2 0 '], self.check())

    def test_what_a_later_commit_mends(self):
        """The tree as a whole passes; its first commit does not."""
        self.add(1)
        broken = 'nova/tests/unit/test_step_1.py'
        self.commit('fixup!', {'nova/moving.py': 'STEP = 2\n'})
        git.Git(self.tree).run('reset', '--quiet', '--soft', 'HEAD~2')
        self.commit('libvirt: Move', {
            'nova/moving.py': 'STEP = 2\n', broken: TEST.format(step=1)})
        self.commit('libvirt: Mend', {'nova/moving.py': 'STEP = 1\n'})
        refresh.refresh(self.series, 'nova')
        self.assertEqual(['01 FAILED 0 1 ', '02 ok 1 0 '], self.fails())
        log = (suite.LOGS / 'nova-01-libvirt-move.log').read_text()
        self.assertIn('1 != 2', log)
        # What failed is not kept.
        self.assertEqual(['01 FAILED 0 1 ', '02 ok 1 0  (kept)'],
                         self.fails())

    def test_style_of_the_lines_it_changes(self):
        self.add(1, nova__ugly='x=1\ny = 2\n')
        self.commit('libvirt: Be ugly', {'nova/ugly.py': 'x=1\ny=2\n'})
        refresh.refresh(self.series, 'nova')
        self.assertEqual(['01 ok 1 0 ', '02 FAILED 1 1 '], self.fails())
        log = (suite.LOGS / 'nova-02-libvirt-be-ugly.log').read_text()
        self.assertIn('nova/ugly.py:2:2: E225', log)

    def test_spelling(self):
        self.add(1, nova__ugly='x=1\n# The destinaton.\n')
        refresh.refresh(self.series, 'nova')
        self.assertEqual(['01 FAILED 1 1 '], self.fails())

    def test_the_others_are_as_released(self):
        """Unless a patch says that it needs one as patched."""
        self.write_toml(self.toml().replace(
            '[releases."2026.2".nova]',
            '[releases."2026.2".os-brick]\nversion = "7"\nsha256 = "0"\n\n'
            '[releases."2026.2".nova]') + '[[patches.os-brick]]\n'
            'name = "log-in"\n')
        released = {'os_brick/__init__.py': 'STEP = 0\n'}
        package = self.series.base('os-brick', '2026.2') / 'os_brick'
        package.mkdir(parents=True)
        (package / '__init__.py').write_text(released[
            'os_brick/__init__.py'])
        work = self.series.work('os-brick', '2026.2')
        work.mkdir()
        brick = git.Git(work)
        brick.run('init', '--quiet')
        self.commit('os-brick 7', released, folder=work)
        brick.run('tag', 'base')
        self.commit('iscsi: Log in', {'os_brick/__init__.py': 'STEP = 1\n'},
                    folder=work)
        (self.root / 'patches/os-brick').mkdir()
        refresh.refresh(self.series, 'os-brick')
        # The patches count, and not what somebody does in that tree.
        (work / 'os_brick/__init__.py').write_text('STEP = 2\n')
        self.add(1)
        self.commit('libvirt: Enter', {
            'nova/tests/unit/test_enter.py': TEST.format(step=1).replace(
                'from nova import moving', 'import os_brick as moving')})
        refresh.refresh(self.series, 'nova')
        self.assertEqual(['01 ok 1 0 ', '02 FAILED 1 1 '], self.fails())
        self.write_toml(self.toml().replace(
            'name = "libvirt-enter"\n',
            'name = "libvirt-enter"\ndepends = ["os-brick/log-in"]\n'))
        self.assertEqual(['01 ok 1 0  (kept)', '02 ok 2 0 '], self.check())

    def test_upstream_s_tests_of_what_it_hooks(self):
        self.add(1, nova__conf='A = 1\nB = 3\n')
        refresh.refresh(self.series, 'nova')
        self.check()
        self.assertEqual(['01 ok 1 0  (kept)'], self.check())
        # What passed without them has not passed with them.
        self.assertEqual(['01 ok 2 0 '], self.check(upstream=True))
        self.assertEqual(['01 ok 2 0  (kept)'], self.check())


class UpstreamsTest(base.TestCase):

    def setUp(self):
        super().setUp()
        self.git = git.Git(self.temp / 'cinder')
        self.git.folder.mkdir()
        self.git.run('init', '--quiet')

    def commit(self, *paths: str) -> str:
        for path in paths:
            file = self.git.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open('a') as stream:
                stream.write('#\n')
        self.git.run('add', '.')
        self.git.run('commit', '--quiet', '-m', 'x')
        return self.git.commit_of('HEAD')

    def upstreams(self, *hooked: str) -> set[str]:
        commit = self.commit(*hooked)
        return check_each.upstreams(self.git, check_each.Commit(
            'cinder', 1, commit, (model.Patch('cinder', 'x'),), True))

    def test_upstreams(self):
        unit = 'cinder/tests/unit/volume/'
        tests = {f'{unit}test_driver.py', f'{unit}drivers/test_rbd.py',
                 f'{unit}drivers/test_lvm_driver.py',
                 f'{unit}test_volume_manager.py',
                 'cinder/tests/unit/test_volume_utils.py',
                 'cinder/tests/unit/backup/test_rbd.py',
                 'cinder/tests/functional/test_rbd.py'}
        code = ['cinder/volume/driver.py', 'cinder/volume/drivers/rbd.py',
                'cinder/volume/drivers/lvm.py', 'cinder/volume/manager.py',
                'cinder/volume/volume_utils.py', 'doc/a.rst']
        self.commit(*tests, *code)
        self.assertEqual({f'{unit}drivers/test_rbd.py'},
                         self.upstreams('cinder/volume/drivers/rbd.py'))
        self.assertEqual(
            tests - {'cinder/tests/unit/backup/test_rbd.py',
                     'cinder/tests/functional/test_rbd.py'},
            self.upstreams(*code))
        self.assertEqual({'cinder/tests/unit/backup/test_rbd.py'},
                         self.upstreams('cinder/tests/unit/backup/'
                                        'test_rbd.py', 'doc/a.rst'))
        # New files have new tests, and those are known.
        self.assertEqual(set(), self.upstreams('cinder/volume/new.py'))
