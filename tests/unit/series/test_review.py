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

import stat
import subprocess
import sys

import fixtures
from git_review import hooks

from blockpath.series import footer
from blockpath.series import git
from blockpath.series import plan
from blockpath.series import refresh
from blockpath.series import review
from blockpath.series import target
from blockpath.series import trees
from tests.unit.series import base

URL = 'https://review.opendev.org/c/openstack/os-brick/+/987654'
#: What an sdist has and the repository that it is made from has not.
ONLY_IN_SDIST = ('PKG-INFO',)
OS_BRICK = '''
[releases."2026.2".os-brick]
version = "7.1.1"
sha256 = "0"

[[patches.os-brick]]
name = "log-in"
'''


class ReviewCase(base.CheckoutCase):
    """With a series of two, and a clone of what is no sdist."""

    def setUp(self):
        super().setUp()
        self.two_patches()
        self.server = self.temp / 'server.git'
        self.clone = self.temp / 'clone'
        for folder, bare in ((self.server, ['--bare']), (self.clone, [])):
            folder.mkdir()
            git.Git(folder).run('init', '--quiet', '--initial-branch=master',
                                *bare)
        self.git = git.Git(self.clone)
        self.git.run('remote', 'add', 'gerrit', str(self.server))
        self.upstream({path: text for path, text in self.files.items()
                       if path not in ONLY_IN_SDIST} | {
            '.gitreview': '[gerrit]\nhost=localhost\nproject=nova.git\n',
            'tools/only-in-git.sh': ''})

    def upstream(self, edits: dict[str, str]) -> None:
        """A commit on the server's master, and in the clone."""
        branch = self.git.run('symbolic-ref', '--short', 'HEAD')
        if branch.strip() != b'master':
            self.git.run('switch', '--quiet', 'master')
        self.commit('Upstream', edits, 'Upstream\n', self.clone)
        self.git.run('push', '--quiet', 'gerrit', 'master')

    def make(self, onto: str | None = None, branch: str = 'blockpath',
             **urls: str) -> review.Result:
        return review.Review(self.series, 'nova', base.RELEASE, self.clone,
                             branch).make(onto, urls)

    def pass_time(self) -> None:
        """What is committed from here on has another date."""
        self.useFixture(fixtures.EnvironmentVariable(
            'GIT_COMMITTER_DATE', '2030-01-01T00:00:00 +0000'))

    def messages(self, tip: str = 'blockpath') -> list[str]:
        listing = self.git.text('log', '-z', '--reverse', '--format=%B',
                                f'master..{tip}')
        return [each.strip() for each in listing.split('\0') if each.strip()]

    def change_ids(self, tip: str = 'blockpath') -> list[str]:
        return [line for message in self.messages(tip)
                for line in message.split('\n')
                if line.startswith('Change-Id: ')]


