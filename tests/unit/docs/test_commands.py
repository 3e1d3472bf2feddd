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
"""Command lines that could be typed, and those that could not."""

import testtools

from blockpath.docs import commands


class CommandsTest(testtools.TestCase):

    def test_good_ones(self):
        for line in ('blockpath series apply nova --to DIR --reverse',
                     '$ sudo ./run blockpath lab run --keep demo   # so',
                     './run blockpath lab openstack server list --all',
                     'PYTHON=python3 ./run tests quick',
                     '.venv/bin/blockpath bench copy --size 100 --only a',
                     'openstack volume migrate --host a@b#c VOLUME',
                     '$ cinder reset-state --reset-migration-status VOLUME',
                     './run', 'blockpath --help', 'blockpath series',
                     'cinder', 'openstack server list --help'):
            self.assertEqual([], commands.problems(line), line)
            self.assertEqual(1, len(list(commands.known(line))), line)

    def test_wrong_ones(self):
        for line, reason in (
                ('blockpath serie apply nova', "No such command 'serie'"),
                ('blockpath series apply nova --too x', "option '--too'"),
                ('blockpath series apply', "Missing argument 'TREE'"),
                ('blockpath series apply nova more', 'unexpected extra'),
                ('blockpath bench copy --size few', 'not a valid integer'),
                ('blockpath lab run nothing', "No such command 'nothing'"),
                ('./run blockpath lab upp', "No such command 'upp'"),
                ('blockpath lab openstack volume lists', 'Unknown command'),
                ('openstack volume list --al-l', '--al-l'),
                ('openstack volume migrate VOLUME', '--host'),
                ('cinder reset-status VOLUME', 'reset-status'),
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
        self.assertEqual([], commands.problems('cinder reset-state',
                                               whole=False))
        for line in ('blockpath series aply', 'cinder reset', 'openstack go'):
            self.assertEqual(1, len(commands.problems(line, whole=False)))

    def test_what_is_no_command(self):
        text = ("git am a.patch\nblockpath: it's failed\n"
                'Usage: ./run demo   moves\nblockpath series fetch [TREE]...\n'
                './run blockpath ...    the command')
        self.assertEqual([], list(commands.known(text)))

    def test_run_tells_what_it_takes(self):
        self.assertLessEqual({'demo', 'tests', 'docs', 'blockpath', 'setup'},
                             commands.run_commands())
