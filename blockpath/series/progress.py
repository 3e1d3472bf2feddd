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
"""What is told while something takes long: live on a terminal, else lines."""

from collections.abc import Iterator
import contextlib

import click
import rich.console
import rich.markup


def say(text: str) -> None:
    """One line of outcome on standard output."""
    click.echo(text)


def note(text: str) -> None:
    """One line that is no outcome, on standard error."""
    click.echo(text, err=True)


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something goes on: a spinner, or the line itself."""
    console = rich.console.Console(stderr=True)
    if console.is_terminal:
        with console.status(rich.markup.escape(text)):
            yield
    else:
        note(f'{text} ...')
        yield
