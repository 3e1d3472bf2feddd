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
"""Whether a sample of configuration says what the patched trees know."""

import configparser
import functools

from oslo_config import cfg

from blockpath.docs import options

#: The options that a section named by ``enabled_backends`` may have.
_BACKENDS = 'backend_defaults'
Options = dict[str, cfg.Opt]


def problems(sample: str) -> list[str]:
    """What is wrong with a sample in ini format.

    A section that no service knows is taken for one of Cinder's backends.
    """
    parser = configparser.ConfigParser(default_section='', interpolation=None)
    try:
        parser.read_string(sample)
    except configparser.Error as error:
        return [str(error)]
    groups = known()
    return [problem for section in parser.sections()
            for name, value in parser[section].items()
            if (problem := _problem(
                section, groups.get(section) or groups[_BACKENDS], name,
                value))]


def _problem(section: str, group: Options, name: str,
             value: str) -> str | None:
    option = group.get(name)
    if option is None:
        return f'there is no option [{section}] {name}'
    if '$' in value:
        return None
    try:
        option.type(value)
    except ValueError as error:
        return f'[{section}] {name} = {value}: {error}'
    return None


@functools.cache
def known() -> dict[str, Options]:
    """Group -> name -> option, of all patched trees."""
    groups: dict[str, Options] = {}
    for tree in options.LISTS:
        for group, listed in options.patched(tree):
            groups.setdefault(group, {}).update(
                (option.dest, option) for option in listed)
    return groups
