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
"""The series in the forms that reviewers and deployment tools take."""

import pathlib
import shutil
import tempfile
import types

from blockpath import errors
from blockpath.series import footer
from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target

#: The images that install the trees; all others are built upon them.
IMAGES = types.MappingProxyType(
    {'os-brick': 'openstack-base', 'nova': 'nova-base',
     'cinder': 'cinder-base'})
#: Kolla's images run patch in /, so this is where -p0 finds the packages.
KOLLA = 'var/lib/kolla/venv/lib/python3/site-packages/'
_DIFF = ('--full-index', '--no-renames', '--no-color', '--no-ext-diff',
         '--no-textconv', '--diff-algorithm=myers')


class ExportError(errors.BlockpathError):
    """The series cannot be exported; nothing was written."""


def export(series: model.Series, wanted: list[str], release: str,
           layouts: tuple[str, ...], to: pathlib.Path,
           urls: footer.Urls) -> list[str]:
    """Write ``to``/<layout>/<tree>/; returns a line for each of them.

    Kolla's are in ``to``/kolla/<image>/, so that its folder is the
    ``patches_path`` of ``kolla-build``.

    :param urls: of the changes that others depend on
    :raises ExportError: the folder holds something already
    :raises plan.PlanError: a patch does not fit the pristine release
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ExportError(f'{to} is not an empty folder; give another one')
    to.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with tempfile.TemporaryDirectory(dir=to.parent,
                                     prefix='.blockpath-') as name:
        staged = pathlib.Path(name) / 'export'
        staged.mkdir()
        for tree in wanted:
            if series.patches[tree]:
                lines += _export_tree(series, tree, release, layouts, staged,
                                      urls)
        # mkdtemp's mode is for the owner alone; a plain mkdir's is not.
        if to.exists():
            to.rmdir()
        shutil.move(staged, to)
    return lines


def _export_tree(series: model.Series, tree: str, release: str,
                 layouts: tuple[str, ...], to: pathlib.Path,
                 urls: footer.Urls) -> list[str]:
    steps = plan.Planner(series, tree, release).reference(release)
    lines = []
    with tempfile.TemporaryDirectory(prefix='blockpath-') as name:
        repository = git.Git(pathlib.Path(name))
        base = _small_base(repository, steps)
        for layout in layouts:
            place = IMAGES[tree] if layout == 'kolla' else tree
            folder = to / layout / place
            folder.mkdir(parents=True)
            shown = steps
            if layout == 'gerrit':
                who = footer.signer(git.Git(series.root))
                shown = [footer.signed(series, repository, step, who, urls)
                         for step in steps]
            commits = _commits(repository, base, shown)
            count = _WRITERS[layout](repository, folder, steps, commits)
            lines.append(f'{layout}/{place}: {count} patches')
    return lines


def _small_base(repository: git.Git, steps: list[plan.Step]) -> str:
    """A commit with only those upstream files that the series touches."""
    repository.run('init', '--quiet')
    before, _ = target.squash(steps)
    for path, file in before.items():
        if file is not None:
            place = repository.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            target.replace(place, file)
    repository.run('add', '--all', '--force')
    tree = repository.run('write-tree').decode().strip()
    who = {f'GIT_{role}_{key}': 'blockpath' for key in ('NAME', 'EMAIL')
           for role in ('AUTHOR', 'COMMITTER')}
    return repository.run('commit-tree', '-m', 'base', tree,
                          env=who).decode().strip()


def _commits(repository: git.Git, base: str,
             steps: list[plan.Step]) -> list[str]:
    commits = [base]
    for step in steps:
        commits.append(git_target.commit(repository, commits[-1], [step],
                                         committer_is_author=True))
    return commits


def _numbered(repository: git.Git, folder: pathlib.Path,
            steps: list[plan.Step], commits: list[str]) -> int:
    """-p1 mails whose names sort in their order, and nothing else."""
    for number, step in enumerate(steps, 1):
        (folder / f'{number:04}-{step.patch.name}.patch').write_bytes(
            _mail(repository, commits[number]))
    return len(steps)


def _mail(repository: git.Git, commit: str) -> bytes:
    return repository.run('format-patch', '--stdout', '-1', '--zero-commit',
                          '--no-signature', '--unified=3',
                          '--src-prefix=a/', '--dst-prefix=b/', *_DIFF,
                          commit)


def _quilt(repository: git.Git, folder: pathlib.Path,
           steps: list[plan.Step], commits: list[str]) -> int:
    """-p1 patches and their order, for distributions' packages."""
    for step, commit in zip(steps, commits[1:]):
        (folder / f'{step.patch.name}.patch').write_bytes(
            _mail(repository, commit))
    return _write_series(folder, [step.patch.name for step in steps])


def _kolla(repository: git.Git, folder: pathlib.Path,
           steps: list[plan.Step], commits: list[str]) -> int:
    """-p0 patches of the installed code alone, for an image's patches."""
    names = []
    for index, step in enumerate(steps):
        package = model.PACKAGES[step.patch.tree]
        code = repository.run(
            'diff', '--unified=3', f'--src-prefix={KOLLA}',
            f'--dst-prefix={KOLLA}', *_DIFF, commits[index],
            commits[index + 1], '--', package,
            f':(exclude){package}/tests')
        if code:
            names.append(step.patch.name)
            (folder / f'{step.patch.name}.patch').write_bytes(
                step.mail.message.encode() + b'\n' + code)
    return _write_series(folder, names)


def _write_series(folder: pathlib.Path, names: list[str]) -> int:
    (folder / 'series').write_text(
        ''.join(f'{name}.patch\n' for name in names))
    return len(names)


_WRITERS = {'gerrit': _numbered, 'numbered': _numbered, 'quilt': _quilt,
            'kolla': _kolla}
LAYOUTS = tuple(_WRITERS)
