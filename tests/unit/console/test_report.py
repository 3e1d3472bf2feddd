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
"""A run's verdict and what is shown of it: on the page, in JSON, as a table.

A verdict is red unless just the checks that were listed were made, all of
them passed, and the run came to its end.
"""

import io
import json
import pathlib
from typing import Any

import lxml.html
import rich.console

from blockpath.console import progress
from blockpath.console import report as reports
from blockpath import errors
from tests.unit.series import base

#: Red or green, as the page's style has it.
RED, GREEN = 'failed', 'ok'


class ReportTestCase(base.TestCase):

    def start(self, *expected: str) -> reports.Report:
        self.out = io.StringIO()
        return reports.Report(progress.Plain(self.out),
                              pathlib.Path(self.temp), expected)

    def table(self, report: reports.Report) -> str:
        out = io.StringIO()
        rich.console.Console(file=out, width=200).print(report.table())
        return out.getvalue()

    def page(self, report: reports.Report) -> Any:
        report.write()
        return lxml.html.parse(report.page).getroot()

    def verdict(self, report: reports.Report) -> tuple[str, str]:
        """The colour of the page's verdict, and its text."""
        [shown] = self.page(report).xpath('//*[@id="verdict"]')
        return (shown.get('class'),
                ' '.join(' '.join(shown.itertext()).split()))

    def data(self, report: reports.Report) -> dict[str, Any]:
        report.write()
        return json.loads((report.folder / 'report.json').read_text())

    def break_off(self, report: reports.Report, error: BaseException,
                  step: str = 'the migration') -> None:
        """Let an exception break the run off in a step."""
        try:
            with report.step(step):
                raise error
        except BaseException as exc:
            report.break_off(exc)


class VerdictTest(ReportTestCase):

    def test_passed(self):
        report = self.start('one', 'two')
        report.check('two', True)
        report.check('one', True)
        report.finish()
        self.assertEqual((GREEN, 'PASSED 2 of 2 expected checks passed'),
                         self.verdict(report))
        data = self.data(report)
        self.assertEqual(('passed', None, None, 2, [], []), tuple(
            data[key] for key in ('ended', 'error', 'step', 'expected',
                                  'missing', 'unexpected')))
        self.assertIn('PASSED', self.table(report))
        self.assertNotIn('FAILED', self.table(report))
        self.assertEqual(
            f'PASSED; 2 of 2 expected checks passed\npage: '
            f'file://{self.temp}/report.html', report.outcome())

    def assert_failed(self, report: reports.Report, headline: str,
                      problem: str) -> None:
        self.assertEqual('failed', self.data(report)['ended'])
        self.assertEqual((RED, headline), self.verdict(report))
        [problems] = self.page(report).xpath('//*[@id="problems"]')
        self.assertEqual(problem, problems.text_content().strip())
        self.assertIn(problem, report.outcome().splitlines())
        self.assertIn('FAILED', self.table(report))
        self.assertNotIn('PASSED', self.table(report))

    def test_a_check_that_failed(self):
        report = self.start('one', 'two')
        report.check('one', True)
        report.check('two', False)
        report.finish()
        self.assert_failed(
            report, 'FAILED: 1 check failed 1 of 2 expected checks passed',
            'failed: two')

    def test_a_check_that_was_not_made(self):
        report = self.start('one', 'two')
        report.check('one', True)
        report.finish()
        self.assert_failed(
            report, 'FAILED: 1 check not made 1 of 2 expected checks passed',
            'not made: two')
        self.assertEqual(['two'], self.data(report)['missing'])

    def test_a_check_that_was_not_listed(self):
        report = self.start('one')
        report.check('one', True)
        report.check('two', True)
        report.finish()
        self.assert_failed(
            report, 'FAILED: 1 check not expected 1 of 1 expected checks '
            'passed', 'not expected: two')
        self.assertEqual(['two'], self.data(report)['unexpected'])

    def test_a_check_that_was_made_twice(self):
        report = self.start('one')
        report.check('one', True)
        report.check('one', True)
        report.finish()
        self.assert_failed(
            report, 'FAILED: 1 check not expected 1 of 1 expected checks '
            'passed', 'not expected: one')

    def test_no_check_at_all(self):
        report = self.start()
        report.finish()
        self.assertEqual('failed', report.ended)
        self.assertEqual(
            (RED, 'FAILED: nothing was checked 0 of 0 expected checks '
             'passed'), self.verdict(report))

    def test_a_name_that_is_listed_twice(self):
        error = self.assertRaises(ValueError, self.start, 'one', 'two', 'one')
        self.assertEqual('listed twice: one', str(error))


