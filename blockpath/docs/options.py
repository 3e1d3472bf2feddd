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
"""The options that the series adds, as oslo.config's generator takes them.

An option is added if the patched tree lists it and the pristine one does not.
The namespaces ``blockpath.nova``, ``blockpath.cinder`` and
``blockpath.os_brick`` are for oslo.config's tools::

    oslo-config-generator --namespace blockpath.nova
"""

import functools
import os
import pathlib
import pickle
import subprocess
import sys

from oslo_config import cfg

from blockpath import errors
from blockpath import paths
from blockpath.series import model

#: Tree -> the module that lists its options.
LISTS = {'nova': 'nova.conf.opts', 'cinder': 'cinder.opts',
         'os-brick': 'os_brick.opts'}
#: Cinder lists the options of a backend a second time, in DEFAULT, where no
#: backend of today's looks.
_BACKENDS = 'backend_defaults'

Listed = list[tuple[str, list[cfg.Opt]]]


class OptionsError(errors.BlockpathError):
    """A tree's options can not be listed."""


def nova() -> Listed:
    """Group -> options that the series adds to nova.conf."""
    return added('nova')


def cinder() -> Listed:
    """Group -> options that the series adds to cinder.conf."""
    return added('cinder')


def os_brick() -> Listed:
    """Group -> options that the series adds for users of os-brick."""
    return added('os-brick')


def added(tree: str) -> Listed:
    """What the patched tree lists and the pristine one does not.

    :raises OptionsError: either is not there
    """
    series = model.Series(paths.ROOT)
    before = {(group, option.dest)
              for group, options in listed(series.base(tree, series.default))
              for option in options}
    groups = [(group, [option for option in options
                       if (group, option.dest) not in before])
              for group, options in patched(tree)]
    of_backends = {option.dest for group, options in groups
                   for option in options if group == _BACKENDS}
    return [(group, new) for group, options in groups
            if (new := [option for option in options
                        if group != 'DEFAULT' or
                        option.dest not in of_backends])]


def patched(tree: str) -> Listed:
    """Group -> options of the patched tree.

    :raises OptionsError: it is not there
    """
    series = model.Series(paths.ROOT)
    return listed(series.work(tree, series.default))


@functools.cache
def listed(folder: pathlib.Path) -> Listed:
    """Group -> options of a tree.

    :raises OptionsError: it is not there
    """
    # Another process, see there.
    told = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'blockpath.docs.listing',
         LISTS[folder.name]], env=os.environ | {'PYTHONPATH': str(folder)},
        stdin=subprocess.DEVNULL, capture_output=True)
    if told.returncode:
        raise OptionsError(f'the options of {folder} can not be listed: '
                           f'{told.stderr.decode().strip()[-500:]}')
    file, options = pickle.loads(told.stdout)
    if not file.startswith(f'{folder}{os.sep}'):
        raise OptionsError(f'{folder} is missing; run: ./run setup')
    return options
