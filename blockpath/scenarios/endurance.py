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

Emulators, kernels and multipath are given time to go wrong: the guest must
neither lose a record nor boot again.
"""

import contextlib

import click

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.scenarios import _guest

REST = 10.0
OPTIONS = (
    click.Option(['--moves'], default=20, show_default=True,
                 type=click.IntRange(1), help='Live migrations.'),
    click.Option(['--initiator'], default=_guest.HOST, show_default=True,
                 type=click.Choice([_guest.HOST, _guest.QEMU]),
                 help='By which both hosts reach the volumes.'),
)


def expected(moves: int, initiator: str) -> list[str]:
    return [*(f'move {number}' for number in range(1, moves + 1)),
            *_guest.place_checks('after the last move',
                                 _destination(moves)), *_guest.end_checks()]


def _destination(number: int) -> str:
    return _guest.other(_guest.FIRST) if number % 2 else _guest.FIRST


def run(lab: cloud.Lab, report: reports.Report, moves: int,
        initiator: str) -> None:
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lab.hosts.set_initiators,
                         dict.fromkeys(lab.hosts.names, _guest.HOST))
        lab.hosts.set_initiators(dict.fromkeys(lab.hosts.names, initiator))
        guest = _guest.Guest(lab, report, cleanup, 'endurance', initiator)
        guest.rest(REST)
        try:
            for number in range(1, moves + 1):
                migration, stall = guest.migrate(f'move {number}',
                                                 _destination(number))
                report.check(f'move {number}', migration.completed,
                             f'{migration.seconds:.1f} s, writes stalled '
                             f'{stall.seconds * 1000:.0f} ms')
            guest.check_place('after the last move')
            guest.end()
        finally:
            guest.show()
    guest.check_gone()
