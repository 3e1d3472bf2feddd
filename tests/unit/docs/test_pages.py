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
"""No page of a tree and no spec is left out of the docs."""

import pathlib
import re

import testtools

from blockpath import paths

SOURCE = paths.ROOT / 'doc' / 'source'


class IncludedTest(testtools.TestCase):

    def test_all(self):
        included = {
            (page.parent / name).resolve()
            for page in SOURCE.rglob('*.rst')
            for name in re.findall(r'^\.\. include:: (\S+)$',
                                   page.read_text('utf-8'), re.MULTILINE)}
        written: set[pathlib.Path] = set()
        for pattern in ('nova/doc/**/*.rst', 'cinder/doc/**/*.rst',
                        'os-brick/doc/**/*.rst', 'specs/*.rst',
                        'README.rst', 'CONTRIBUTING.rst', 'MERGE.rst',
                        'devstack/README.rst'):
            found = set(paths.ROOT.glob(pattern))
            self.assertNotEqual(set(), found, pattern)
            written |= found
        self.assertEqual(set(), written - included)
