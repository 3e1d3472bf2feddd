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
from typing import Any
from typing import NamedTuple

import click

from blockpath import errors


class Entry(NamedTuple):
    """A group of commands.

    ``extra`` is the extra of the package that its commands need. Of the
    series' commands only ``check --each`` needs one.
    """

    module: str
    extra: str
    text: str


#: Group -> its entry; the module holds a click group named ``group``. Imported
#: on use, so that ``blockpath series`` works without the lab's packages.
GROUPS = {
    'series': Entry('blockpath.series.cli', 'test',
                    'Fetch, apply, export, check.'),
    'lab': Entry('blockpath.lab_cli', 'lab', 'A cloud on this machine.'),
    'bench': Entry('blockpath.bench.cli', 'bench',
                   'Measurements and their plots.'),
}


class LazyGroups(click.Group):
    """A click group whose subcommands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context,
                    name: str) -> click.Command | None:
        if name not in GROUPS:
            return None
        entry = ctx.obj = GROUPS[name]
        return importlib.import_module(entry.module).group

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; name the extra to install where a module lacks."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as exc:
            if str(exc.name).partition('.')[0] == 'blockpath':
                raise
            raise errors.BlockpathError(
                f"{exc.name} is not installed; run: pip install "
                f"'blockpath[{ctx.obj.extra}]'")

    def format_commands(self, ctx: click.Context,
                        formatter: click.HelpFormatter) -> None:
        with formatter.section('Commands'):
            formatter.write_dl([(name, entry.text)
                                for name, entry in GROUPS.items()])


@click.command(cls=LazyGroups,
               context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(package_name='blockpath')
def main() -> None:
    """A patch series for Nova, Cinder and os-brick: apply it, try it.

    The series makes the path from a guest to its volumes movable while the
    guest runs.
    """
