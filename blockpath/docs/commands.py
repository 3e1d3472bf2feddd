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
"""Whether a command line that the docs show says what the command knows."""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import re
import shlex

import click

from blockpath import cli
from blockpath.docs import clients
from blockpath import paths

#: What may stand before the command that counts.
_PROMPT = re.compile(r'(?:[$#]|sudo|[A-Z_]+=\S*)')
#: A usage has these, and is no command line.
_USAGE = re.compile(r'\[[A-Z]+\](?:\.{3})?|\.{3}')


def problems(text: str, whole: bool = True) -> list[str]:
    """What is wrong with the lines that call what is known here.

    :param whole: whether arguments that a command needs must be there, as in
        a sample; a mention in a sentence may leave them out
    """
    return [f'{" ".join(words)}: {problem}' for words in known(text)
            if (problem := _problem(words, whole))]


def known(text: str) -> Iterator[list[str]]:
    """The words of each line that calls us, or a client of OpenStack's."""
    for line in text.replace('\\\n', ' ').splitlines():
        try:
            # Unlike shlex, a shell takes a#b for a word.
            words = shlex.split(re.sub(r'\s#.*', '', line.strip()))
        except ValueError:
            # An apostrophe, in what a command prints.
            continue
        while words and _PROMPT.fullmatch(words[0]):
            del words[0]
        if words and pathlib.PurePath(words[0]).name in _COMMANDS and (
                not any(map(_USAGE.fullmatch, words))):
            yield words


def _problem(words: list[str], whole: bool) -> str | None:
    name, arguments = pathlib.PurePath(words[0]).name, words[1:]
    return _COMMANDS[name](arguments, whole) if arguments else None


def _run(arguments: list[str], whole: bool) -> str | None:
    if arguments[0] not in run_commands():
        return 'it is none of what ./run --help tells'
    if arguments[0] == 'blockpath':
        return _blockpath(arguments[1:], whole)
    return None


def run_commands() -> set[str]:
    """What ``./run`` takes, by its own usage."""
    return set(re.findall(r'^(?:Usage:)? +\./run (\w+)',
                          (paths.ROOT / 'run').read_text(), re.MULTILINE))


def _blockpath(arguments: list[str], whole: bool) -> str | None:
    """What click says of them, without running anything."""
    if arguments[:2] == ['lab', 'openstack']:
        return clients.openstack(arguments[2:], whole)
    command: click.Command = cli.main
    name: str | None = 'blockpath'
    parent: click.Context | None = None
    while True:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                context = command.make_context(name, list(arguments), parent)
            if not isinstance(command, click.Group):
                return None
            _, rest, _ = command.make_parser(context).parse_args(
                list(arguments))
            name, found, arguments = command.resolve_command(context, rest)
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
            return None
        except click.MissingParameter as error:
            return error.format_message() if whole else None
        except click.UsageError as error:
            return error.format_message()
        assert found is not None
        command, parent = found, context


#: Name of a command -> what is wrong with arguments of it, if anything.
_COMMANDS = {'run': _run, 'blockpath': _blockpath,
             'openstack': clients.openstack, 'cinder': clients.cinder}
