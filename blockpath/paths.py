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
"""Where things are, relative to the checkout."""

import pathlib


def find_root(home: pathlib.Path) -> pathlib.Path:
    """Find the checkout: the folder of this package, else the current one.

    pip installs the package without the patches.
    """
    if (home / 'patches' / 'series.toml').is_file():
        return home
    return pathlib.Path.cwd()


ROOT = find_root(pathlib.Path(__file__).resolve().parent.parent)
#: Releases: pristine trees in ``base/<tree>``, patched ones in ``<tree>``.
TREES = ROOT / '.trees'
#: Downloads and built images; everything here is rebuilt when missing.
CACHE = ROOT / '.cache'
#: State, configuration and logs of the running lab.
LAB = ROOT / '.lab'
#: Reports and measurements.
BUILD = ROOT / 'build'
VENV = ROOT / '.venv'
