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
"""Rows of measurements."""

from collections.abc import Iterable
import statistics
from typing import Any

import rich.box
import rich.table

#: What was measured of a case with a tool: ``median``, ``min`` and ``max``.
Row = dict[str, Any]


def row(case: str, tool: str, values: Iterable[float], unit: str) -> Row:
    """What is shown of several measurements."""
    kept = sorted(values)
    return {'case': case, 'tool': tool, 'unit': unit, 'runs': len(kept),
            'median': round(statistics.median(kept), 2),
            'min': round(kept[0], 2), 'max': round(kept[-1], 2)}


def table(rows: Iterable[Row]) -> rich.table.Table:
    """The rows for a terminal."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    names = ('case', 'tool', 'median', 'min', 'max', 'unit', 'runs')
    for name in names:
        shown.add_column(name, justify='left' if name in (
            'case', 'tool', 'unit') else 'right')
    for each in rows:
        shown.add_row(*(str(each[name]) for name in names))
    return shown