class BrokenOffTest(ReportTestCase):

    def test_the_step_and_the_message(self):
        report = self.start('one', 'two')
        report.check('one', True)
        self.break_off(report,
                       errors.BlockpathError('0 of 100 records arrived'))
        colour, text = self.verdict(report)
        self.assertEqual(RED, colour)
        self.assertEqual(
            "FAILED: broken off in step 'the migration' after 0 s: "
            '0 of 100 records arrived 1 of 2 expected checks passed', text)
        data = self.data(report)
        self.assertEqual(
            ('broken off', '0 of 100 records arrived', 'the migration', 2,
             ['two']), tuple(data[key] for key in (
                 'ended', 'error', 'step', 'expected', 'missing')))
        self.assertIn('broken off in step', self.table(report))
        self.assertIn('1 of 2 expected', self.table(report))

    def test_all_expected_checks_do_not_save_it(self):
        report = self.start('one')
        report.check('one', True)
        self.break_off(report, KeyError('why'))
        self.assertEqual('broken off', self.data(report)['ended'])
        self.assertEqual(RED, self.verdict(report)[0])
        self.assertIn("KeyError: 'why'", report.headline)

    def test_interrupted(self):
        report = self.start('one')
        self.break_off(report, KeyboardInterrupt())
        self.assertEqual('interrupted', self.data(report)['error'])
        self.assertEqual(RED, self.verdict(report)[0])

    def test_between_two_steps(self):
        report = self.start('one')
        with report.step('a step that went well'):
            pass
        report.break_off(KeyError('why'))
        self.assertIsNone(self.data(report)['step'])
        self.assertEqual("FAILED: broken off after 0 s: KeyError: 'why'",
                         report.headline)

    def test_not_the_step_whose_failure_was_dealt_with(self):
        report = self.start('one')
        self.assertRaises(ValueError, self.step_that_fails, report)
        self.break_off(report, KeyError(), step='another')
        self.assertEqual('another', self.data(report)['step'])
        report.break_off(KeyError())
        self.assertEqual('another', self.data(report)['step'])

    def step_that_fails(self, report):
        with report.step('of which the run makes a check'):
            raise ValueError

    def test_the_first_failure_is_the_one_that_counts(self):
        report = self.start('one')
        try:
            try:
                with report.step('outer'), report.step('inner'):
                    raise errors.BlockpathError('the guest hangs')
            finally:
                with report.step('clean-up'):
                    raise errors.BlockpathError('it cannot be deleted')
        except errors.BlockpathError as exc:
            report.break_off(exc)
        self.assertEqual(
            ('inner', 'the guest hangs; then: it cannot be deleted'),
            tuple(self.data(report)[key] for key in ('step', 'error')))

    def test_an_error_in_other_words(self):
        report = self.start('one')
        try:
            try:
                with report.step('inner'):
                    raise KeyError('status')
            except KeyError as exc:
                raise errors.BlockpathError('the cloud refused') from exc
        except errors.BlockpathError as exc:
            report.break_off(exc)
        self.assertEqual(
            ('inner', 'the cloud refused'),
            tuple(self.data(report)[key] for key in ('step', 'error')))

    def test_killed(self):
        report = self.start('one')
        report.check('one', True)
        self.assertEqual('broken off', self.data(report)['ended'])
        self.assertEqual(RED, self.verdict(report)[0])
        self.assertIn('it was killed', report.headline)

    def test_what_failed_before_is_named_and_what_was_not_reached_is_not(self):
        report = self.start('one', 'two', 'three')
        report.check('one', False)
        self.break_off(report, KeyError())
        self.assertEqual(['failed: one'], report.problems)
        self.assertNotIn('three', self.table(report))

    def test_where_to_look(self):
        report = self.start('one')
        report.evidence += [pathlib.Path('/lab/log'),
                            pathlib.Path('/lab/log/guest.log')]
        self.break_off(report, errors.BlockpathError('why'))
        self.assertEqual([
            "FAILED: broken off in step 'the migration' after 0 s: why; "
            '0 of 1 expected checks passed',
            'log: /lab/log', 'log: /lab/log/guest.log',
            f'page: file://{self.temp}/report.html'],
            report.outcome().splitlines())

    def test_a_step_that_fails_is_named_at_once(self):
        report = self.start('one')
        self.break_off(report, KeyError())
        self.assertIn("FAILED in step 'the migration' after",
                      self.out.getvalue())
        self.assertNotIn('the migration (', self.out.getvalue())


