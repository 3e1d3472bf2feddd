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
"""blockpath itself, installed by pip from a checkout into a bare venv."""

import os
import pathlib
import shutil
import sys
import tempfile
import unittest

from blockpath import paths
from blockpath.series import fetch
from blockpath.series import git
from tests.packages import base

#: Nothing but the venv says where modules are.
ENV = {name: value for name, value in os.environ.items()
       if not name.startswith('PYTHON')}


class InstallTest(unittest.TestCase):

    folder: pathlib.Path
    checkout: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix='blockpath-')
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.checkout = cls.folder / 'checkout'
        for path in git.Git(paths.ROOT).text('ls-files', '-z').split('\0'):
            if (paths.ROOT / path).is_file():
                (cls.checkout / path).parent.mkdir(parents=True,
                                                   exist_ok=True)
                shutil.copy(paths.ROOT / path, cls.checkout / path)
        # So that no sdist is downloaded again.
        (cls.checkout / '.cache').mkdir()
        (cls.checkout / '.cache/sdists').symlink_to(paths.CACHE / 'sdists')
        base.run(os.path.realpath('/usr/bin/env'), 'true')
        venv = cls.folder / 'venv'
        base.run(sys.executable, '-m', 'venv', venv)
        base.run(venv / 'bin/pip', 'install', '--quiet', '-c',
                 cls.checkout / 'constraints.txt', '.', cwd=cls.checkout,
                 env=ENV)

    def blockpath(self, *arguments: str | pathlib.Path, code: int = 0,
                  cwd: pathlib.Path | None = None) -> str:
        return base.run(self.folder / 'venv/bin/blockpath', *arguments,
                        cwd=cwd or self.checkout, env=ENV, ok=(code,))

    def test_help_is_shown_anywhere(self):
        for arguments in ((), ('series',), ('series', 'apply'), ('lab',)):
            self.assertIn('Usage: blockpath', self.blockpath(
                *arguments, '--help', cwd=self.folder))

    def test_the_series_in_the_folder_of_the_checkout(self):
        release = base.SERIES.default
        self.assertIn(f'{release} os-brick', self.blockpath('series',
                                                            'releases'))
        fetch.fetch(base.SERIES, 'os-brick', release)
        target = self.folder / 'os-brick'
        shutil.copytree(base.SERIES.base('os-brick', release), target)
        before = base.snapshot(target)
        self.blockpath('series', 'apply', 'os-brick', '--to', target)
        self.assertTrue((target / 'os_brick/initiator/iscsi_ifaces.py'
                         ).is_file())
        self.blockpath('series', 'apply', 'os-brick', '--to', target,
                       '--reverse')
        self.assertEqual(before, base.snapshot(target))

    def test_the_series_elsewhere(self):
        said = self.blockpath('series', 'releases', cwd=self.folder, code=1)
        self.assertEqual(
            f'Error: {self.folder}/patches/series.toml is missing; run this '
            f'in the folder of a checkout of blockpath\n', said)

    def test_the_lab_without_its_extra(self):
        said = self.blockpath('lab', 'up', code=1)
        self.assertRegex(said, r"^Error: \w+ is not installed; run: pip "
                         r"install 'blockpath\[lab\]'\n$")
