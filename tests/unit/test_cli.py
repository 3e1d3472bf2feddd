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
"""The command in an installation that lacks something."""

import pathlib
import subprocess
import sys

import fixtures
import testtools

from blockpath import paths


class ExtraTest(testtools.TestCase):

    def without(self, module: str, *arguments: str) -> str:
        """Run the command where a module is missing; returns its errors."""
        done = subprocess.run(
            [sys.executable, '-c', 'import sys\n'
             f'sys.modules[{module!r}] = None\n'
             'from blockpath import cli\n'
             'cli.main(sys.argv[1:])', *arguments],
            cwd=paths.ROOT, capture_output=True, text=True)
        self.assertEqual(1, done.returncode, done.stdout)
        return done.stderr

    def test_of_a_group(self):
        """Its module cannot be imported."""
        self.assertEqual(
            "Error: jinja2 is not installed; run: pip install "
            "'blockpath[bench]'\n", self.without('jinja2', 'bench',
                                                 'copy'))

    def test_of_a_command(self):
        """It imports more when it runs."""
        self.assertEqual(
            "Error: libvirt is not installed; run: pip install "
            "'blockpath[lab]'\n", self.without('libvirt', 'lab', 'up'))

    def test_a_module_of_ours_is_in_no_extra(self):
        said = self.without('blockpath.series.export', 'series', 'releases')
        self.assertIn('Traceback', said)
        self.assertNotIn('pip install', said)


class RootTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.here = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def test_in_the_checkout(self):
        self.assertEqual(paths.ROOT, paths.find_root(paths.ROOT))

    def test_installed(self):
        self.assertEqual(pathlib.Path.cwd(), paths.find_root(self.here))
