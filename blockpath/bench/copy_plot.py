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
"""A plot of how fast the tools copied."""

from collections.abc import Sequence

import matplotlib.axes
import matplotlib.figure

from blockpath.bench import copy_claims
from blockpath.bench import copy_site
from blockpath.bench import copy_tools
from blockpath.console import report

_COLOURS = dict(zip(copy_tools.TOOLS, ('#1f5fa8', '#b3261e', '#8a8a8a',
                                       '#b5b5b5', '#d8d8d8')))
_WIDTH = 0.16


def rates(rows: Sequence[copy_claims.Row]) -> str:
    """Medians of each tool in each direction, whiskers from min to max.

    :returns: SVG
    """
    found = {(row['case'], row['delay_ms']): None for row in rows
             if row['tool'] in copy_tools.TOOLS}
    figure = matplotlib.figure.Figure(figsize=(9, 2.6 * len(found)), dpi=110)
    grid = figure.subplots(len(found), 1, squeeze=False).flat
    for axes, (case, delay_ms) in zip(grid, found):
        _case(axes, rows, case, delay_ms)
        title = copy_site.FILLS[case] + (
            f', {delay_ms:g} ms of delay' if delay_ms else '')
        axes.set_title(title, fontsize=9, loc='left')
    figure.axes[0].legend(fontsize=7, ncols=3)
    figure.tight_layout()
    return report.svg(figure)


def _case(axes: matplotlib.axes.Axes, rows: Sequence[copy_claims.Row],
          case: str, delay_ms: float) -> None:
    here = [row for row in rows if row['case'] == case and
            row['delay_ms'] == delay_ms and row['tool'] in copy_tools.TOOLS]
    directions = list(dict.fromkeys(row['direction'] for row in here))
    for number, tool in enumerate(copy_tools.TOOLS):
        bars = [(directions.index(row['direction']) + _WIDTH * (number - 2),
                 row) for row in here if row['tool'] == tool]
        if not bars:
            continue
        heights = [row['mb_s_median'] for _, row in bars]
        axes.bar([at for at, _ in bars], heights, _WIDTH * 0.9, label=tool,
                 color=_COLOURS[tool], ecolor='#333333', capsize=2, yerr=(
                     [row['mb_s_median'] - row['mb_s_min']
                      for _, row in bars],
                     [row['mb_s_max'] - row['mb_s_median']
                      for _, row in bars]))
    if case == 'random':
        _ceilings(axes, rows, directions, delay_ms)
    axes.set_xticks(range(len(directions)),
                    [name.replace('-', ' → ') for name in directions])
    axes.set_xlim(-0.6, len(directions) - 0.4)
    axes.set_ylabel('MiB/s', fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(True, axis='y', linewidth=0.3)


def _ceilings(axes: matplotlib.axes.Axes, rows: Sequence[copy_claims.Row],
              directions: Sequence[str], delay_ms: float) -> None:
    label = 'rados bench'
    for at, direction in enumerate(directions):
        top = copy_claims.ceiling(rows, direction, delay_ms)
        if top:
            axes.hlines(top, at - 0.45, at + 0.45, color='#187a2f',
                        linewidth=1, linestyle='--', label=label)
            label = '_no_more'
