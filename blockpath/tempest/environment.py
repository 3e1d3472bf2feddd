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
"""tempest's own virtual environment.

It must see a cloud as its users do, and needs other versions of some
libraries than the services.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
from typing import IO

from blockpath.machine import errors
from blockpath import paths

FOLDER = paths.CACHE / 'tempest'
REQUIREMENTS = paths.ROOT / 'tempest-requirements.txt'
CONSTRAINTS = paths.ROOT / 'constraints.txt'
_LOG = FOLDER / 'install.log'


def python() -> pathlib.Path:
    """tempest's Python."""
    return FOLDER / 'venv' / 'bin' / 'python'


def site_packages() -> pathlib.Path:
    return next((FOLDER / 'venv' / 'lib').glob('python3*')) / 'site-packages'


def _digest() -> str:
    digest = hashlib.sha256(str(paths.ROOT).encode())
    for path in (REQUIREMENTS, CONSTRAINTS, paths.ROOT / 'setup.cfg'):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def made() -> bool:
    """Whether it is there, of the versions that are wanted."""
    stamp = FOLDER / 'made'
    return stamp.exists() and stamp.read_text() == _digest()


def make() -> None:
    """Make it, in half a minute.

    :raises LabError: pip could not; with the end of what it said
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with _LOG.open('w') as log:
        _run(log, sys.executable, '-m', 'venv', str(FOLDER / 'venv'))
        _pip(log, '-r', str(REQUIREMENTS))
        # Its entry point is how tempest finds our tests.
        _pip(log, '--no-deps', '--no-build-isolation', '--config-settings',
             'editable_mode=compat', '-e', str(paths.ROOT))
    (FOLDER / 'made').write_text(_digest())


def _pip(log: IO[str], *arguments: str) -> None:
    _run(log, str(python()), '-m', 'pip', '--disable-pip-version-check',
         'install', '-c', str(CONSTRAINTS), *arguments)


def _run(log: IO[str], *argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        end = '; '.join(_LOG.read_text().splitlines()[-2:])
        raise errors.LabError(f'tempest could not be installed: {end}; all '
                              f'of it is in {_LOG}')