class ReviewTest(ReviewCase):

    def test_one_commit_each_patch(self):
        before = base.snapshot(self.clone)
        self.assertIn('2 commits', self.make().message)
        # The work tree stays where it is until the user goes there.
        self.assertEqual(before, base.snapshot(self.clone))
        self.git.run('switch', '--quiet', 'blockpath')
        patched = base.snapshot(self.tree)
        for path in ONLY_IN_SDIST:
            del patched[path]
        here = base.snapshot(self.clone)
        self.assertEqual(patched, {path: here[path] for path in patched})
        self.assertEqual({'.gitreview', 'tools/only-in-git.sh'},
                         here.keys() - patched.keys())
        self.assertEqual(
            ['Carl Committer', 'Carl Committer'],
            self.git.text('log', '--format=%cn', 'master..').split('\n'))

    def test_messages(self):
        self.make()
        self.assertEqual(2, len(set(self.change_ids())))
        for message in self.messages():
            _, why, end = message.split('\n\n')
            self.assertIn('Guests could not be moved', why)
            self.assertRegex(end, (
                '^Implements: blueprint moving-guests\n'
                'Change-Id: I[0-9a-f]{40}\n'
                'Signed-off-by: Carl Committer <carl@example.org>$'))

    def test_made_again_it_stays(self):
        self.make()
        self.pass_time()
        tip = self.git.commit_of('blockpath')
        self.assertIn('already', self.make().message)
        self.assertEqual(tip, self.git.commit_of('blockpath'))

    def test_made_again_after_a_change(self):
        self.make()
        before = self.change_ids()
        first, second = self.git.commits('master', 'blockpath')
        self.pass_time()
        self.commit('fixup! libvirt: Move disks too',
                    {'nova/disks.py': '#!/usr/bin/env python3\nA = 1\n'})
        self.autosquash()
        refresh.refresh(self.series, 'nova')
        self.git.run('switch', '--quiet', 'blockpath')
        self.assertIn('2 commits', self.make().message)
        self.assertEqual(before, self.change_ids())
        kept, other = self.git.commits('master', 'blockpath')
        self.assertEqual(first, kept)
        self.assertNotEqual(second, other)
        self.assertIn('A = 1', (self.clone / 'nova/disks.py').read_text())
        self.assertEqual([], self.git.changed())

    def test_upstream_moved(self):
        self.make()
        before = self.change_ids()
        self.upstream({'nova/driver.py': '# New\n' + base.DRIVER})
        made = self.make(onto='master')
        self.assertEqual(('nova/driver.py',), made.merged)
        self.assertEqual(before, self.change_ids())
        text = self.git.text('show', 'blockpath:nova/driver.py')
        self.assertTrue(text.startswith('# New\nimport os\nimport sys\n'))
        self.assertIn('forget(volume)', text)

    def test_conflict_leaves_all_as_it_was(self):
        self.make()
        tip = self.git.commit_of('blockpath')
        self.upstream({'nova/driver.py': base.DRIVER.replace(
            'disconnect(volume)', 'drop(volume)')})
        before = base.snapshot(self.clone)
        self.assert_says(
            plan.PlanError, 'nova/libvirt-move-guests: nova/driver.py: hunk '
            '1 of 1 (line 14 of the release) conflicts with line 15',
            self.make)
        self.assertEqual(tip, self.git.commit_of('blockpath'))
        self.assertEqual(before, base.snapshot(self.clone))

    def test_what_upstream_merged_is_left_out(self):
        self.make()
        ids = self.change_ids()
        self.pass_time()
        self.git.run('merge', '--quiet', '--ff-only', 'blockpath~1')
        self.assertIn('1 commits', self.make(onto='master').message)
        self.assertEqual(ids[1:], self.change_ids())
        self.git.run('merge', '--quiet', '--ff-only', 'blockpath')
        self.assert_says(review.ReviewError, 'holds all patches of nova',
                         self.make)

    def test_somebody_s_own_commits_are_kept(self):
        self.make()
        self.git.run('switch', '--quiet', 'blockpath')
        self.commit('Mine', {'nova/mine.py': ''}, folder=self.clone)
        self.assert_says(review.ReviewError, 'not made here', self.make)
        self.assertIn('nova/mine.py', base.snapshot(self.clone))

    def test_the_branch_checked_out(self):
        self.assert_says(review.ReviewError, '--onto', self.make,
                         branch='master')
        self.assert_says(review.ReviewError, 'not made here', self.make,
                         onto='HEAD', branch='master')

    def test_edits_in_the_work_tree_are_kept(self):
        self.make()
        self.git.run('switch', '--quiet', 'blockpath')
        (self.clone / 'nova/driver.py').write_text('mine\n')
        self.upstream_quietly()
        self.assert_says(trees.TreeError, 'commit or undo the changes in '
                         'nova/driver.py', self.make, onto='gerrit/master')
        self.assertEqual('mine\n',
                         (self.clone / 'nova/driver.py').read_text())

    def upstream_quietly(self) -> None:
        """A commit on the server's master that the clone only fetched."""
        other = self.temp / 'other'
        git.Git(self.temp).run('clone', '--quiet', str(self.server),
                               str(other))
        self.commit('Upstream', {'nova/driver.py': '# N\n' + base.DRIVER},
                    'Upstream\n', other)
        git.Git(other).run('push', '--quiet', 'origin', 'master')
        self.git.run('fetch', '--quiet', 'gerrit')

    def test_what_is_no_clone(self):
        self.clone = self.unpack()
        self.assert_says(review.ReviewError, 'no git repository', self.make)

    def test_a_repository_of_the_sdist(self):
        """Where nobody can be asked for upstream's own history."""
        self.clone = self.unpack()
        self.git = git.Git(self.clone)
        self.git.run('init', '--quiet', '--initial-branch=master')
        self.commit('Release', self.files, 'Release\n', self.clone)
        self.assertIn('2 commits', self.make().message)
        self.git.run('switch', '--quiet', 'blockpath')
        self.assertEqual(base.snapshot(self.tree), base.snapshot(self.clone))

    def test_nobody_s_commits(self):
        for name in ('NAME', 'EMAIL'):
            self.useFixture(fixtures.EnvironmentVariable(
                f'GIT_COMMITTER_{name}', ''))
        self.assert_says(target.TargetError, 'user.name', self.make)


