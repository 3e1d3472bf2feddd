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
"""Plots of what a scenario saw, for its page."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import statistics

import matplotlib.axes
import matplotlib.figure

from blockpath.console import report
from blockpath.observe import copy_follower
from blockpath.observe import write_watcher

#: Seconds shown before and after a move.
_MARGIN = 3.0
#: Seconds over which a copy's rate is averaged: what is written arrives in
#: blocks of 4 MiB.
_WINDOW = 1.0
#: Seconds over which writes are counted.
_BIN = 0.25
_MIB = 1 << 20

#: A move: its title, begin and end, in seconds of ``time.monotonic()``.
Span = tuple[str, float, float]


def rates(times: Iterable[float], begin: float, end: float
          ) -> tuple[list[float], list[float]]:
    """Count the arrivals in intervals of :data:`_BIN` seconds.

    What does not fill an interval at the end is left out.

    :param times: of arrivals, in order
    :returns: the edges of the intervals, and in each of these the arrivals a
        second
    """
    intervals = int((end - begin) / _BIN)
    counts = [0] * intervals
    for at in times:
        if 0 <= (number := int((at - begin) // _BIN)) < intervals:
            counts[number] += 1
    return ([begin + number * _BIN for number in range(intervals + 1)],
            [count / _BIN for count in counts])


def rate(watcher: write_watcher.BaseWatcher, spans: Sequence[Span], rest: float
         ) -> str:
    """Plot the writes per second over the whole time, the moves marked.

    :param rest: the longest stall at rest, in seconds
    :returns: SVG
    """
    times = [at for at, _ in watcher.series()]
    ends = [ended for _, _, ended in spans]
    begin = min(times[:1] + [began for _, began, _ in spans])
    edges, values = rates(times, begin, max(times[-1:] + ends))
    figure = matplotlib.figure.Figure(figsize=(11, 3.6), dpi=110)
    axes = figure.subplots()
    axes.stairs(values, [edge - begin for edge in edges], baseline=None,
                color='#1f5fa8', linewidth=0.7)
    for title, began, ended in spans:
        axes.axvspan(began - begin, ended - begin, facecolor='#fbe3c0',
                     edgecolor='white', zorder=0)
        longest = watcher.longest_stall(began, ended).seconds
        axes.annotate(
            f'{title}: {_duration(longest)}',
            ((began + ended) / 2 - begin, 1.02), fontsize=8, rotation=50,
            xycoords=axes.get_xaxis_transform(), rotation_mode='anchor')
    axes.set_ylim(0, 1.15 * max([1.0, *values]))
    axes.set_xlim(0, edges[-1] - begin)
    axes.grid(True, axis='y', linewidth=0.3)
    axes.set_xlabel('s; above, each move with its longest stall, which is '
                    f'{_duration(rest)} at rest', fontsize=8)
    axes.set_ylabel('writes per second', fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    return report.svg(figure)


def _duration(seconds: float) -> str:
    return (f'{seconds:.0f} s' if seconds >= 10
            else f'{seconds * 1000:.0f} ms')


def moves(watcher: write_watcher.BaseWatcher, spans: Sequence[Span]) -> str:
    """Plot the time between arrivals around each move, on one scale.

    :returns: SVG
    """
    rows = (len(spans) + 1) // 2
    figure = matplotlib.figure.Figure(figsize=(11, 2.3 * rows), dpi=110)
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False).flat
    for axes, span in itertools.zip_longest(grid, spans):
        if not span:
            axes.set_axis_off()
            continue
        title, began, ended = span
        _move(axes, watcher, began, ended)
        longest = watcher.longest_stall(began, ended)
        axes.set_title(f'{title}: {_duration(longest.seconds)} at most',
                       fontsize=9, loc='left')
    figure.tight_layout()
    return report.svg(figure)


def _move(axes: matplotlib.axes.Axes, watcher: write_watcher.BaseWatcher,
          began: float, ended: float) -> None:
    points = watcher.series(began - _MARGIN, ended)
    # Thousands of dots: as an image they are a tenth of the size.
    axes.plot([at - began for at, _ in points],
              [gap * 1000 for _, gap in points], '.', markersize=2.5,
              color='#1f5fa8', alpha=0.6, rasterized=True)
    longest = watcher.longest_stall(began, ended)
    axes.plot([longest.at + longest.seconds - began],
              [longest.seconds * 1000], 'o', markersize=5,
              markerfacecolor='none', color='#b3261e')
    axes.axvline(0, color='#999999', linewidth=0.8)
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    axes.grid(True, axis='y', linewidth=0.3)
    axes.tick_params(labelsize=8)
    axes.set_ylabel('ms', fontsize=8)
    axes.set_xlabel('s since the request', fontsize=8)


def courses(shown: Sequence[copy_follower.Course]) -> str:
    """How much of each copy was there, above its rate, on one scale.

    :returns: SVG
    """
    figure = matplotlib.figure.Figure(figsize=(11, 5), dpi=110)
    rows = figure.subplots(2, len(shown), sharex='col', sharey='row',
                           squeeze=False)
    for column, course in enumerate(shown):
        stored, rate = rows[0][column], rows[1][column]
        stored.set_title(course.title, fontsize=9, loc='left')
        _course(stored, course, course.samples, [
            (at, there) for at, there, _ in course.told])
        _course(rate, course, copy_follower.rates(course.samples, _WINDOW), [
            (at, average) for at, _, average in course.told])
        rate.set_xlabel('s since the request', fontsize=8)
        for at, text in course.marks:
            stored.text(at - course.began, 1, f'{text} ', fontsize=7,
                        color='#b3261e', rotation=90, ha='right', va='top',
                        transform=stored.get_xaxis_transform())
    rows[0][0].set_ylabel('MiB there', fontsize=8)
    rows[1][0].set_ylabel('MiB/s', fontsize=8)
    rows[1][0].set_ylim(bottom=0)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.legend(*rows[0][0].get_legend_handles_labels(), fontsize=8,
                  loc='upper right', ncols=2, frameon=False)
    return report.svg(figure)


def _course(axes: matplotlib.axes.Axes, course: copy_follower.Course,
            seen: Sequence[tuple[float, float]],
            told: Sequence[tuple[float, float]]) -> None:
    for points, style, color, label in (
            (seen, '-', '#1f5fa8', 'seen at the backend'),
            (told, 'o', '#d98200', 'told by Cinder')):
        axes.plot([at - course.began for at, _ in points],
                  [value / _MIB for _, value in points], style, color=color,
                  linewidth=1.2, markersize=4, label=label)
    for at, _ in course.marks:
        axes.axvline(at - course.began, color='#b3261e', linewidth=0.8)
    axes.grid(True, axis='y', linewidth=0.3)
    axes.tick_params(labelsize=8)


def columns(groups: Mapping[str, Sequence[float]], unit: str) -> str:
    """Single values side by side, the median of each group as a line.

    :returns: SVG
    """
    figure = matplotlib.figure.Figure(figsize=(6, 3), dpi=110)
    axes = figure.subplots()
    for at, values in enumerate(groups.values()):
        axes.plot([at] * len(values), values, 'o', color='#1f5fa8',
                  alpha=0.6, markersize=5)
        axes.hlines(statistics.median(values), at - 0.2, at + 0.2,
                    color='#b3261e')
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.grid(True, axis='y', linewidth=0.3)
    return report.svg(figure)
