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
"""The tools that are compared: the command line of each, where it has one.

The destination is new, and each tool that can be told so is told.
"""

import json
import os
import pathlib
import shlex
import sys

from blockpath.bench import copy_volumes
from blockpath import paths

SERIES = 'series'
CINDER = 'cinder'
#: Those of others.
PEERS = ('qemu-img', 'rbd', 'nbdcopy')
TOOLS = (SERIES, CINDER, *PEERS)
RELEASE = '2026.2'

_Volume = copy_volumes.Volume


def makes_destination(tool: str, destination: _Volume) -> bool:
    """Whether it insists on making it."""
    return tool == 'rbd' and not isinstance(destination, copy_volumes.Lun)


def command(tool: str, source: _Volume, destination: _Volume, size: int
            ) -> tuple[list[str], dict[str, str]] | None:
    """The command line and what to add to the environment.

    :param size: bytes
    :returns: None: the tool can not do that
    """
    if tool in (SERIES, CINDER):
        if tool == CINDER and any(
                isinstance(end, copy_volumes.Lun)
                for end in (source, destination)):
            # It needs a SCSI device of the host for that.
            return None
        return _job(tool, source, destination, size)
    argv = {'qemu-img': _qemu_img, 'rbd': _rbd,
            'nbdcopy': _nbdcopy}[tool](source, destination)
    return (argv, {}) if argv else None


#: An end of each kind, to ask :func:`command` about.
_ENDS: dict[str, _Volume] = {
    'rbd': copy_volumes.Image(copy_volumes.Ceph('', '', '', ''), '', ''),
    'iscsi': copy_volumes.Lun('', '', 0, ''),
    'file': copy_volumes.File('')}


def can_copy(tool: str, direction: str) -> bool:
    """Return whether a tool copies in a direction, as ``rbd-file``."""
    source, _, destination = direction.partition('-')
    return command(tool, _ENDS[source], _ENDS[destination], 0) is not None


def tree(tool: str) -> pathlib.Path:
    """From which tree its Cinder is."""
    release = paths.TREES / RELEASE
    return (release if tool == SERIES else release / 'base') / 'cinder'


def _job(tool: str, source: _Volume, destination: _Volume, size: int
         ) -> tuple[list[str], dict[str, str]]:
    trees = [tree(tool), tree(tool).with_name('os-brick')]
    job = {'tool': tool, 'tree': str(tree(tool)), 'size': size,
           'source': copy_volumes.to_json(source),
           'destination': copy_volumes.to_json(destination)}
    return ([sys.executable, '-P', '-m', 'blockpath.bench.copy_job',
             json.dumps(job)],
            {'PYTHONPATH': os.pathsep.join(map(str, trees)),
             'PYTHONWARNINGS': 'ignore'})


def _qemu_img(source: _Volume, destination: _Volume) -> list[str]:
    # Without caches it is faster here, to and from files in memory as well.
    return ['qemu-img', 'convert', '-m', '16', '-W', '-t', 'none', '-T',
            'none', '-n', '--target-is-zero', '-f', 'raw', '-O', 'raw',
            source.qemu, destination.qemu]


def _rbd(source: _Volume, destination: _Volume) -> list[str] | None:
    if isinstance(source, copy_volumes.Image):
        rbd = ['rbd', '--conf', source.ceph.conf, '--id', source.ceph.user,
               '--no-progress']
    elif isinstance(destination, copy_volumes.Image):
        rbd = ['rbd', '--conf', destination.ceph.conf, '--id',
               destination.ceph.user, '--no-progress']
    else:
        return None
    match source, destination:
        case copy_volumes.Image(), copy_volumes.File():
            return [*rbd, 'export', source.spec, destination.path]
        case copy_volumes.File(), copy_volumes.Image():
            return [*rbd, 'import', source.path, destination.spec]
        case copy_volumes.Image(), copy_volumes.Image():
            read = shlex.join([*rbd, 'export', source.spec, '-'])
            write = shlex.join([*rbd, 'import', '-', destination.spec])
            return ['bash', '-o', 'pipefail', '-c', f'{read} | {write}']
    return None


def _nbdcopy(source: _Volume, destination: _Volume) -> list[str]:
    def end(volume: _Volume, *options: str) -> list[str]:
        if isinstance(volume, copy_volumes.File):
            return [volume.path]
        return ['[', 'qemu-nbd', '--persistent', '--format=raw', *options,
                volume.qemu, ']']
    return ['nbdcopy', '--destination-is-zero', '--flush', '--',
            *end(source, '--read-only'),
            *end(destination, '--discard=unmap')]
