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
"""Whether a command line of OpenStack's clients says what they know."""

import argparse
import contextlib
import functools
import io

from cinderclient import api_versions
from cinderclient import shell as cinder_shell
from cliff import commandmanager
from openstackclient import shell as openstack_shell

#: What is loaded when the client talks to a cloud of today's.
_GROUPS = ('openstack.common', 'openstack.compute.v2', 'openstack.identity.v3',
           'openstack.image.v2', 'openstack.network.v2', 'openstack.volume.v3')
_INCOMPLETE = 'the following arguments are required'


def openstack(arguments: list[str], whole: bool) -> str | None:
    """What is wrong with a line of ``openstack``; None: it is well.

    :param whole: whether arguments that it needs must be there
    """
    shell, commands = _openstack()
    try:
        factory, name, rest = commands.find_command(arguments)
    except ValueError as error:
        return str(error)
    return _refusal(factory(shell, None).get_parser(name), rest, whole)


def cinder(arguments: list[str], whole: bool) -> str | None:
    """As openstack(), of ``cinder``."""
    parser = cinder_shell.OpenStackCinderShell().get_subcommand_parser(
        api_versions.APIVersion(api_versions.MAX_VERSION), False, [])
    return _refusal(parser, arguments, whole)


@functools.cache
def _openstack() -> tuple[openstack_shell.OpenStackShell,
                          commandmanager.CommandManager]:
    commands = commandmanager.CommandManager('openstack.cli')
    for group in _GROUPS:
        commands.add_command_group(group)
    return openstack_shell.OpenStackShell(), commands


def _refusal(parser: argparse.ArgumentParser, arguments: list[str],
             whole: bool) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(
                io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit as error:
        reason = said.getvalue().rpartition('error: ')[2].splitlines()
        if error.code and (whole or _INCOMPLETE not in reason[0]):
            return reason[0]
    return None
