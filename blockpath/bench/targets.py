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
"""Attaching by a target for each host: does it take longer with many?

Cinder's manager and LVM driver with a real tgtd, volumes that are files in
memory, and a database that is a file.
"""

import rich.console

from blockpath.bench import claims
from blockpath.console import report as reports
from blockpath.daemons.standalone_cinder import client
from blockpath.daemons.standalone_cinder import daemon

HOSTS = ('iqn.1994-05.com.example:left', 'iqn.1994-05.com.example:right')
#: How many attachments about one count for it.
AROUND = 5
#: How much longer the last may take than the tenth.
RATIO = 1.5
FIRST = 10


def expected(volumes: int) -> list[str]:
    """Name the checks of a run with these options."""
    return [f'volume {volumes} takes at most {RATIO} times as long as volume '
            f'{FIRST}']


def run(report: reports.Report, volumes: int) -> None:
    seconds = []
    with daemon.Tgtd() as tgtd, client.Service(tgtd) as service:
        with report.step(f'{volumes} volumes attached to two hosts'):
            for _ in range(volumes):
                volume = service.call('create')
                seconds.append([service.attach(volume, host)[1]['seconds']
                                for host in HOSTS])
    rows = []
    for number in sorted({FIRST, volumes // 2, volumes}):
        near = seconds[max(0, number - AROUND):number + AROUND]
        rows.append(claims.row(f'attach volume {number}', 'series',
                               [1000 * each for pair in near
                                for each in pair], 'ms'))
    ratio = rows[-1]['median'] / rows[0]['median']
    report.check(f'volume {volumes} takes at most {RATIO} times as long as '
                 f'volume {FIRST}', ratio <= RATIO, f'{ratio:.2f} times')
    path = report.folder.with_suffix('.json')
    reports.write_rows(path, rows)
    rich.console.Console().print(claims.table(rows))
    report.say(f'{path} has the rows')
