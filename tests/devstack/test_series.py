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
"""The trees: applied, applied again, moved, put back."""

import re

from blockpath.series import git
from tests.devstack import base

#: Nothing that the kernel has to have.
ONE = {'BLOCKPATH_SECOND_ADDRESS': ''}
TREES = ('nova', 'cinder', 'os-brick')


class SeriesTest(base.TestCase):

    def subjects(self, repository: git.Git,
                 branch: str = 'master') -> list[str]:
        return repository.text('log', '--format=%s', '--reverse',
                               f'origin/{branch}..HEAD').split('\n')

    def wanted(self, tree: str) -> list[str]:
        return [base.SERIES.mail(patch, base.SERIES.default).subject
                for patch in base.SERIES.patches[tree]]

    def heads(self, node: base.Node) -> dict[str, str]:
        return {tree: node.tree(tree).commit_of('HEAD') for tree in TREES}

    def assert_pristine(self, node: base.Node, *trees: str) -> None:
        for tree in trees or TREES:
            repository = node.tree(tree)
            self.assertEqual(repository.commit_of('origin/master'),
                             repository.commit_of('HEAD'), tree)
            self.assertEqual('', repository.text('status', '--porcelain'))

    def test_a_commit_for_each_patch(self):
        node = self.node(**ONE)
        node.run('stack')
        for tree in TREES:
            self.assertEqual(self.wanted(tree),
                             self.subjects(node.tree(tree)))
        self.assertEqual('', node.tree('nova').text('status', '--porcelain'))
        # What pip installed is not what runs, with LIBS_FROM_GIT.
        self.assertFalse((node.site / '.blockpath').exists())

    def test_stacked_again(self):
        node = self.node(**ONE)
        node.run('stack')
        before = self.heads(node)
        said = node.run('stack')
        self.assertEqual(before, self.heads(node))
        self.assertEqual(len(TREES), len(node.notes('applied')))
        self.assertNotIn('[WARNING]', said)

    def test_stacked_again_from_fresh_branches(self):
        """RECLONE puts the trees back twice, the second time by install_*."""
        node = self.node(**ONE)
        node.run('stack')
        node.run('stack', RECLONE='yes')
        for tree in TREES:
            self.assertEqual(self.wanted(tree),
                             self.subjects(node.tree(tree)))

    def test_unstacked(self):
        node = self.node(**ONE)
        node.run('stack')
        node.run('unstack')
        self.assert_pristine(node)
        self.assertEqual([], node.notes('applied'))
        node.run('unstack')
        node.run('stack')
        self.assertEqual(self.wanted('nova'),
                         self.subjects(node.tree('nova')))

    def test_cleaned(self):
        node = self.node(**ONE)
        node.run('stack')
        node.run('clean')
        self.assert_pristine(node)
        self.assertFalse(node.state.exists())
        node.run('clean')

    def test_own_commits_stay(self):
        """A developer's work on top of the series is not thrown away."""
        node = self.node(**ONE)
        node.run('stack')
        (node.dest / 'nova' / 'mine.py').write_text('')
        mine = base.commit(node.dest / 'nova', 'Mine')
        said = node.run('unstack')
        self.assertIn('[WARNING]', said)
        self.assertIn('there are commits on top of the series', said)
        self.assertEqual(mine, node.tree('nova').commit_of('HEAD'))
        self.assert_pristine(node, 'cinder', 'os-brick')
        # It goes on from there, and clean says what is left.
        node.run('stack')
        self.assertEqual(mine, node.tree('nova').commit_of('HEAD'))
        said = node.run('clean')
        self.assertIn(f'the series stays in {node.dest}/nova; remove', said)
        [left] = node.notes('applied')
        self.assertIn(str(node.dest / 'nova'), left)
        self.assertFalse((node.state / 'venv').exists())

    def test_a_tree_that_moved_a_little(self):
        """Upstream's master has commits after the release: merged."""
        node = self.node(**ONE)
        driver = node.own_upstream() / 'nova/nova/virt/libvirt/driver.py'
        driver.write_text(driver.read_text() + '\nMOVED = True\n')
        base.commit(node.upstream / 'nova', 'Move')
        said = node.run('stack')
        self.assertIn('merged into another version of '
                      'nova/virt/libvirt/driver.py', said)
        self.assertEqual(self.wanted('nova'),
                         self.subjects(node.tree('nova')))
        after = (node.dest / 'nova/nova/virt/libvirt/driver.py').read_text()
        self.assertTrue(after.endswith('\nMOVED = True\n'))

    def test_an_older_release_in_a_fresh_checkout(self):
        """The release that the hooks were made on is fetched with it."""
        node = self.node(TARGET_BRANCH='stable/2026.1', **ONE)
        node.add_stable_branch('2026.1')
        checkout = node.own_checkout(fetched=False)
        said = node.run('stack')
        self.assertNotIn('is missing', said)
        for tree in TREES:
            self.assertEqual(self.wanted(tree), self.subjects(
                node.tree(tree), 'stable/2026.1'))
        self.assertEqual(
            ['2026.1', base.SERIES.default],
            sorted(path.name for path in (checkout / '.trees').iterdir()))

    def test_a_tree_that_moved_too_far(self):
        """One line says which patch and where; all trees are as before."""
        node = self.node(**ONE)
        lvm = node.own_upstream() / 'cinder/cinder/volume/drivers/lvm.py'
        lvm.write_text(lvm.read_text().replace('\n', '  # moved\n'))
        base.commit(node.upstream / 'cinder', 'Move')
        said = node.run('stack', ok=False)
        [line] = re.findall(r'\[ERROR\].*', said)
        self.assertIn('the series was not applied to cinder in '
                      f'{node.dest}/cinder', line)
        self.assertRegex(line, r'cinder/[a-z-]+: cinder/volume/drivers/lvm\.py'
                               r': hunk \d+ of \d+ .* conflicts with line')
        self.assertIn('check out a commit nearer to the release', line)
        self.assert_pristine(node)
        self.assertEqual([], node.notes('applied'))

    def test_what_was_there_before_is_not_taken_back(self):
        """Only what this run applied is undone when a later tree fails."""
        node = self.node(**ONE)
        node.run('stack')
        before = self.heads(node)
        git.Git(node.dest / 'cinder').run('checkout', '--quiet', '-f', '-B',
                                          'master', 'origin/master')
        lvm = node.dest / 'cinder/cinder/volume/drivers/lvm.py'
        lvm.write_text(lvm.read_text().replace('\n', '  # moved\n'))
        base.commit(node.dest / 'cinder', 'Move')
        node.run('stack', ok=False)
        after = self.heads(node)
        self.assertEqual(before['nova'], after['nova'])
        self.assertEqual(before['os-brick'], after['os-brick'])

    def test_another_version_of_the_series(self):
        """The plugin was updated: its former commits go first."""
        node = self.node(**ONE)
        checkout = node.own_checkout()
        node.run('stack')
        file = checkout / 'nova/nova/virt/libvirt/disk_migration.py'
        file.write_text(file.read_text() + '\n# Another version.\n')
        node.run('stack')
        repository = node.tree('nova')
        self.assertEqual(self.wanted('nova'), self.subjects(repository))
        self.assertIn('# Another version.', repository.text(
            'show', 'HEAD:nova/virt/libvirt/disk_migration.py'))


