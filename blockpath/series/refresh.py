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
"""Commits made in a tree become patches and new files again."""

import dataclasses
import os
import pathlib
import re
from typing import Any

import tomlkit
import tomlkit.items

from blockpath import errors
from blockpath.series import diff
from blockpath.series import fetch
from blockpath.series import git
from blockpath.series import mail
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import target
from blockpath.series import trees

#: A longer file name is cut between words.
_LONGEST = 60
_DIFF = ('--unified=1', '--full-index', '--no-renames', '--no-color',
         '--no-ext-diff', '--no-textconv', '--diff-algorithm=myers',
         '--src-prefix=a/', '--dst-prefix=b/')


class RefreshError(errors.BlockpathError):
    """A commit cannot become a patch; nothing was written."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A commit as it is to be stored."""

    patch: model.Patch
    letter: mail.Mail
    files: dict[str, model.File]

    @property
    def data(self) -> bytes:
        return self.letter.head + self.letter.tail


def slug(subject: str) -> str:
    """A commit's subject as the name of a patch."""
    words = re.sub(r'[^a-z0-9]+', '-', subject.lower()).strip('-0123456789')
    if len(words) > _LONGEST:
        words = words[:_LONGEST + 1].rpartition('-')[0]
    return words


def render(series: model.Series, tree: str,
           repository: git.Git) -> list[Rendered]:
    """All commits after ``base`` as patches.

    :raises RefreshError: a merge, a bad name, a change that cannot be kept
    """
    known = {patch.name: patch for patch in series.patches[tree]}
    rendered = []
    for commit in repository.commits(trees.BASE, 'HEAD'):
        one = _render_one(tree, repository, commit)
        old = known.get(one.patch.name)
        if old:
            one = dataclasses.replace(one, patch=dataclasses.replace(
                old, files=one.patch.files))
        rendered.append(one)
    others = [patch.name for name in series.trees() if name != tree
              for patch in series.patches[name]]
    clash = contained([one.patch.name for one in rendered] + others)
    if clash:
        raise RefreshError(f'the patch name {clash[0]} is a part of '
                           f'{clash[1]}, which some tools take for the same; '
                           f'reword a subject')
    _refuse_twice(rendered)
    return rendered


def contained(names: list[str]) -> tuple[str, str] | None:
    """Two names of which one is a part of the other, if there are such."""
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if i != j and one in other:
                return one, other
    return None


def _refuse_twice(rendered: list[Rendered]) -> None:
    added: dict[str, str] = {}
    for one in rendered:
        for path in one.patch.files:
            if path in added:
                raise RefreshError(f'{path} is added by {added[path]} and '
                                   f'again by {one.patch.name}; squash them')
            added[path] = one.patch.name


def _render_one(tree: str, repository: git.Git, commit: str) -> Rendered:
    short = commit[:12]
    if len(repository.text('rev-list', '--parents', '-1',
                           commit).split()) != 2:
        raise RefreshError(f'{tree}: commit {short} is a merge; rebase it '
                           f'away')
    added = repository.text('diff-tree', '-r', '-z', '--no-commit-id',
                            '--no-renames', '--diff-filter=A', '--name-only',
                            f'{commit}^', commit).split('\0')[:-1]
    letter = _letter(tree, repository, commit, added)
    name = slug(letter.subject)
    if not model.NAME.fullmatch(name):
        raise RefreshError(f'{tree}: commit {short}: no patch name can be '
                           f'made of its subject {letter.subject!r}')
    patch = model.Patch(tree, name, tuple(sorted(added)))
    return Rendered(patch, letter, {path: _blob(repository, commit, path)
                                    for path in added})


def _letter(tree: str, repository: git.Git, commit: str,
            added: list[str]) -> mail.Mail:
    whole = repository.run('format-patch', '--stdout', '-1', '--zero-commit',
                           '--no-signature', '--no-stat', *_DIFF, commit)
    hooks = repository.run('diff-tree', '-r', '-p', '--no-commit-id', *_DIFF,
                           f'{commit}^', commit, '--', '.',
                           *(f':(exclude,literal){path}' for path in added))
    message = repository.text('log', '-1', '--format=%B', commit).strip()
    try:
        letter = mail.parse(mail.head_of(whole) + hooks)
    except (mail.MailError, diff.DiffError) as exc:
        raise RefreshError(f'{tree}: commit {commit[:12]}: {exc}')
    if letter.message.strip() != message:
        raise RefreshError(
            f'{tree}: commit {commit[:12]}: git am would not give its message '
            f'back; reword lines that begin with "---" or "diff -", and '
            f'keep the subject to one line')
    return letter


def _blob(repository: git.Git, commit: str, path: str) -> model.File:
    entry = repository.text('ls-tree', commit, '--', path)
    mode = entry.partition(' ')[0]
    if mode not in ('100644', '100755'):
        raise RefreshError(f'{path}: only plain files can be added')
    return model.File(repository.run('cat-file', 'blob', f'{commit}:{path}'),
                      mode == '100755')


