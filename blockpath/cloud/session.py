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
"""Run something on a lab that is started for it, or on the one that is up."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import typing

import click

from blockpath.machine import errors
from blockpath.machine import topology

if typing.TYPE_CHECKING:
    from blockpath.cloud import cloud
    from blockpath.console import progress
    from blockpath.console import report as reports

#: What is played: it takes the lab and the report.
Play: typing.TypeAlias = 'Callable[[cloud.Lab, reports.Report], None]'


def need_root() -> None:
    """:raises LabError: this is not root."""
    if os.geteuid():
        raise errors.LabError('the lab needs root; run this with sudo')


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Take a request to end as Ctrl-C, and say one line of either."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise errors.LabError('interrupted') from None


@contextlib.contextmanager
def running(keep: bool = False
            ) -> 'Iterator[tuple[cloud.Lab, progress.Display]]':
    """A lab: the one that is up, or one that is started for the block.

    This thread is on the control host then.

    :param keep: leave a lab up that was started for this
    """
    need_root()
    # Not before they are needed: this module also serves --help.
    from blockpath.cloud import cloud
    from blockpath.cloud import lifecycle
    from blockpath.cloud import start
    from blockpath.console import progress
    import openstack.exceptions
    site = topology.Site()
    with interruptible(), progress.report() as output:
        started = start.up(site, output)
        try:
            lab = cloud.Lab(site)
            lab.enter()
            lab.storage.heal()
            yield lab, output
        except openstack.exceptions.SDKException as exc:
            raise errors.LabError(f'the cloud refused: {exc}') from exc
        finally:
            if started and not keep:
                with lifecycle.locked(site):
                    lifecycle.clear(site)


def perform(play: Play, folder: pathlib.Path, keep: bool = False) -> None:
    """Play, with a report in `folder`, and show what came of it.

    :param keep: leave a lab up that was started for this
    :raises LabError: naming the checks that failed
    """
    from blockpath.console import report as reports
    import rich.console
    with running(keep) as (lab, output):
        report = reports.Report(output, folder)
        try:
            play(lab, report)
        finally:
            page = report.write()
    rich.console.Console().print(report.table())
    click.echo(f'{page} shows it')
    if report.failed:
        raise errors.LabError(f'{len(report.failed)} of '
                              f'{len(report.checks)} checks failed: '
                              f'{"; ".join(report.failed)}')
    click.echo(f'all {len(report.checks)} checks passed')
