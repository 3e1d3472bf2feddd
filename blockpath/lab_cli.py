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

import functools
import os
import shutil
import sys

import click

from blockpath.cloud import logs as lab_logs
from blockpath.cloud import session
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath import paths

# Heavy modules are imported by the commands that need them.


@click.group('lab', short_help='A cloud on this machine.')
def group() -> None:
    """A cloud on this machine: two compute hosts, one storage host.

    These have kernels of their own, user-mode Linux; the rest is in network
    namespaces. The lab needs root.
    """


@group.command()
def up() -> None:
    """Start the lab; return when it serves.

    What a killed lab left behind is cleared first.
    """
    from blockpath.cloud import start
    from blockpath.console import progress
    session.need_root()
    with session.interruptible(), progress.report() as report:
        started = start.up(topology.Site(), report)
        report.say('the lab is up' if started else 'the lab was up already')


@group.command()
def down() -> None:
    """Stop the lab and remove all of it but the logs in .lab/log."""
    from blockpath.cloud import lifecycle
    session.need_root()
    site = topology.Site()
    with lifecycle.locked(site):
        lifecycle.clear(site)
    click.echo('the lab is down')


@group.command()
def status() -> None:
    """Show what runs; exit code 1 unless all does."""
    from blockpath.cloud import lifecycle
    from blockpath.cloud import status as lines
    import rich.box
    import rich.console
    import rich.table
    session.need_root()
    site = topology.Site()
    found = lifecycle.find(site)
    if found is not lifecycle.State.UP:
        raise errors.LabError({
            lifecycle.State.DOWN: 'the lab is down',
            lifecycle.State.REMAINS: 'the lab is being started or stopped, or '
                                 'was killed; the next up clears it',
        }[found])
    table = rich.table.Table('service', 'host', 'MiB', 'state',
                             box=rich.box.SIMPLE)
    services, total = lines.collect(site)
    for line in services:
        memory = '' if line.memory is None else str(line.memory)
        table.add_row(line.name, line.host, memory,
                      'runs' if line.alive else 'DEAD')
    rich.console.Console().print(table)
    click.echo(f'{total} MiB in all')
    for line in services:
        if line.running:
            line.running.check()


def _show(log: lab_logs.Log, follow: bool) -> None:
    """Print a log; with `follow`, this does not return."""
    if follow:
        os.execvp('tail', ['tail', '--lines=+1', '--follow=name', '--retry',
                           '--', str(log.path)])
    with open(log.path, 'rb') as file:
        shutil.copyfileobj(file, sys.stdout.buffer)


_follow = click.option('-f', '--follow', is_flag=True,
                       help='Go on printing as the log grows.')


@group.command()
@click.argument('name', required=False)
@_follow
def logs(name: str | None, follow: bool) -> None:
    """List the logs of the lab, or of the last one; with NAME, print it.

    Services and the kernels of hosts have logs, guests and their QEMUs too.
    """
    session.need_root()
    site = topology.Site()
    if name:
        _show(lab_logs.get(site, name), follow)
        return
    if follow:
        raise click.UsageError('--follow needs the name of a log')
    found = lab_logs.find(site)
    if not found:
        raise errors.LabError('there are no logs; no lab was started yet')
    names = lab_logs.servers(site)
    for log in found:
        kib = -(-log.path.stat().st_size // 1024)
        server = names.get(log.server, '')
        click.echo(f'{log.kind:7} {kib:8} KiB  {log.name}  {server}'.rstrip())


@group.command()
@click.argument('name', metavar='HOST_OR_SERVER')
@_follow
def console(name: str, follow: bool) -> None:
    """Print the console of a host's kernel, or of a server's guest.

    A server goes by its name or its id, also after the lab has stopped.
    """
    session.need_root()
    _show(lab_logs.console(topology.Site(), name), follow)


@group.command()
@click.argument('service')
def restart(service: str) -> None:
    """Stop one service and start it again; 'status' names them."""
    from blockpath.cloud import cloud
    session.need_root()
    cloud.Lab().hosts.restart(service)
    click.echo(f'{service} serves again')


@group.command()
@click.argument('service')
def kill(service: str) -> None:
    """Kill one service with no warning; 'restart' starts it again."""
    from blockpath.cloud import cloud
    session.need_root()
    killed = cloud.Lab().hosts.kill(service)
    click.echo(f'{service} was killed' if killed else
               f'{service} did not run')


@group.command(context_settings={'ignore_unknown_options': True},
               add_help_option=False)
@click.argument('arguments', nargs=-1, type=click.UNPROCESSED)
def openstack(arguments: tuple[str, ...]) -> None:
    """Run the openstack command on the lab, as administrator."""
    from blockpath.machine import namespaces
    session.need_root()
    site = topology.Site()
    namespaces.enter(site.netns(topology.CONTROL.name))
    os.environ.update(
        OS_CLOUD='lab',
        OS_CLIENT_CONFIG_FILE=str(site.etc / 'control' / 'clouds.yaml'))
    os.execv(site.bin('openstack'), ['openstack', *arguments])


@group.command()
@click.option('-r', '--regex', metavar='REGEX',
              help='Run the tests that it is found in, whichever they are.')
@click.option('--initiator', default='host', show_default=True,
              type=click.Choice(['host', 'qemu']),
              help='By which both compute hosts reach the volumes.')
@click.option('--keep', is_flag=True,
              help='Leave a lab up that was started for this.')
def tempest(regex: str | None, initiator: str, keep: bool) -> None:
    """Run tempest on the lab; exit code 1 when a test fails.

    Without -r that is what blockpath/tempest/include.txt lists, less
    exclude.txt. A test that is skipped for a reason that is not in
    skipped.txt counts as failed. Its virtual environment is made first, if
    need be. A lab is started for it, and stopped afterwards, unless one is
    up.
    """
    session.need_root()
    from blockpath.console import progress
    from blockpath.tempest import environment
    from blockpath.tempest import prepare
    from blockpath.tempest import runner
    if not environment.made():
        click.echo('installing tempest, in half a minute ...')
        environment.make()
    with (session.interruptible(), progress.report() as output,
          session.running(output, keep) as lab):
        output.say('preparing the lab for tempest')
        folder = prepare.prepare(lab, output.say)
        with prepare.configured(lab, initiator):
            runner.perform(lab, folder, regex)


class Scenarios(click.Group):
    """A command a scenario, imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from blockpath import scenarios
        return scenarios.names()

    def get_command(self, ctx: click.Context,
                    cmd_name: str) -> click.Command | None:
        from blockpath import scenarios
        if cmd_name not in scenarios.names():
            return None
        module = scenarios.load(cmd_name)
        return click.Command(
            cmd_name, help=module.__doc__,
            params=list(getattr(module, 'OPTIONS', ())),
            callback=lambda **options: session.perform(
                functools.partial(module.run, **options),
                paths.BUILD / cmd_name, module.expected(**options),
                ctx.params['keep']))

    def format_commands(self, ctx: click.Context,
                        formatter: click.HelpFormatter) -> None:
        from blockpath import scenarios
        with formatter.section('Scenarios'):
            formatter.write_dl([(name, scenarios.summary(name))
                                for name in scenarios.names()])


@group.command(cls=Scenarios, subcommand_metavar='SCENARIO [OPTIONS]')
@click.option('--keep', is_flag=True,
              help='Leave a lab up that was started for this.')
def run(keep: bool) -> None:
    """Run a scenario; exit code 1 unless each of its checks passes.

    A lab is started for it, and stopped afterwards, unless one is up.
    """
