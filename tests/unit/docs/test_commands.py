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
"""Command lines that exist, and those that do not."""

import testtools

from blockpath.docs import commands


class CommandsTest(testtools.TestCase):

    def test_good_ones(self):
        for line in ('blockpath series apply nova --to DIR --reverse',
                     '$ sudo ./run blockpath lab run --keep demo   # so',
                     './run blockpath lab openstack server list --all',
                     'PYTHON=python3 ./run tests quick',
                     '.venv/bin/blockpath bench copy --size 100 --only a',
                     './run', 'blockpath --help', 'blockpath series'):
            self.assertEqual([], commands.problems(line), line)
            self.assertEqual(1, len(list(commands.ours(line))), line)

    def test_wrong_ones(self):
        for line, reason in (
                ('blockpath serie apply nova', "No such command 'serie'"),
                ('blockpath series apply nova --too x', "option '--too'"),
                ('blockpath series apply', "Missing argument 'TREE'"),
                ('blockpath series apply nova more', 'unexpected extra'),
                ('blockpath bench copy --size few', 'not a valid integer'),
                ('blockpath lab run nothing', "No such command 'nothing'"),
                ('./run blockpath lab upp', "No such command 'upp'"),
                ('$ sudo ./run test', './run --help')):
            [problem] = commands.problems(line)
            self.assertIn(reason, problem)

    def test_a_line_that_goes_on(self):
        [problem] = commands.problems(
            'make\nblockpath series \\\n    apply nova --bogus\n')
        self.assertIn("No such option '--bogus'", problem)

    def test_a_mention_needs_no_arguments(self):
        self.assertEqual([], commands.problems('blockpath series apply',
                                               whole=False))
        self.assertEqual(1, len(commands.problems('blockpath series aply',
                                                  whole=False)))

    def test_what_is_none_of_ours(self):
        text = ("git am a.patch\nblockpath: it's failed\n"
                'Usage: ./run demo   moves\nblockpath series fetch [TREE]...\n'
                './run blockpath ...    the command')
        self.assertEqual([], list(commands.ours(text)))

    def test_run_tells_what_it_takes(self):
        self.assertLessEqual({'demo', 'tests', 'docs', 'blockpath', 'setup'},
                             commands.run_commands())
