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
"""``blockpath lab``."""

import os
import signal

import click

from blockpath.lab import layout


@click.group(short_help='A cloud on this machine.')
def group() -> None:
    """A cloud on this machine: two compute hosts, one storage host.

    Everything runs in namespaces of its own and needs root.
    """
    if os.geteuid():
        raise click.ClickException('the lab needs root; run it with sudo')


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@group.command()
def up() -> None:
    """Start the lab; return when it serves."""
    from blockpath.lab import progress
    from blockpath.lab import start
    signal.signal(signal.SIGTERM, _interrupt)
    with progress.report() as report:
        started = start.up(layout.Site(), report)
        report.say('the lab is up' if started else 'the lab was up already')


@group.command()
def down() -> None:
    """Stop the lab and remove all of it but the logs in .lab/log."""
    from blockpath.lab import state
    site = layout.Site()
    with state.locked(site):
        state.clear(site)
    click.echo('the lab is down')


@group.command(context_settings={'ignore_unknown_options': True},
               add_help_option=False)
@click.argument('arguments', nargs=-1, type=click.UNPROCESSED)
def openstack(arguments: tuple[str, ...]) -> None:
    """Run the openstack command against the lab, as administrator."""
    from blockpath.lab import namespaces
    site = layout.Site()
    namespaces.enter(site.netns(layout.CONTROL.name))
    os.environ.update(
        OS_CLOUD='lab',
        OS_CLIENT_CONFIG_FILE=str(site.etc / 'control' / 'clouds.yaml'))
    os.execv(site.bin('openstack'), ['openstack', *arguments])
