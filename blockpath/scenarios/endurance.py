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
"""Move a writing guest back and forth, as often as wanted.

Emulators and initiators are given time to go wrong: the guest must neither
lose a record nor boot again.
"""

import contextlib

import click

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.scenarios import demo

OPTIONS = (
    click.Option(['--moves'], default=20, show_default=True,
                 type=click.IntRange(1), help='Live migrations.'),
)


def plan(moves: int) -> list[demo.Attempt]:
    """Return that many moves, there and back."""
    return [demo.Attempt(f'move {number}', 'cmp2' if number % 2 else 'cmp1')
            for number in range(1, moves + 1)]


def _check_name(move: demo.Attempt) -> str:
    return f'{move.title}: the guest moves to {move.destination}'


def expected(moves: int) -> list[str]:
    return [*demo.place_checks(demo.BEFORE, demo.FIRST),
            *map(_check_name, plan(moves)), *demo.END]


def run(lab: cloud.Lab, report: reports.Report, moves: int) -> None:
    with contextlib.ExitStack() as cleanup:
        act = demo.Act(lab, report, cleanup)
        act.rest()
        try:
            for move in plan(moves):
                migration, stall = act.attempt(move)
                report.check(_check_name(move), migration.completed,
                             f'{migration.seconds:.1f} s, writes stalled '
                             f'{stall.seconds * 1000:.0f} ms')
                if migration.completed:
                    act.host = move.destination
            act.end()
        finally:
            act.show()
        act.detach()
    demo.check_nothing_left(lab, report, act)
