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
"""The options and messages of the docs, against the real trees."""

import pathlib
import re
import subprocess
import sys

import fixtures
import testtools

from blockpath.docs import messages
from blockpath.docs import options
from blockpath.docs import settings
from blockpath import paths
from blockpath.series import model
from blockpath.series import trees
from tests.unit.docs import project


def names(tree):
    return {option.dest for _group, added in options.added(tree)
            for option in added}


def base_names(tree):
    series = model.Series(paths.ROOT)
    return {option.dest for _group, listed in options.listed(
        series.base(tree, series.default)) for option in listed}


class AddedTest(testtools.TestCase):

    def test_what_the_code_defines(self):
        """Each option that the series' own lines define, and no other."""
        series = model.Series(paths.ROOT)
        for tree in series.trees():
            lines = trees.open_tree(series, tree, series.default).text(
                'diff', '--unified=0', trees.BASE, 'HEAD', '--', '*.py',
                ':!*/tests/*')
            defined = set(re.findall(
                r"^\+.*cfg\.\w+Opt\(\s*'(\w+)'", lines, re.MULTILINE))
            self.assertEqual(defined - base_names(tree), names(tree), tree)
            self.assertNotEqual(set(), names(tree))

    def test_a_backend_s_are_listed_once(self):
        self.assertEqual(['backend_defaults'],
                         [group for group, _added in options.cinder()])

    def test_a_tree_that_is_missing(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        error = self.assertRaises(options.OptionsError, options.listed,
                                  folder / 'nova')
        self.assertIn('run: ./run setup', str(error))

    def test_generator(self):
        """oslo.config's own command makes a sample of them."""
        generator = pathlib.Path(sys.executable).with_name(
            'oslo-config-generator')
        sample = subprocess.run(
            [str(generator)] + [
                f'--namespace=blockpath.{tree.replace("-", "_")}'
                for tree in options.LISTS],
            check=True, capture_output=True, text=True).stdout
        self.assertEqual(
            {name for tree in options.LISTS for name in names(tree)},
            set(re.findall(r'^#(\w+) =', sample, re.MULTILINE)))


class PageTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.project = project.Project(
            pathlib.Path(self.useFixture(fixtures.TempDir()).path))

    def test_every_option_is_on_the_page(self):
        self.project.write((paths.ROOT / 'doc' / 'source' / 'reference' /
                            'options.rst').read_text())
        self.assertEqual((0, ''), self.project.build())
        page = self.project.text()
        for tree in options.LISTS:
            for _group, added in options.added(tree):
                for option in added:
                    self.assertRegex(page, rf'(?m)^ *{option.dest}$')
                    self.assertIn(' '.join((option.help or '').split())[:40],
                                  ' '.join(page.split()))

    def test_a_sample_with_what_no_tree_knows(self):
        self.project.write('''
            .. code-block:: ini

               [libvirt]
               iscsi_initiator = none
               [os_brick]
               iscsi_faces = left
               [lvm]
               target_scope = host
            ''')
        code, said = self.project.build()
        self.assertEqual(1, code)
        self.assertIn('[libvirt] iscsi_initiator = none', said)
        self.assertIn('there is no option [os_brick] iscsi_faces', said)
        self.assertNotIn('target_scope', said)

    def test_a_message_that_nothing_says(self):
        self.project.write('''
            :message:`no answer within … seconds` and
            :message:`no answer within … minutes`
            ''')
        code, said = self.project.build()
        self.assertEqual(1, code)
        self.assertIn('no answer within … minutes', said)
        self.assertNotIn('no answer within … seconds', said)


class KnownTest(testtools.TestCase):

    def test_options_of_all_trees(self):
        known = settings.known()
        for group, name in (('libvirt', 'virt_type'),
                            ('backend_defaults', 'rbd_pool'),
                            ('os_brick', 'lock_path'),
                            ('DEFAULT', 'enabled_backends')):
            self.assertIn(name, known[group])

    def test_messages_of_all_trees(self):
        for message in ('No iSCSI path to volume … works: …',
                        'the copy was told to stop',
                        'The paths lead to different volumes: …'):
            self.assertTrue(messages.is_ours(message), message)
