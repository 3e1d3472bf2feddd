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
"""Prints, as JSON, what a service makes of options in its file.

usage: options.py nova|cinder|tempest FILE FOLDER... <OPTIONS

The service is imported from the folders, so that a misspelt option, or one
that the series in them does not have, fails. OPTIONS has the plugin's own
notes: file, section and option in each line, between tabs.
"""

from collections.abc import Iterable
import importlib
import json
import sys
import typing

from oslo_config import cfg

from blockpath.tempest import config as ours

Groups = Iterable[tuple[typing.Any, Iterable[cfg.Opt]]]


def registered(groups: Groups, wanted: dict[str, str]) -> cfg.ConfigOpts:
    """The options of some groups, each under its name or another.

    :param wanted: a section of the file -> the group whose options it has
    """
    conf = cfg.ConfigOpts()
    for group, opts in groups:
        # Some are iterators, which end.
        some = list(opts)
        for section, name in wanted.items():
            if name == getattr(group, 'name', group):
                conf.register_opts(some, section)
    return conf


def nova(sections: set[str]) -> cfg.ConfigOpts:
    conf: cfg.ConfigOpts = importlib.import_module('nova.conf').CONF
    # As nova-compute does.
    importlib.import_module('os_brick').setup(conf)
    return conf


def cinder(sections: set[str]) -> cfg.ConfigOpts:
    opts = importlib.import_module('cinder.opts')
    brick = importlib.import_module('os_brick.opts')
    return registered(
        [*opts.list_opts(), *brick.list_opts()],
        {section: 'os_brick' if section == 'os_brick' else 'backend_defaults'
         for section in sections})


def tempest(sections: set[str]) -> cfg.ConfigOpts:
    config = importlib.import_module('tempest.config')
    groups = [*config.list_opts(), (ours.GROUP, ours.OPTS)]
    return registered(groups, {each: each for each in sections})


def main(kind: str, file: str, *folders: str) -> None:
    sys.path[:0] = folders
    wanted = [line.rstrip('\n').split('\t')[1:3] for line in sys.stdin]
    conf = {'nova': nova, 'cinder': cinder, 'tempest': tempest}[kind](
        {section for section, _ in wanted})
    conf([], project=kind, default_config_files=[file])
    print(json.dumps({f'{section}.{option}': conf[section][option]
                      for section, option in wanted}))


if __name__ == '__main__':
    main(*sys.argv[1:])
