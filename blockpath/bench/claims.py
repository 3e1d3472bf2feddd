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
"""A measurement from its start to what is said of it."""

from collections.abc import Callable
import pathlib

import click
import rich.console

from blockpath import errors
from blockpath.lab import progress
from blockpath.lab import stage
from blockpath import report as reports


def perform(folder: pathlib.Path,
            measure: Callable[[reports.Report], None]) -> None:
    """Measure, write a page, and say which claims held.

    :param folder: of the page
    :raises BlockpathError: a claim did not hold
    """
    stage.need_root()
    with stage.interruptible(), progress.report() as output:
        report = reports.Report(output, folder)
        try:
            measure(report)
        finally:
            page = report.write()
    rich.console.Console().print(report.table())
    click.echo(f'{page} shows it')
    if report.failed:
        raise errors.BlockpathError(
            f'{len(report.failed)} of {len(report.checks)} claims did not '
            f'hold: {"; ".join(report.failed)}')
    click.echo(f'all {len(report.checks)} claims held')
