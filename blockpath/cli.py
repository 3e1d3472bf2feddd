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
"""The ``blockpath`` command."""

import importlib

import click

#: Group -> module holding a click group named ``group``. Imported on use, so
#: that ``blockpath series`` works before the cloud's packages are installed.
GROUPS = {
    'series': ('blockpath.series.cli', 'Fetch, apply, export, check.'),
    'lab': ('blockpath.lab_cli', 'A cloud on this machine.'),
    'bench': ('blockpath.bench.cli', 'Measurements and their plots.'),
}


class LazyGroups(click.Group):
    """A click group whose subcommands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context,
                    name: str) -> click.Command | None:
        if name not in GROUPS:
            return None
        return importlib.import_module(GROUPS[name][0]).group

    def format_commands(self, ctx: click.Context,
                        formatter: click.HelpFormatter) -> None:
        with formatter.section('Commands'):
            formatter.write_dl([(name, text)
                                for name, (_, text) in GROUPS.items()])


@click.command(cls=LazyGroups,
               context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(package_name='blockpath')
def main() -> None:
    """A patch series for Nova, Cinder and os-brick: apply it, try it.

    The series makes the path from a guest to its volumes movable while the
    guest runs.
    """