def refresh(series: model.Series, tree: str, force: bool = False
            ) -> list[str]:
    """Store a tree's commits; returns a line for each file changed.

    :param force: overwrite stored files that were edited here
    :raises RefreshError: see :func:`render`, or a stored file was edited
    """
    repository = trees.open_tree(series, tree, series.default)
    rendered = render(series, tree, repository)
    if series.patches[tree] and not rendered and not force:
        raise RefreshError(
            f'{series.short(repository.folder)} has no commits, but '
            f'{len(series.patches[tree])} patches are stored; apply them '
            f'there, or give --force to remove them')
    wanted = _wanted(series, tree, rendered)
    if not force:
        _refuse_edited(series, tree, repository, wanted)
    gone = _gone(series, tree, set(wanted))
    read = plan.reader_of(series.root)
    lines = []
    for path, file in wanted.items():
        if read(path) != file:
            lines.append(f'wrote {path}')
            write(series.root / path, file)
    lines += _write_list(series, tree, rendered)
    for path in gone:
        (series.root / path).unlink(missing_ok=True)
        prune(series.root, series.root / path)
        lines.append(f'removed {path}')
    trees.write_record(model.Series(series.root), tree, series.default,
                       repository)
    return lines


def _wanted(series: model.Series, tree: str,
            rendered: list[Rendered]) -> dict[str, model.File]:
    """Path in the checkout -> what is to be stored there."""
    wanted: dict[str, model.File] = {}
    for one in rendered:
        hooks = series.root / 'patches' / tree / f'{one.patch.name}.patch'
        wanted[series.short(hooks)] = model.File(one.data)
        for path, file in one.files.items():
            wanted[series.short(series.stored(tree, path))] = file
    return wanted


def _gone(series: model.Series, tree: str, wanted: set[str]) -> list[str]:
    """What the last series stored and this one does not."""
    before = set()
    for patch in series.patches[tree]:
        hooks, _ = series.hooks(patch, series.default)
        before.add(series.short(hooks))
        before |= {series.short(series.stored(tree, path))
                   for path in patch.files}
    return sorted(path for path in before - wanted
                  if (series.root / path).exists())


def _refuse_edited(series: model.Series, tree: str, repository: git.Git,
                   wanted: dict[str, model.File]) -> None:
    """Edits made to the stored files themselves must not vanish."""
    record = target.read_json(trees.record_file(repository))
    last: dict[str, Any] = record.get('stored', {})
    for path, digest in last.items():
        file = series.root / path
        if not file.exists() or (path in wanted and
                                 file.read_bytes() == wanted[path].data):
            continue
        if fetch.sha256(file) != digest:
            raise RefreshError(
                f'{path} was edited here and not in the tree; make the same '
                f'change in {series.short(series.work(tree, series.default))}'
                f' and commit it, or give --force to lose it')


def _write_list(series: model.Series, tree: str,
                rendered: list[Rendered]) -> list[str]:
    """Bring the tree's part of series.toml up to date."""
    if [one.patch for one in rendered] == series.patches[tree]:
        return []
    text = series.file.read_text('utf-8')
    document = tomlkit.parse(text)
    patches = document.setdefault('patches', tomlkit.table(True))
    known = {str(entry['name']): entry for entry in patches.get(tree, ())}
    listing = tomlkit.aot()
    for one in rendered:
        entry = known.get(one.patch.name, tomlkit.table())
        entry['name'] = one.patch.name
        if tuple(entry.get('files', ())) != one.patch.files:
            entry['files'] = _array(one.patch.files)
        listing.append(entry)
    if rendered:
        patches[tree] = listing
    else:
        patches.pop(tree, None)
    if not patches:
        document.pop('patches')
    result = _spaced(tomlkit.dumps(document))
    write(series.file, model.File(result.encode()))
    return [f'wrote {series.short(series.file)}']


def _spaced(text: str) -> str:
    """One blank line before each patch and its comment, none at the end."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith('[[patches.') and lines:
            at = len(lines)
            while at and lines[at - 1].startswith('#'):
                at -= 1
            if at and lines[at - 1]:
                lines.insert(at, '')
        if line or (lines and lines[-1]):
            lines.append(line)
    return '\n'.join(lines).rstrip('\n') + '\n'


def _array(paths: tuple[str, ...]) -> tomlkit.items.Array:
    array = tomlkit.array()
    array.extend(paths)
    return array.multiline(len(paths) > 0)


def write(path: pathlib.Path, file: model.File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    target.replace(path, file)


def prune(root: pathlib.Path, gone: pathlib.Path) -> None:
    """Remove the folders that a removed file leaves empty."""
    for folder in gone.parents:
        if folder == root:
            return
        try:
            os.rmdir(folder)
        except OSError:
            return
