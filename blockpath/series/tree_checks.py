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
"""Upstream's own style and functional tests, on a patched tree."""

import dataclasses
import pathlib
import re
import sys
from typing import Any
from typing import IO

from blockpath.console import suite
from blockpath import paths
from blockpath.series import git
from blockpath.series import model
from blockpath.series import trees

#: Seconds. In Nova's functional tests, with native threads, readers of the
#: fixture of the cells' databases at times wait for one another forever. It
#: is longer than OS_TEST_TIMEOUT and the imports before the first test.
STALL = 300.0
#: Releases whose suites upstream runs with eventlet, which is how nova-compute
#: starts there; some of the tests need it.
EVENTLET = ('2025.2', '2026.1')


@dataclasses.dataclass(frozen=True)
class Trees:
    """The patched trees of a release, and the Python that they run in."""

    series: model.Series
    release: str

    @property
    def is_default(self) -> bool:
        return self.release == self.series.default

    @property
    def python(self) -> str:
        if self.is_default:
            return sys.executable
        return str(paths.ROOT / f'.venv-{self.release}' / 'bin' / 'python')

    @property
    def without_eventlet(self) -> str:
        """As upstream runs the release's suites: 'True' or 'False'."""
        return str(self.release not in EVENTLET)

    def work(self, tree: str) -> pathlib.Path:
        return self.series.work(tree, self.release)


def functional(folder: pathlib.Path, name: str, pattern: str,
               python: str = sys.executable, **env: Any) -> suite.Work:
    """Run functional tests of a tree, whose name is the folder's."""
    package = model.PACKAGES[folder.name]
    return suite.stestr(folder, name, pattern,
                        f'./{package}/tests/functional', stall=STALL,
                        python=python, **env)


def check_style(under: Trees, tree: str) -> suite.Work:
    """Run upstream's flake8 on the lines that the series adds to a tree."""
    def work(log: IO[str], update: suite.Update) -> suite.Counts:
        del update
        repository = trees.open_tree(under.series, tree, under.release)
        changed = {path: lines for path, lines in changed_lines(
            repository, trees.BASE, 'HEAD').items() if path.endswith('.py')}
        ours = suite.lint(log, repository.folder, {}, changed,
                          *flake8(repository.folder), *sorted(changed),
                          python=under.python)
        log.writelines(ours)
        return suite.count_one(not ours)
    return work


def flake8(folder: pathlib.Path) -> list[str]:
    """Return the module and arguments that check a tree as upstream does."""
    # neutron-lib, which is installed too, brings N5xx: Neutron's habits. I is
    # the order of imports, which only Cinder's tox.ini asks for.
    orders = 'import-order-style' in (folder / 'tox.ini').read_text('utf-8')
    return ['flake8', f'--extend-ignore=N5{"" if orders else ",I"}']


def changed_lines(repository: git.Git, before: str,
                  after: str) -> dict[str, set[int]]:
    """Map files changed between two commits to the numbers of new lines."""
    text = repository.run('diff', '--unified=0', '--no-renames', '--no-color',
                          '--diff-filter=AM', '--src-prefix=a/',
                          '--dst-prefix=b/', before, after).decode(
                              'utf-8', 'replace')
    changed: dict[str, set[int]] = {}
    path = ''
    for line in text.split('\n'):
        if line.startswith('+++ b/'):
            path = line.removeprefix('+++ b/').rstrip('\t')
            changed[path] = set()
        elif match := re.match(r'@@ -\S+ \+(\d+)(?:,(\d+))? @@', line):
            first, count = int(match[1]), int(match[2] or 1)
            changed[path] |= set(range(first, first + count))
    return changed
