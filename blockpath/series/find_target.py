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
"""Find out whether a folder is a git repository or plain files."""

import pathlib

from blockpath.series import folder_target
from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import target


def find(series: model.Series, tree: str, release: str, folder: pathlib.Path
         ) -> git_target.GitTarget | folder_target.FolderTarget:
    """Return a folder as a target of the series.

    :raises TargetError: the folder holds no such tree
    """
    package = model.PACKAGES[tree]
    if not folder.is_dir():
        raise target.TargetError(f'{folder} is not a folder')
    if not (folder / package / '__init__.py').is_file():
        raise target.TargetError(
            f'{folder} holds no {tree} ({package}/__init__.py); give a '
            f'clone, an unpacked sdist, or a site-packages folder')
    if git.Git(folder).is_repository():
        return git_target.GitTarget(series, tree, release, folder)
    is_sdist = any((folder / name).exists() for name in
                   ('setup.py', 'setup.cfg', 'pyproject.toml', 'PKG-INFO'))
    return folder_target.FolderTarget(series, tree, release, folder,
                                      whole=is_sdist)
