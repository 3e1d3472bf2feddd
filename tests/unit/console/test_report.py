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
"""A run's table: all checks, or a line for each act."""

import io
import json
import pathlib

import rich.console

from blockpath.console import progress
from blockpath.console import report as reports
from tests.unit.series import base


class ReportTest(base.TestCase):

    def setUp(self):
        super().setUp()
        self.out = io.StringIO()
        self.report = reports.Report(progress.Plain(self.out),
                                     pathlib.Path(self.temp))

    def table(self):
        out = io.StringIO()
        rich.console.Console(file=out, width=200).print(self.report.table())
        return out.getvalue()

    def test_without_acts_every_check_is_shown(self):
        self.report.check('one', True)
        self.report.check('two', False)
        self.assertIn('one', self.table())
        self.assertIn('two', self.table())

    def test_of_an_act_only_what_failed(self):
        with self.report.act('the first'):
            self.report.check('works', True)
        with self.report.act('the second'):
            self.report.check('works', True)
            self.report.check('breaks', False)
        self.report.check('holds throughout', True)
        table = self.table()
        for text in ('1 of 1 checks', '1 of 2 checks', 'breaks',
                     'holds throughout'):
            self.assertIn(text, table)
        self.assertNotIn('works', table)

    def test_a_step_that_fails_is_named(self):
        def play():
            with self.report.step('the outer'), \
                    self.report.step('the inner'):
                raise KeyError

        self.assertRaises(KeyError, play)
        self.assertIn("FAILED in step 'the inner' after", self.out.getvalue())
        self.assertNotIn('the inner (', self.out.getvalue())

    def test_an_act_that_is_broken_off_is_shown(self):
        def play():
            with self.report.act('the first'):
                self.report.check('works', True)
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, play)
        page = self.report.write().read_text()
        self.assertIn('the first', page)
        data = json.loads((self.report.folder / 'report.json').read_text())
        self.assertEqual([('the first', True)], [
            (act['name'], act['passed']) for act in data['acts']])
