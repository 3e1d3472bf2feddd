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
"""Whatever is imported is required, by the package or by an extra of it."""

import ast
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from importlib import metadata
import pathlib
import re
import sys

from setuptools.config import setupcfg
import testtools

from blockpath import cli
from blockpath import paths

#: Modules of the trees and their requirements, or of Debian's packages.
ELSEWHERE = {'nova', 'cinder', 'os_brick', 'rtslib_fb', 'nbd', 'rados', 'rbd'}
OURS = ('blockpath', 'tests')
#: Run by pip when a release is fetched.
BUILDERS = {'pip', 'pbr', 'setuptools'}


def file_of(module: str) -> pathlib.Path | None:
    path = paths.ROOT.joinpath(*module.split('.'))
    for file in (path / '__init__.py', path.with_suffix('.py')):
        if file.is_file():
            return file
    return None


def modules(*folders: str) -> list[str]:
    """The modules below a folder of the checkout."""
    return ['.'.join(file.relative_to(paths.ROOT).with_suffix('').parts)
            .removesuffix('.__init__')
            for folder in folders
            for file in (paths.ROOT / folder).rglob('*.py')]


def statements(node: ast.AST, deferred: bool) -> Iterator[ast.AST]:
    """The import statements; ``deferred``: those within functions, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(
                child.test):
            continue
        elif deferred or not isinstance(
                child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from statements(child, deferred)


def imported_by(file: pathlib.Path, deferred: bool) -> Iterator[str]:
    for each in statements(ast.parse(file.read_bytes()), deferred):
        if isinstance(each, ast.ImportFrom):
            assert each.module and not each.level, file
            yield each.module
            yield from (f'{each.module}.{alias.name}' for alias in each.names)
        elif isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)


def needed(starts: Iterable[str], deferred: bool) -> set[str]:
    """The packages of others that our modules import, and those they import.

    :param deferred: also what is imported when a function is called
    """
    found = set()
    todo = list(starts)
    seen = set()
    while todo:
        module = todo.pop()
        top = module.partition('.')[0]
        if module in seen:
            continue
        seen.add(module)
        if top not in OURS:
            found.add(top)
            continue
        if module != top:
            todo.append(module.rpartition('.')[0])
        if (file := file_of(module)) is not None:
            todo += imported_by(file, deferred)
    return found - sys.stdlib_module_names - ELSEWHERE


def normal(name: str) -> str:
    return re.sub('[-_.]+', '-', name).lower()


def named(requirements: Iterable[str]) -> set[str]:
    return {normal(re.split('[^A-Za-z0-9._-]', each)[0])
            for each in requirements}


class RequirementsTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        options = setupcfg.read_configuration(
            paths.ROOT / 'setup.cfg')['options']
        self.base = named(options['install_requires'])
        self.extras = {name: named(each) for name, each
                       in options['extras_require'].items()}
        self.distributions = metadata.packages_distributions()

    def assert_required(self, packages: Iterable[str],
                        required: Collection[str]) -> None:
        self.assertEqual([], sorted(
            name for name in packages if not {
                normal(each) for each in self.distributions.get(name, [name])
            } & set(required)))

    def test_of_the_commands_that_are_always_there(self):
        packages = needed(['blockpath.__main__',
                           cli.GROUPS['series'].module], deferred=False)
        self.assertIn('click', packages)
        self.assert_required(packages, self.base)

    def test_none_is_needless(self):
        packages = needed([cli.GROUPS['series'].module], deferred=False)
        self.assertEqual(self.base, BUILDERS | {
            normal(each) for name in packages
            for each in self.distributions[name]})

    def test_of_each_group_with_its_extra(self):
        for entry in cli.GROUPS.values():
            starts = [entry.module]
            if entry.extra == 'lab':
                starts += modules('blockpath/scenarios')
            self.assert_required(needed(starts, deferred=True),
                                 self.base | self.extras[entry.extra])

    def test_of_the_docs(self):
        packages = needed(modules('blockpath/docs'), deferred=True)
        self.assertIn('sphinx', packages)
        self.assert_required(packages, self.base | self.extras['docs'])

    def test_of_the_tempest_plugin(self):
        packages = needed(['blockpath.tempest.plugin',
                           *modules('blockpath/tempest/tests')],
                          deferred=True)
        self.assertIn('tempest', packages)
        self.assert_required(packages, self.base | self.extras['tempest'])

    def test_of_everything(self):
        self.assert_required(needed(modules(*OURS), deferred=True),
                             self.base.union(*self.extras.values()))
