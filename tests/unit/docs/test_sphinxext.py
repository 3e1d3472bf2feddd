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
"""A page that says what does not exist is not built."""

import pathlib

import fixtures
import testtools

from tests.unit.docs import project


class SphinxTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.project = project.Project(
            pathlib.Path(self.useFixture(fixtures.TempDir()).path))

    def refused(self, text):
        self.project.write(text)
        code, said = self.project.build()
        self.assertEqual(1, code, said)
        return said

    def test_commands(self):
        self.project.write('''
            Then ``blockpath series apply`` it::

                $ blockpath series apply nova
            ''')
        self.assertEqual((0, ''), self.project.build())
        said = self.refused('''
            Then ``blockpath series aply`` it::

                $ blockpath series apply nova --off
            ''')
        self.assertIn("No such command 'aply'", said)
        self.assertIn("No such option '--off'", said)
        self.assertIn('index.rst:5: WARNING', said)