class InstalledTest(base.TestCase):
    """os-brick from pip, on a node that has no Cinder."""

    FILE = 'os_brick/initiator/iscsi_ifaces.py'

    def test_applied_and_put_back(self):
        node = self.node('two-node-compute.conf')
        connector = node.site / 'os_brick/initiator/connectors/iscsi.py'
        before = connector.read_bytes()
        node.run('stack')
        self.assertTrue((node.site / self.FILE).exists())
        self.assertNotEqual(before, connector.read_bytes())
        self.assertFalse((node.dest / 'cinder').exists())
        self.assertFalse((node.dest / 'os-brick').exists())
        node.run('stack')
        node.run('unstack')
        self.assertFalse((node.site / self.FILE).exists())
        self.assertEqual(before, connector.read_bytes())
        self.assertFalse((node.site / '.blockpath').exists())

    def test_not_installed(self):
        node = self.node('two-node-compute.conf')
        for path in sorted(node.site.glob('os_brick/**/*'), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (node.site / 'os_brick').rmdir()
        self.assertIn('has no os-brick', node.run('stack', ok=False))


class ReleaseTest(base.TestCase):

    def release(self, **settings: str) -> str:
        node = self.node('two-node-compute.conf', **settings)
        node.run('stack')
        [line] = [each for each in node.notes('applied')
                  if each.startswith('nova ')]
        return line.split(' ')[1]

    def test_of_master(self):
        self.assertEqual(base.SERIES.default, self.release())

    def test_of_a_stable_branch(self):
        self.assertEqual('2026.2', self.release(
            NOVA_BRANCH='stable/2026.2'))

    def test_of_a_tag(self):
        version = base.SERIES.pin('nova', '2026.2').version
        self.assertEqual('2026.2', self.release(NOVA_BRANCH=version))

    def test_of_no_known_branch(self):
        node = self.node('two-node-compute.conf',
                         NOVA_BRANCH='stable/2019.1')
        git.Git(node.own_upstream() / 'nova').run('branch', 'stable/2019.1')
        said = node.run('stack', ok=False)
        self.assertIn(
            'no release for nova stable/2019.1; set BLOCKPATH_RELEASE to one '
            f'of: {" ".join(sorted(base.SERIES.releases))}',
            ' '.join(said.split()))

    def test_asked_for(self):
        node = self.node('two-node-compute.conf', BLOCKPATH_RELEASE='1999.1')
        said = node.run('stack', ok=False)
        self.assertIn('no release 1999.1; there is 2026.2', said)