class DependsOnTest(ReviewCase):

    def setUp(self):
        super().setUp()
        self.write_toml(self.toml().replace(
            'name = "libvirt-move-guests"\n',
            'name = "libvirt-move-guests"\ndepends = ["os-brick/log-in"]\n') +
            OS_BRICK)

    def test_url(self):
        made = self.make(**{'os-brick/log-in': URL})
        self.assertEqual((), made.missing)
        first, second = self.messages()
        self.assertIn(f'moving-guests\nDepends-On: {URL}\nChange-Id: ', first)
        self.assertNotIn('Depends-On', second)

    def test_no_url_yet(self):
        """Zuul reads URLs alone, so none is made up."""
        made = self.make()
        self.assertEqual(1, len(made.missing))
        self.assertIn('--depends-on os-brick/log-in=URL', made.missing[0])
        first, _ = self.messages()
        self.assertNotIn('Depends-On', first)
        other = self.series.patches['os-brick'][0]
        self.assertIn(f'\nNeeds: os-brick {footer.change_id(other)}\n', first)
        before = self.change_ids()
        self.make(**{'os-brick/log-in': URL})
        self.assertEqual(before, self.change_ids())

    def test_what_is_given(self):
        for url in (URL, URL + '/', 'https://review.opendev.org/987654',
                    'https://review.opendev.org/#/c/987654'):
            self.assertEqual(
                {'os-brick/log-in': url},
                footer.parse_urls(self.series, [f'os-brick/log-in={url}']))
        for wrong, words in (
                ('os-brick/log-out=' + URL, 'no patch of the series'),
                ('log-in=' + URL, 'no patch of the series'),
                ('os-brick/log-in', 'no URL of a change'),
                ('os-brick/log-in=I' + '0' * 40, 'no URL of a change'),
                ('os-brick/log-in=https://opendev.org/x', 'no URL')):
            self.assert_says(footer.FooterError, words, footer.parse_urls,
                             self.series, [wrong])

    def test_a_change_id_that_is_kept(self):
        kept = 'I' + '0123456789' * 4
        self.write_toml(self.toml().replace(
            'name = "libvirt-move-guests"\n',
            f'name = "libvirt-move-guests"\nchange-id = "{kept}"\n'))
        self.make()
        self.assertEqual(f'Change-Id: {kept}', self.change_ids()[0])


class GitReviewTest(ReviewCase):
    """With the tool that developers send changes with."""

    def git_review(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, '-m', 'git_review.cmd', *args], cwd=self.clone,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def test_gerrit_s_hook_adds_nothing(self):
        """It looks for a Change-Id in the footer, as the server does."""
        hook = self.temp / 'commit-msg'
        hook.write_text(hooks.COMMIT_MSG)
        hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
        self.make()
        for message in [*self.messages(), 'A change\n\nOf mine.']:
            given = self.temp / 'message'
            given.write_text(f'{message}\n')
            subprocess.run([hook, given], cwd=self.clone, check=True)
            added = given.read_text().count('Change-Id: ') - message.count(
                'Change-Id: ')
            self.assertEqual(int('Of mine.' in message), added)

    def test_review(self):
        self.make()
        before = self.change_ids()
        self.git.run('switch', '--quiet', 'blockpath')
        self.assertIn('HEAD:refs/for/master', self.git_review('-n', '-y'))
        self.git_review('-y', '--topic', 'blockpath')
        sent = git.Git(self.server)
        pushed = 'refs/for/master%topic=blockpath'
        self.assertEqual(self.git.commit_of('blockpath'),
                         sent.commit_of(pushed))
        # git review rebases to see whether it can; the ids stay through it.
        self.upstream({'nova/driver.py': '# New\n' + base.DRIVER})
        self.make(onto='gerrit/master')
        self.git.run('switch', '--quiet', 'blockpath')
        sent.run('update-ref', '-d', pushed)
        self.git_review('-y', '--topic', 'blockpath')
        self.assertEqual(self.git.commit_of('blockpath'),
                         sent.commit_of(pushed))
        self.assertEqual(before, self.change_ids())