class PageTest(ReportTestCase):
    """What a reader sees first, and what is folded."""

    def test_verdict_summary_and_plot_come_first(self):
        report = self.start('one')
        report.check('one', True)
        report.finish()
        report.summary = 'A guest moved. It did not notice.'
        report.plot = '<svg><text>writes</text></svg>'
        self.assertEqual(
            ['verdict', 'summary', 'plot'],
            [element.get('id') for element in self.page(report).xpath(
                '//body/*[not(self::header)]')[:3]])
        [summary] = self.page(report).xpath('//*[@id="summary"]')
        self.assertEqual(report.summary, summary.text)
        self.assertEqual(1, len(self.page(report).xpath('//div/svg/text')))
        self.assertEqual(report.summary, self.data(report)['summary'])

    def folded(self, report: reports.Report) -> list[tuple[str, bool, int]]:
        """Each group of checks: its title, whether it is open, its rows."""
        return [(' '.join(group.xpath('string(summary)').split()),
                 group.get('open') is not None,
                 len(group.xpath('.//tr')))
                for group in self.page(report).xpath('//details')
                if 'expected checks' in group.text_content()]

    def test_checks_are_folded_by_act(self):
        report = self.start('one', 'two', 'three')
        with report.act('the act', ['one', 'two']):
            report.check('one', True)
            report.check('two', True)
        report.check('three', True)
        report.finish()
        self.assertEqual([
            ('ok the act 2 of 2 expected checks passed, 0 s', False, 2),
            ('ok further checks 1 of 1 expected checks passed, 0 s', False,
             1)], self.folded(report))

    def test_what_failed_is_open_and_lists_what_was_not_made(self):
        report = self.start('one', 'two', 'three', 'four')
        with report.act('the act', ['one', 'two']):
            report.check('one', True)
        report.check('three', True)
        report.check('four', True)
        report.finish()
        self.assertEqual([
            ('FAILED the act 1 of 2 expected checks passed, 0 s', True, 2),
            ('ok further checks 2 of 2 expected checks passed, 0 s', False,
             2)], self.folded(report))

    def test_without_acts(self):
        report = self.start('one')
        report.finish()
        self.assertEqual([
            ('FAILED all checks 0 of 1 expected checks passed, 0 s', True, 1)
        ], self.folded(report))

    def test_a_diff_marks_what_differs(self):
        report = self.start('one')
        report.diff('the disk', '<source\n  lun="2"/>',
                    '<source\n  lun="3"/>')
        [pre] = self.page(report).xpath('//pre')
        self.assertEqual('  <source\n-   lun="2"/>\n+   lun="3"/>\n',
                         pre.text_content())
        self.assertEqual(['-   lun="2"/>', '+   lun="3"/>'],
                         [line.text for line in pre.xpath('del | ins')])
        [title] = self.page(report).xpath('//details[pre]/summary')
        self.assertEqual('the disk lines removed: 1, added: 1',
                         title.text_content())

    def test_evidence_of_a_failure(self):
        report = self.start('one')
        report.evidence.append(pathlib.Path('/lab/log'))
        self.assertEqual(['file:///lab/log'],
                         self.page(report).xpath('//a/@href'))
        report.check('one', True)
        report.finish()
        self.assertEqual([], self.page(report).xpath('//a/@href'))

    def test_a_message_is_text(self):
        report = self.start('one')
        self.break_off(report, errors.BlockpathError('<b>x</b>'))
        self.assertIn('<b>x</b>', self.verdict(report)[1])


class FigureTest(ReportTestCase):

    def test_has_its_unit(self):
        report = self.start('one')
        report.figure('longest stall', 12345, 'ms')
        report.figure('another target / the same', 0.96, '')
        self.assertEqual(
            {'longest stall': {'value': 12345, 'unit': 'ms'},
             'another target / the same': {'value': 0.96, 'unit': ''}},
            self.data(report)['figures'])
        rows = [[cell.text_content().strip() for cell in row]
                for row in self.page(report).xpath('//tr')]
        self.assertIn(['longest stall', '12,345 ms'], rows)
        self.assertIn(['another target / the same', '0.96'], rows)


class ActTest(ReportTestCase):

    def acts(self, report: reports.Report) -> list[tuple[str, bool]]:
        return [(act['name'], act['passed'])
                for act in self.data(report)['acts']]

    def test_without_acts_every_check_is_shown(self):
        report = self.start('one', 'two')
        report.check('one', True)
        report.check('two', False)
        self.assertIn('one', self.table(report))
        self.assertIn('two', self.table(report))

    def test_of_an_act_only_what_failed(self):
        report = self.start('first', 'works', 'breaks', 'holds throughout')
        with report.act('the first', ['first']):
            report.check('first', True)
        with report.act('the second', ['works', 'breaks']):
            report.check('works', True)
            report.check('breaks', False)
        report.check('holds throughout', True)
        report.finish()
        table = self.table(report)
        for text in ('1 of 1 expected', '1 of 2 expected', 'breaks',
                     'holds throughout', '3 of 4 expected'):
            self.assertIn(text, table)
        self.assertNotIn('works', table)
        self.assertEqual([('the first', True), ('the second', False)],
                         self.acts(report))

    def test_an_act_that_is_broken_off_has_failed(self):
        def play():
            with report.act('the first', ['works']):
                report.check('works', True)
                raise errors.BlockpathError('the guest hangs')

        report = self.start('works')
        self.assertRaises(errors.BlockpathError, play)
        self.assertEqual([('the first', False)], self.acts(report))
        page = self.page(report).text_content()
        self.assertIn('broken off: the guest hangs; 1 of 1 expected', page)
        self.assertIn('broken off: the guest hangs', self.table(report))

    def test_an_act_that_is_interrupted_has_failed(self):
        def play():
            with report.act('the first', ['works']):
                report.check('works', True)
                raise KeyboardInterrupt

        report = self.start('works')
        self.assertRaises(KeyboardInterrupt, play)
        self.assertEqual([('the first', False)], self.acts(report))

    def test_an_act_that_makes_fewer_checks_has_failed(self):
        report = self.start('one', 'two')
        with report.act('the first', ['one', 'two']):
            report.check('one', True)
        self.assertEqual([('the first', False)], self.acts(report))
