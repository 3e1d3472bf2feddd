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
import itertools

import click.testing
import testtools

from blockpath.bench import cli
from blockpath.bench import copy
from blockpath.bench import copy_claims
from blockpath.bench import copy_plot
from blockpath.bench import copy_tools
from blockpath import errors

GIB = 1 << 30
MIB = 1 << 20


def run(rate: float = 500, cpu: float = 1, memory: int = 50 * MIB,
        allocated: int = GIB) -> copy_claims.Run:
    """One copy of a GiB, at a rate in MiB/s."""
    return copy_claims.Run(1024 / rate, cpu, 2, 0, memory, allocated)


def row(tool: str, *rates: float, case: str = 'random',
        direction: str = 'rbd-file', delay: float = 0, **kwargs
        ) -> copy_claims.Row:
    return copy_claims.row(case, direction, delay, tool,
                           [run(rate, **kwargs) for rate in rates], GIB, GIB)


def held(*rows: copy_claims.Row) -> dict[str, bool]:
    """Of each claim whether it held, by the end of its name."""
    return {claim.name.partition(': ')[2]: claim.held
            for claim in copy_claims.claims(rows)}


class RowTest(testtools.TestCase):

    def test_medians_and_extremes(self):
        found = copy_claims.row(
            'tenth', 'rbd-file', 0, 'series',
            [run(100, cpu=3, memory=MIB), run(400, cpu=1, memory=9 * MIB),
             run(200, cpu=2, memory=MIB)], 100 * MIB, GIB)
        self.assertEqual(
            (200, 100, 400),
            tuple(found[f'mb_s_{key}'] for key in ('median', 'min', 'max')))
        self.assertEqual(2, found['cpu_s_per_gib'])
        # Memory is what it took at worst.
        self.assertEqual(9, found['peak_rss_mib'])
        self.assertEqual(1024, found['allocated_mib'])
        self.assertEqual(100, found['source_allocated_mib'])

    def test_figures_are_of_a_gib_whatever_the_size(self):
        found = copy_claims.row('random', 'rbd-file', 0, 'series',
                                [copy_claims.Run(1, 2, 3, 4, 0, 0)], 0,
                                GIB // 2)
        self.assertEqual(512, found['mb_s_median'])
        self.assertEqual(4, found['cpu_s_per_gib'])
        self.assertEqual(6, found['osd_cpu_s_per_gib'])
        self.assertEqual(8, found['target_cpu_s_per_gib'])


class ClaimsTest(testtools.TestCase):

    def test_cinder_by_case(self):
        for case, direction, delay, limit in (
                ('random', 'rbd-rbd', 0, 1.5),
                ('random', 'rbd-rbd', 2, 2.5),
                ('zeros', 'file-rbd', 0, 2.4),
                ('tenth', 'file-rbd', 0, 8),
                ('tenth', 'rbd-file', 0, 3)):
            def of(tool, rate):
                return row(tool, rate, case=case, direction=direction,
                           delay=delay)

            name = f'at least {limit:g} times as fast as Cinder'
            for rate, expected in ((limit * 100.5, True),
                                   (limit * 99.5, False)):
                found = held(of('cinder', 100), of('series', rate))
                self.assertIs(expected, found[name], f'{case} {direction}')

    def test_no_claim_about_what_cinder_can_not_do(self):
        found = held(row('series', 100, direction='iscsi-rbd'))
        self.assertEqual([], [name for name in found if 'Cinder' in name])

    def test_fastest_peer_round_by_round(self):
        name = 'not clearly slower than the fastest other tool'
        slow = row('qemu-img', 50, 50, 50, 50)
        peer = row('rbd', 100, 200, 100, 100)
        # All took twice as long in the second round: no difference.
        self.assertTrue(held(row('series', 100, 200, 100, 100), slow,
                             peer)[name])
        self.assertFalse(held(row('series', 90, 180, 90, 200), slow,
                              peer)[name])

    def test_half_of_the_rounds_is_noise(self):
        name = 'not clearly slower than the fastest other tool'
        peer = row('rbd', 100, 100, 100, 100, 100)
        self.assertTrue(held(row('series', 90, 95, 98, 101, 110),
                             peer)[name])
        self.assertFalse(held(row('series', 90, 95, 98, 99, 110),
                              peer)[name])

    def test_cinder_is_no_peer(self):
        self.assertEqual(
            [], [name for name in held(row('series', 1), row('cinder', 9))
                 if 'other tool' in name])

    def test_allocation(self):
        name = 'at most 1.05 times what the source allocates'
        for allocated, expected in ((1.04, True), (1.06, False)):
            found = held(row('series', 1, case='tenth',
                             allocated=int(allocated * GIB)))
            self.assertIs(expected, found[name])

    def test_processors_time_of_the_most_frugal(self):
        name = ("processors' time at most 1.1 times the time of the most "
                'frugal other tool')
        peers = row('rbd', 900, cpu=2), row('nbdcopy', 100, cpu=1)
        self.assertTrue(held(row('series', 1, cpu=1.1), *peers)[name])
        self.assertFalse(held(row('series', 1, cpu=1.2), *peers)[name])

    def test_memory_of_the_worst_case(self):
        name = 'memory over idle: at most 128 MiB at the peak'
        found = {claim.name: claim for claim in copy_claims.claims([
            row('series', 1, memory=10 * MIB),
            row('series', 1, memory=200 * MIB, direction='rbd-rbd'),
            row('rbd', 1, memory=900 * MIB)])}
        self.assertFalse(found[name].held)
        self.assertEqual('200 MiB (rbd-rbd random)', found[name].figure)


class CeilingTest(testtools.TestCase):

    rows = [copy_claims.ceiling_row(0, 'read', [900, 1200, 1500]),
            copy_claims.ceiling_row(0, 'write', [600]),
            copy_claims.ceiling_row(2, 'read', [10])]

    def test_by_what_the_cluster_does(self):
        for direction, expected in (('rbd-file', 1200), ('iscsi-rbd', 600),
                                    ('rbd-rbd', 400)):
            top = copy_claims.ceiling(self.rows, direction, 0) or 0
            self.assertEqual(expected, round(top))

    def test_not_measured(self):
        self.assertIsNone(copy_claims.ceiling(self.rows, 'rbd-rbd', 2))

    def test_stands_beside_the_claim(self):
        rows = [*self.rows, row('series', 600), row('rbd', 500)]
        [claim] = [claim for claim in copy_claims.claims(rows)
                   if 'slower than' in claim.name]
        self.assertIn('MiB/s with rbd;', claim.figure)
        self.assertIn("0.50 of rados bench's 1200", claim.figure)


class CasesTest(testtools.TestCase):

    def test_delay_only_where_all_is_moved(self):
        names = [case.name for case in copy.cases()]
        self.assertIn('rbd-rbd/random/2', names)
        self.assertNotIn('rbd-rbd/zeros/2', names)
        # A change of the delay takes time.
        delays = [case.delay_ms for case in copy.cases()]
        self.assertEqual(sorted(delays), delays)

    def test_only(self):
        self.assertEqual(
            ['rbd-file/random/0', 'rbd-file/tenth/0', 'rbd-file/zeros/0',
             'rbd-file/random/2'],
            [case.name for case in copy.cases(['rbd-file'])])
        self.assertEqual(
            ['rbd-file/tenth/0', 'rbd-file/random/2', 'file-rbd/random/2',
             'iscsi-rbd/random/2', 'rbd-iscsi/random/2', 'rbd-rbd/random/2'],
            [case.name for case in copy.cases(['rbd-file/tenth',
                                               '*/random/2'])])

    def test_unknown(self):
        error = self.assertRaises(errors.BlockpathError, copy.cases,
                                  ['rbd-tape'])
        self.assertIn('rbd-file/random/0', str(error))


class ExpectedTest(testtools.TestCase):

    def test_names_are_those_of_the_claims(self):
        names = copy.expected(copy.cases(), copy_tools.TOOLS)
        rows = [row(tool, 100, case=case.fill, direction=case.direction,
                    delay=case.delay_ms)
                for case in copy.cases() for tool in copy_tools.TOOLS
                if copy_tools.can_copy(tool, case.direction)]
        self.assertEqual([claim.name for claim in copy_claims.claims(rows)],
                         names[len(rows):])
        self.assertEqual(len(set(names)), len(names))
        self.assertIn('rbd-file/random/2: nbdcopy made a true copy', names)

    def test_a_tool_is_held_to_what_it_can_do(self):
        names = copy.expected(copy.cases(['iscsi-rbd/zeros']),
                              copy_tools.TOOLS)
        self.assertEqual(
            ['iscsi-rbd/zeros/0: series made a true copy',
             'iscsi-rbd/zeros/0: qemu-img made a true copy',
             'iscsi-rbd/zeros/0: nbdcopy made a true copy',
             "iscsi-rbd zeros: processors' time at most 1.1 times the time "
             'of the most frugal other tool',
             'memory over idle: at most 128 MiB at the peak'], names)


class OrderTest(testtools.TestCase):

    def test_all_take_part_and_each_follows_each(self):
        pairs = set()
        for case in copy.cases():
            for number in range(1, 6):
                order = copy.order(copy_tools.TOOLS, case, number)
                self.assertCountEqual(copy_tools.TOOLS, order)
                pairs |= set(itertools.pairwise(order))
        self.assertEqual(len(copy_tools.TOOLS) * (len(copy_tools.TOOLS) - 1),
                         len(pairs))
        self.assertEqual(order, copy.order(copy_tools.TOOLS, case, number))


class ShownTest(testtools.TestCase):

    rows = [copy_claims.ceiling_row(0, 'read', [900]),
            row('series', 500, 600), row('cinder', 300, 400),
            row('series', 5000, case='tenth', direction='rbd-iscsi')]

    def test_table(self):
        self.assertEqual(4, copy.table(self.rows).row_count)

    def test_plot(self):
        drawn = copy_plot.rates(self.rows)
        self.assertIn('<svg', drawn)
        for tool in copy_tools.TOOLS[:2]:
            self.assertIn(f'<!-- {tool} -->', drawn)
        self.assertIn('<!-- 10% full -->', drawn)

    def test_help(self):
        result = click.testing.CliRunner().invoke(cli.group,
                                                  ['copy', '--help'])
        self.assertEqual(0, result.exit_code)
        for tool in copy_tools.TOOLS:
            self.assertIn(tool, result.output)
