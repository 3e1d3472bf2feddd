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
"""A venv in which pip installed the releases."""

import pathlib
import sys

from tests.packages import base


class PipTest(base.PackagesTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.venv = self.scratch()
        self.packages = base.make_venv(self.venv, *base.releases())
        self.python = self.venv / 'bin/python'
        self.pristine = base.snapshot(self.packages)

    def apply(self, tree: str, *options: str, code: int = 0) -> str:
        return base.run(sys.executable, '-m', 'blockpath', 'series', 'apply',
                        tree, '--to', self.packages, *options, ok=(code,))

    def imports(self, tree: str) -> str:
        """Import what is new in the venv; returns where the last is from."""
        # Its services register the objects first, too.
        register = '' if tree == 'os-brick' else (
            f'from {tree} import objects\nobjects.register_all()\n')
        return base.run(
            self.python, '-P', '-c', f'import importlib, sys\n{register}'
            'for name in sys.argv[1:]:\n'
            '    found = importlib.import_module(name)\n'
            'print(found.__file__)', *base.new_modules(tree), cwd=self.venv)

    def test_apply_and_reverse(self):
        trees = base.SERIES.trees()
        for tree in trees:
            self.assertIn('pristine', self.apply(tree, '--status', code=3))
            self.apply(tree)
            self.assertIn('applied', self.apply(tree, '--status'))
        self.assert_patched(self.packages)
        for tree in trees:
            self.assertIn(str(self.packages), self.imports(tree))
            self.assertIn('already', self.apply(tree))
        self.assertIn('No broken', self.pip('check'))
        for tree in trees:
            self.apply(tree, '--reverse')
            self.assertIn('pristine', self.apply(tree, '--status', code=3))
        self.assertEqual(self.pristine, base.snapshot(self.packages))

    def pip(self, *arguments: str | pathlib.Path) -> str:
        return base.pip('--python', self.python, *arguments)

    def test_pip_after_it(self):
        """pip takes away what it brought, and the series what it did."""
        self.apply('nova')
        self.apply('os-brick')
        self.apply('nova', '--reverse')
        self.pip('uninstall', '--yes', 'nova')
        self.assertFalse((self.packages / 'nova').exists())
        self.assertIn('applied', self.apply('os-brick', '--status'))

    def test_a_release_installed_over_it(self):
        """pip brings back its files, and leaves those that are new."""
        self.apply('os-brick')
        for undo in ('--reverse', ''):
            self.reinstall('os-brick')
            self.assertIn('installed over it',
                          self.apply('os-brick', '--status', code=3))
            self.apply('os-brick', *filter(None, [undo]))
            if undo:
                self.assertEqual(self.pristine, base.snapshot(self.packages))
                self.apply('os-brick')
        self.assertIn('applied', self.apply('os-brick', '--status'))

    def reinstall(self, tree: str) -> None:
        pin = base.PINS[tree]
        self.pip('install', '--quiet', '--no-deps', '--no-index',
                 '--no-compile', '--force-reinstall', '--find-links',
                 base.wheels(*base.releases()),
                 f'{pin.project}=={pin.version}')
