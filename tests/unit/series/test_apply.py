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
import signal
import subprocess
import sys
import threading
import time

import fixtures

from blockpath.series import find_target
from blockpath.series import git
from blockpath.series import plan
from blockpath.series import refresh
from blockpath.series import target
from tests.unit.series import base
from tests.unit import signals


class ApplyCase(base.CheckoutCase):

    def setUp(self):
        super().setUp()
        self.two_patches()

    def open(self, folder: pathlib.Path):
        return find_target.find(self.series, 'nova', base.RELEASE, folder)

    def apply(self, folder: pathlib.Path) -> target.Result:
        return self.open(folder).apply()

    def reverse(self, folder: pathlib.Path) -> target.Result:
        return self.open(folder).reverse()

    def state(self, folder: pathlib.Path) -> str:
        return self.open(folder).status().state

    def wanted(self) -> dict[str, bytes]:
        return base.snapshot(self.tree)

    def break_second(self) -> None:
        """The release differs where the second patch's hook is."""
        for folder in self.temp.glob('*/nova/driver.py'):
            if folder.parts[-3] in ('clone', 'unpacked', 'site-packages'):
                folder.write_text(base.DRIVER.replace(
                    'import os\n', 'import os, re\n'))


class FolderTest(ApplyCase):

    def test_sdist(self):
        folder = self.unpack()
        before = base.snapshot(folder)
        self.assertEqual('pristine', self.state(folder))
        self.assertTrue(self.apply(folder).changed)
        after = {path: data for path, data in base.snapshot(folder).items()
                 if not path.startswith('.blockpath/')}
        self.assertEqual(self.wanted(), after)
        self.assertEqual('applied', self.state(folder))
        self.assertTrue(self.reverse(folder).changed)
        self.assertEqual(before, base.snapshot(folder))

    def test_site_packages_get_the_package_alone(self):
        folder = self.install()
        before = base.snapshot(folder)
        self.apply(folder)
        self.assertFalse((folder / 'releasenotes').exists())
        self.assertTrue((folder / 'nova/tests/test_moving.py').exists())
        self.assertEqual((self.tree / 'nova/driver.py').read_bytes(),
                         (folder / 'nova/driver.py').read_bytes())
        self.reverse(folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_site_packages_without_tests(self):
        """Distributions cut a package's tests out."""
        folder = self.install()
        for path in (folder / 'nova/tests').iterdir():
            path.unlink()
        (folder / 'nova/tests').rmdir()
        self.apply(folder)
        self.assertFalse((folder / 'nova/tests').exists())
        self.assertEqual('applied', self.state(folder))

    def test_twice(self):
        folder = self.unpack()
        self.apply(folder)
        before = base.snapshot(folder)
        again = self.apply(folder)
        self.assertFalse(again.changed)
        self.assertIn('already', again.message)
        self.assertEqual(before, base.snapshot(folder))

    def test_twice_by_content(self):
        """The record is lost, as when an image copies the package alone."""
        folder = self.unpack()
        self.apply(folder)
        os.rename(folder / '.blockpath', self.temp / 'lost')
        self.assertFalse(self.apply(folder).changed)
        self.assertTrue(self.reverse(folder).changed)
        self.assertEqual(base.snapshot(self.base), base.snapshot(folder))

    def test_half_is_completed(self):
        folder = self.unpack()
        [first, _] = plan.Planner(self.series, 'nova', base.RELEASE
                                  ).reference(base.RELEASE)
        for change in first.changes:
            assert change.after is not None
            refresh.write(folder / change.path, change.after)
        self.assertEqual('partly', self.state(folder))
        self.apply(folder)
        self.assertEqual('applied', self.state(folder))
        self.assertEqual((self.tree / 'nova/driver.py').read_bytes(),
                         (folder / 'nova/driver.py').read_bytes())

    def test_reverse_of_nothing(self):
        self.assertFalse(self.reverse(self.unpack()).changed)

    def test_installed_over(self):
        """As pip does it: its own files again, and none of them gone."""
        folder = self.install()
        before = base.snapshot(folder)
        self.apply(folder)
        after = base.snapshot(folder)
        self.install()
        self.assertEqual('interrupted', self.state(folder))
        self.apply(folder)
        self.assertEqual(after, base.snapshot(folder))
        self.install()
        self.reverse(folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_reverse_keeps_an_edit(self):
        folder = self.unpack()
        self.apply(folder)
        (folder / 'nova/driver.py').write_text('mine\n')
        self.assertEqual('changed', self.state(folder))
        before = base.snapshot(folder)
        self.assert_says(target.TargetError, 'edited since', self.reverse,
                         folder)
        self.assert_says(target.TargetError, 'edited since', self.apply,
                         folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_reverse_removes_bytecode(self):
        folder = self.install()
        self.apply(folder)
        subprocess.run([sys.executable, '-c', 'import nova.moving'],
                       cwd=folder, check=True,
                       env=os.environ | {'PYTHONDONTWRITEBYTECODE': ''})
        self.assertTrue(list(folder.rglob('moving.*.pyc')))
        self.reverse(folder)
        self.assertEqual([], list(folder.rglob('moving.*')))

    def test_another_version_of_the_series(self):
        folder = self.unpack()
        self.apply(folder)
        self.commit('libvirt: Third', {'nova/third.py': ''})
        refresh.refresh(self.series, 'nova')
        self.assertEqual('other version', self.state(folder))
        self.assert_says(target.TargetError, '--reverse', self.apply, folder)
        self.reverse(folder)
        self.apply(folder)
        self.assertTrue((folder / 'nova/third.py').exists())

    def test_mode_and_links_survive(self):
        folder = self.install()
        driver = folder / 'nova/driver.py'
        driver.chmod(0o640)
        # uv installs hard links into its cache.
        os.link(driver, self.temp / 'cache')
        self.apply(folder)
        self.assertEqual(0o640, driver.stat().st_mode & 0o777)
        self.assertEqual(base.DRIVER, (self.temp / 'cache').read_text())

    def test_foreign_new_file(self):
        folder = self.unpack()
        (folder / 'nova/moving.py').write_text('theirs\n')
        before = base.snapshot(folder)
        self.assert_says(plan.PlanError, 'nova/moving.py', self.apply, folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_no_such_tree(self):
        empty = self.temp / 'empty'
        self.assert_says(target.TargetError, 'not a folder', self.open, empty)
        empty.mkdir()
        self.assert_says(target.TargetError, 'holds no nova', self.open,
                         empty)


class AtomicTest(ApplyCase):

    def test_second_patch_fails(self):
        for folder in (self.unpack(), self.install()):
            self.break_second()
            before = base.snapshot(folder)
            error = self.assert_says(plan.PlanError, 'nova/driver.py',
                                     self.apply, folder)
            self.assertIn('nova/libvirt-move-disks-too', error.message)
            self.assertIn('hunk 1 of 1', error.message)
            self.assertIn('line 1 of the tree', error.message)
            self.assertEqual(before, base.snapshot(folder))

    def test_second_patch_fails_in_git(self):
        folder = self.clone_upstream()
        self.commit('Other', {'nova/driver.py': base.DRIVER.replace(
            'import os\n', 'import os, re\n')}, folder=folder)
        head = git.Git(folder).commit_of('HEAD')
        self.assert_says(plan.PlanError, 'libvirt-move-disks-too',
                         self.apply, folder)
        self.assertEqual(head, git.Git(folder).commit_of('HEAD'))
        self.assertEqual('', git.Git(folder).text('status', '--porcelain'))

    def _fail_at(self, count: int, exc: BaseException) -> None:
        replace = target.replace
        calls = []

        def failing(destination, file):
            calls.append(destination)
            if len(calls) == count:
                raise exc
            replace(destination, file)
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.series.target.replace', failing))

    def test_disk_full(self):
        folder = self.unpack()
        before = base.snapshot(folder)
        self._fail_at(3, OSError(28, 'No space left on device'))
        self.assertRaises(OSError, self.apply, folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_interrupted(self):
        folder = self.unpack()
        before = base.snapshot(folder)
        self._fail_at(2, KeyboardInterrupt())
        self.assertRaises(KeyboardInterrupt, self.apply, folder)
        self.assertEqual(before, base.snapshot(folder))

    def test_killed(self):
        """After SIGKILL the next run puts back what was there, then goes on.
        """
        folder = self.unpack()
        script = (
            'import os, pathlib, sys, time\n'
            'from blockpath.series import find_target, model, target\n'
            'replace = target.replace\n'
            'def slow(path, file):\n'
            '    replace(path, file)\n'
            '    print(path, flush=True)\n'
            '    time.sleep(60)\n'
            'target.replace = slow\n'
            'series = model.Series(pathlib.Path(sys.argv[1]))\n'
            'find_target.find(series, "nova", "2026.2",\n'
            '                 pathlib.Path(sys.argv[2])).apply()\n')
        process = subprocess.Popen(
            [sys.executable, '-c', script, self.root, folder],
            stdout=subprocess.PIPE, cwd=pathlib.Path(__file__).parents[3])
        assert process.stdout is not None
        self.addCleanup(process.wait)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertEqual('interrupted', self.state(folder))
        self.assertTrue(self.apply(folder).changed)
        self.assertEqual('applied', self.state(folder))
        self.reverse(folder)
        self.assertEqual(base.snapshot(self.base), base.snapshot(folder))


class MergeTest(ApplyCase):
    """On another release a hook finds its place by merging, or not at all."""

    def _another(self, driver: str) -> pathlib.Path:
        folder = self.unpack()
        (folder / 'nova/driver.py').write_text(driver)
        return folder

    def test_lines_moved(self):
        folder = self._another('# A comment.\n\n' + base.DRIVER)
        result = self.apply(folder)
        self.assertEqual(('nova/driver.py',), result.merged)
        self.assertEqual(
            '# A comment.\n\n' + (self.tree / 'nova/driver.py').read_text(),
            (folder / 'nova/driver.py').read_text())
        self.assertFalse(self.apply(folder).changed)
        self.reverse(folder)
        self.assertEqual('# A comment.\n\n' + base.DRIVER,
                         (folder / 'nova/driver.py').read_text())

    def test_carried_already(self):
        """Upstream took the change: nothing is left to do."""
        folder = self.unpack()
        for path, data in base.snapshot(self.tree).items():
            (folder / path).write_bytes(data)
        (folder / 'nova/driver.py').write_bytes(
            b'# A comment.\n\n' + (self.tree / 'nova/driver.py').read_bytes())
        self.assertEqual('applied', self.state(folder))

    def test_file_is_gone(self):
        folder = self.unpack()
        (folder / 'nova/driver.py').unlink()
        self.assert_says(plan.PlanError, 'no such file', self.apply, folder)

    def test_needs_the_release(self):
        folder = self._another('# A comment.\n' + base.DRIVER)
        os.rename(self.base, self.temp / 'base')
        self.assert_says(plan.NotFetched, 'blockpath series fetch',
                         self.apply, folder)


class OffsetTest(base.CheckoutCase):
    """The same context twice: git apply would take the first that fits."""

    def setUp(self):
        super().setUp()
        # Into swap(), whose body is that of attach().
        lines = base.DRIVER.splitlines(keepends=True)
        lines.insert(10, '    log(volume)\n')
        self.commit('libvirt: Log swaps', {'nova/driver.py': ''.join(lines)})
        refresh.refresh(self.series, 'nova')

    def test_lands_where_it_was_made(self):
        """Another release has put attach()'s lookalike where swap() was."""
        folder = self.unpack()
        shifted = base.DRIVER.replace(
            'import os\n', 'import os\n\n\ndef plug(volume):\n'
            '    connect(volume)\n    return True\n')
        (folder / 'nova/driver.py').write_text(shifted)
        find_target.find(self.series, 'nova', base.RELEASE, folder).apply()
        text = (folder / 'nova/driver.py').read_text()
        self.assertIn('def swap(volume):\n    connect(volume)\n'
                      '    log(volume)\n', text)
        self.assertEqual(1, text.count('log(volume)'))

    def test_git_apply_would_not(self):
        """The hazard is real: this is why nothing here searches."""
        folder = self.unpack()
        shifted = base.DRIVER.replace(
            'import os\n', 'import os\n\n\ndef plug(volume):\n'
            '    connect(volume)\n    return True\n')
        (folder / 'nova/driver.py').write_text(shifted)
        [mail] = (self.root / 'patches/nova').glob('*.patch')
        subprocess.run(['git', 'apply', '--unidiff-zero', str(mail)],
                       cwd=folder, check=True)
        self.assertNotIn('def swap(volume):\n    connect(volume)\n'
                         '    log(volume)\n',
                         (folder / 'nova/driver.py').read_text())

    def test_function_is_gone(self):
        folder = self.unpack()
        (folder / 'nova/driver.py').write_text(base.DRIVER.replace(
            'def swap(volume):\n    connect(volume)\n    return True\n\n\n',
            ''))
        self.assert_says(plan.PlanError, 'hunk 1 of 1', find_target.find(
            self.series, 'nova', base.RELEASE, folder).apply)


class GitTest(ApplyCase):

    def test_commits(self):
        folder = self.clone_upstream()
        repository = git.Git(folder)
        before = repository.commit_of('HEAD')
        self.apply(folder)
        self.assertEqual(self.wanted(), base.snapshot(folder))
        self.assertEqual('', repository.text('status', '--porcelain'))
        self.assertEqual(
            ['libvirt: Move guests', 'libvirt: Move disks too'],
            repository.text('log', '--reverse', '--format=%s',
                            f'{before}..').split('\n'))
        self.assertEqual(
            git.Git(self.tree).text('log', '--format=%an %ae %aI %B',
                                    'base..'),
            repository.text('log', '--format=%an %ae %aI %B', f'{before}..'))
        self.assertEqual('Carl Committer', repository.text(
            'log', '-1', '--format=%cn'))

    def test_twice_and_reverse(self):
        folder = self.clone_upstream()
        before = git.Git(folder).commit_of('HEAD')
        self.apply(folder)
        self.assertFalse(self.apply(folder).changed)
        self.reverse(folder)
        self.assertEqual(before, git.Git(folder).commit_of('HEAD'))
        self.assertFalse(self.reverse(folder).changed)

    def test_twice_in_a_clone_of_it(self):
        self.apply(self.clone_upstream())
        other = self.temp / 'other'
        git.Git(self.temp).run('clone', '--quiet', 'clone', 'other')
        self.assertFalse(self.apply(other).changed)
        self.assert_says(target.TargetError, 'git reset', self.reverse, other)

    def test_uncommitted_edit_survives(self):
        folder = self.clone_upstream()
        (folder / 'nova/driver.py').write_text('mine\n')
        head = git.Git(folder).commit_of('HEAD')
        self.assertRaises(git.GitError, self.apply, folder)
        self.assertEqual('mine\n', (folder / 'nova/driver.py').read_text())
        self.assertEqual(head, git.Git(folder).commit_of('HEAD'))

    def test_commits_on_top(self):
        folder = self.clone_upstream()
        self.apply(folder)
        tip = self.commit('Mine', {'nova/mine.py': ''}, folder=folder)
        self.assertFalse(self.apply(folder).changed)
        self.assert_says(target.TargetError, 'on top', self.reverse, folder)
        self.assertEqual(tip, git.Git(folder).commit_of('HEAD'))

    def test_merges_onto_later_commits(self):
        folder = self.clone_upstream()
        self.commit('Later', {'nova/driver.py': '# Later.\n\n' + base.DRIVER},
                    folder=folder)
        self.assertEqual(('nova/driver.py',), self.apply(folder).merged)
        self.assertTrue((folder / 'nova/driver.py').read_text().startswith(
            '# Later.\n\nimport os\nimport sys\n'))

    def test_no_committer(self):
        folder = self.clone_upstream()
        for key in ('NAME', 'EMAIL'):
            self.useFixture(fixtures.EnvironmentVariable(
                f'GIT_COMMITTER_{key}', None))
        for args in (('user.useConfigOnly', 'true'),):
            git.Git(folder).run('config', *args)
        self.assert_says(target.TargetError, 'user.email', self.apply, folder)

    def test_in_a_rebase(self):
        folder = self.clone_upstream()
        (folder / '.git' / 'rebase-merge').mkdir()
        self.assert_says(target.TargetError, 'rebase', self.apply, folder)

    def test_users_configuration_does_not_count(self):
        (pathlib.Path(os.environ['HOME']) / '.gitconfig').write_text(
            '[diff]\nnoprefix = true\nalgorithm = patience\n'
            '[core]\nautocrlf = true\n[commit]\ngpgSign = true\n'
            '[format]\nsignOff = true\n')
        folder = self.clone_upstream()
        self.apply(folder)
        self.assertEqual(self.wanted(), base.snapshot(folder))
        self.assertEqual([], refresh.refresh(self.series, 'nova'))


class InterruptTest(base.TestCase):

    def test_ctrl_c_waits(self):
        """A signal inside is delivered only when the block is left."""
        signals.heed_ctrl_c(self)
        reached = []

        def interrupted():
            with git.uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
                reached.append(True)
        # Another thread may be the one that is given the signal.
        ended = threading.Event()
        other = threading.Thread(target=ended.wait)
        other.start()
        self.addCleanup(other.join)
        self.addCleanup(ended.set)
        self.assertRaises(KeyboardInterrupt, interrupted)
        self.assertEqual([True], reached)
