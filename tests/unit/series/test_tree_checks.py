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
import sys

from blockpath import paths
from blockpath.series import git
from blockpath.series import model
from blockpath.series import tree_checks
from tests.unit.series import base


class TreesTest(base.TestCase):

    def test_python_of_a_release(self):
        series = model.Series(paths.ROOT)
        self.assertEqual(sys.executable,
                         tree_checks.Trees(series, series.default).python)
        under = tree_checks.Trees(series, '2026.1')
        self.assertEqual(
            str(paths.ROOT / '.venv-2026.1/bin/python'), under.python)
        self.assertEqual(series.root / '.trees/2026.1/nova',
                         under.work('nova'))


class ChangedLinesTest(base.TestCase):

    def test_changed_lines(self):
        repository = git.Git(self.temp)
        repository.run('init', '--quiet')
        (self.temp / 'a.py').write_text('1\n2\n3\n')
        repository.run('add', 'a.py')
        repository.run('commit', '--quiet', '-m', 'base')
        repository.run('tag', 'base')
        (self.temp / 'a.py').write_text('1\nnew\n2\n3\n')
        (self.temp / 'b.py').write_text('x\ny\n')
        (self.temp / 'c.txt').write_text('x\n')
        repository.run('add', '.')
        repository.run('commit', '--quiet', '-m', 'ours')
        changed = tree_checks.changed_lines(repository, 'base', 'HEAD')
        self.assertEqual({'a.py': {2}, 'b.py': {1, 2}, 'c.txt': {1}}, changed)
