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
"""Run something that is reported, on a lab or without one.

The lab is the one that is up, or one that is started for it.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
import pathlib
import signal
import traceback
import typing

import click

from blockpath.machine import errors
from blockpath.machine import topology

if typing.TYPE_CHECKING:
    from blockpath.cloud import cloud
    from blockpath.console import progress
    from blockpath.console import report as reports

#: A run on a lab.
Play: typing.TypeAlias = 'Callable[[cloud.Lab, reports.Report], None]'
#: A run without a lab.
Work: typing.TypeAlias = 'Callable[[reports.Report], None]'


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
def running(output: 'progress.Display', keep: bool = False
            ) -> 'Iterator[cloud.Lab]':
    """Yield a lab: the one that is up, or one started for the block.

    The calling thread is on the control host in the block.

    :param output: shows how a start goes
    :param keep: leave a lab up that was started for this
    """
    # Not before they are needed: this module also serves --help.
    from blockpath.cloud import cloud
    from blockpath.cloud import lifecycle
    from blockpath.cloud import start
    import openstack.exceptions
    site = topology.Site()
    with lifecycle.playing(site):
        started = start.up(site, output)
        try:
            lab = cloud.Lab(site)
            lab.enter()
            lab.storage.heal()
            yield lab
        except openstack.exceptions.SDKException as exc:
            raise errors.LabError(f'the cloud refused: {exc}') from exc
        finally:
            if started and not keep:
                with lifecycle.locked(site):
                    lifecycle.clear(site)


def perform(play: Play, folder: pathlib.Path, expected: Sequence[str],
            keep: bool = False) -> None:
    """Play on a lab, and report; see :func:`conduct`.

    :param keep: leave a lab up that was started for this
    """
    def work(report: 'reports.Report') -> None:
        report.evidence.append(topology.Site().log)
        with running(report.output, keep) as lab:
            report.versions |= lab.hosts.versions()
            try:
                play(lab, report)
            finally:
                lab.servers.keep_logs()
                report.evidence += sorted(lab.servers.logs)

    conduct(work, folder, expected)


def conduct(work: Work, folder: pathlib.Path, expected: Sequence[str]
            ) -> None:
    """Run something, write its report, and print the verdict.

    Until the end the page shows a run that was broken off.

    :param folder: of the report
    :param expected: names of the checks that must be made
    :raises LabError: it was broken off, a check failed, or others were made
        than those expected
    """
    need_root()
    from blockpath.console import progress
    from blockpath.console import report as reports
    import rich.console
    with interruptible():
        output = progress.report()
        report = reports.Report(output, folder, expected)
        report.write()
        click.echo(f'page: {report.page.absolute().as_uri()}')
        try:
            with output:
                work(report)
            report.finish()
        except BaseException as exc:
            report.break_off(exc)
            if not isinstance(exc, (click.ClickException, KeyboardInterrupt)):
                traceback.print_exception(exc)
        report.write()
        rich.console.Console().print(report.table())
    if report.ended != 'passed':
        raise errors.LabError(report.outcome())
    click.echo(report.outcome())
