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
"""Release notes of a checkout that need not be a repository."""

import pathlib

import fixtures
import testtools

from blockpath.docs import notes
from blockpath import paths
from blockpath.series import model

NOTE = '''\
features:
  - |
    There is a door.
fixes:
  - The window closes.
'''


class NotesTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.folder = self.root / 'nova' / 'releasenotes' / 'notes'
        self.folder.mkdir(parents=True)
        self.series = model.Series(paths.ROOT)
        self.series.root = self.root

    def test_without_a_repository(self):
        (self.folder / 'door-0123456789abcdef.yaml').write_text(NOTE)
        report = notes.report(self.series, 'nova')
        version = self.series.pin('nova', self.series.default).version
        self.assertIn(f'nova {version}\n====', report)
        for text in ('New Features\n---', '- There is a door.',
                     'Bug Fixes\n---', '- The window closes.'):
            self.assertIn(text, report)

    def test_what_is_no_note(self):
        (self.folder / 'door-0123456789abcdef.yaml').write_text('door')
        error = self.assertRaises(ValueError, notes.report, self.series,
                                  'nova')
        self.assertIn('door-0123456789abcdef.yaml', str(error))

    def test_every_note_of_the_series_is_shown(self):
        series = model.Series(paths.ROOT)
        for tree in series.trees():
            report = notes.report(series, tree)
            for file in (paths.ROOT / tree / 'releasenotes' / 'notes').glob(
                    '*.yaml'):
                line = next(line.strip() for line in
                            file.read_text().splitlines()
                            if line.startswith('    '))
                self.assertIn(line, report)
