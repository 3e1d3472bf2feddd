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
"""Is the series whole, in order, and what the trees hold?"""

from collections.abc import Callable
import dataclasses
import pathlib
import re

from blockpath import errors
from blockpath.series import model
from blockpath.series import plan
from blockpath.series import refresh
from blockpath.series import trees

#: Changed lines in one hunk; more belong into a module of their own.
LONG_HUNK = 15
#: A body shorter than this cannot say why.
_SHORT_BODY = 40
_TRAILER = re.compile(r'^[A-Z][A-Za-z-]+: ')
_REASON = re.compile(
    r'^(?:(?:Partial(?:ly)?-|Re)?[Ii]mplements: (?:blueprint|bp) \S+'
    r'|(?:Related|Needed-By|Blueprint): (?:blueprint|bp) \S+'
    r'|(?:Closes|Partial|Related)-[Bb]ug: #?\d+)', re.M)


@dataclasses.dataclass
class Report:
    """What was found: errors fail the check, the rest is told."""

    errors: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    facts: list[str] = dataclasses.field(default_factory=list)


def check(series: model.Series, wanted: list[str],
          needed: str | None = None) -> Report:
    """Run every check on the trees named.

    :param needed: the release that must have been fetched; the others are
        checked where they are there
    """
    report = Report()
    _names(series, report)
    for tree in wanted:
        _files(series, tree, report)
        _mails(series, tree, report)
        for release in series.releases:
            if tree in series.releases[release]:
                _applies(series, tree, release, needed or series.default,
                         report)
                _drift(series, tree, release, report)
        _size(series, tree, report)
    return report


def is_test(path: str) -> bool:
    return '/tests/' in f'/{path}'


def _guarded(report: Report, what: Callable[[], None]) -> None:
    try:
        what()
    except errors.BlockpathError as exc:
        if exc.message not in report.errors:
            report.errors.append(exc.message)


def _names(series: model.Series, report: Report) -> None:
    everyone = [patch for tree in series.trees()
                for patch in series.patches[tree]]
    names = [patch.name for patch in everyone]
    for patch in everyone:
        if not model.NAME.fullmatch(patch.name):
            report.errors.append(
                f'{patch.tree}/{patch.name}: a name is lower-case words '
                f'joined by hyphens, with no number before them')
        for other in patch.depends:
            tree, _, name = other.partition('/')
            if tree == patch.tree or name not in [
                    each.name for each in series.patches.get(tree, ())]:
                report.errors.append(f'{patch.tree}/{patch.name}: depends on '
                                     f'{other}, which no other tree has')
    clash = refresh.contained(names)
    if clash:
        report.errors.append(f'the patch name {clash[0]} is a part of '
                             f'{clash[1]}; reword a subject')


def _files(series: model.Series, tree: str, report: Report) -> None:
    """Each file stored once and listed once."""
    listed: dict[str, str] = {}
    for patch in series.patches[tree]:
        for path in patch.files:
            if path in listed:
                report.errors.append(f'{tree}/{path} is listed under '
                                     f'{listed[path]} and {patch.name}')
            listed[path] = patch.name
            if not series.stored(tree, path).is_file():
                report.errors.append(f'{tree}/{path} is listed under '
                                     f'{patch.name}, but missing')
    home = series.root / tree
    for file in sorted(home.rglob('*')):
        path = str(file.relative_to(home))
        if '__pycache__' in file.parts or path in listed:
            continue
        if file.is_file():
            report.errors.append(f'{tree}/{path} is listed under no patch; '
                                 f'add it in the tree, commit and refresh')
    _mail_files(series, tree, report)


def _mail_files(series: model.Series, tree: str, report: Report) -> None:
    names = {patch.name for patch in series.patches[tree]}
    home = series.root / 'patches' / tree
    for name in sorted(names):
        if not (home / f'{name}.patch').is_file():
            report.errors.append(f'patches/{tree}/{name}.patch is listed, '
                                 f'but missing')
    for file in sorted(home.rglob('*')):
        folder = file.parent.relative_to(home).name
        known = file.suffix == '.patch' and file.stem in names
        if file.is_file() and not (
                known and folder in ('', *series.releases)):
            report.errors.append(f'{series.short(file)} is no patch of '
                                 f'series.toml')


def _mails(series: model.Series, tree: str, report: Report) -> None:
    for patch in series.patches[tree]:
        for release in series.releases:
            file, made_on = series.hooks(patch, release)
            if made_on == release and file.is_file():
                _guarded(report, lambda: _mail(series, patch, release, file,
                                               report))


def _mail(series: model.Series, patch: model.Patch, release: str,
          file: pathlib.Path, report: Report) -> None:
    letter = series.mail(patch, release)
    where = series.short(file)
    if not letter.head.startswith(b'From ' + b'0' * 40 + b' '):
        report.errors.append(f'{where}: it names a commit; make it with '
                             f'refresh (--zero-commit)')
    if re.search(rb'^-- \n', letter.tail, re.M):
        report.errors.append(f'{where}: it has a signature; make it with '
                             f'refresh (--no-signature)')
    for each in letter.diffs:
        for hunk in each.hunks:
            place = f'{where}: {each.path}, line {hunk.start}'
            if hunk.context > 1:
                report.errors.append(f'{place}: {hunk.context} lines of '
                                     f'context; make it with refresh (-U1)')
            if (hunk.changed > LONG_HUNK and not is_test(each.path) and
                    release == series.default):
                report.warnings.append(
                    f'{place}: {hunk.changed} changed lines; does some of '
                    f'it belong into a module?')
    _message(letter.body, where, report)
    _release_note(patch, [each.path for each in letter.diffs], report)


def _message(body: str, where: str, report: Report) -> None:
    prose = '\n'.join(line for line in body.splitlines()
                      if not _TRAILER.match(line)).strip()
    if len(prose) < _SHORT_BODY:
        report.errors.append(f'{where}: the message does not say why')
    if not _REASON.search(body):
        report.errors.append(f'{where}: the message names no blueprint or '
                             f'bug (Implements: blueprint x, Closes-Bug: #1)')


def _release_note(patch: model.Patch, hooked: list[str],
                  report: Report) -> None:
    package = f'{model.PACKAGES[patch.tree]}/'
    code = any(path.startswith(package) and not is_test(path)
               for path in (*hooked, *patch.files))
    noted = any(path.startswith('releasenotes/notes/')
                for path in patch.files)
    if code and not noted and not patch.no_release_note:
        report.errors.append(
            f'{patch.tree}/{patch.name} changes code without a release note; '
            f'add one, or say why not: no-release-note in series.toml')


def _applies(series: model.Series, tree: str, release: str, needed: str,
             report: Report) -> None:
    if not series.base(tree, release).is_dir():
        message = (f'{tree} {release} is not fetched, so its patches were '
                   f'not tried; run: blockpath series fetch --release '
                   f'{release} {tree}')
        (report.errors if release == needed
         else report.warnings).append(message)
        return
    planner = plan.Planner(series, tree, release)

    def attempt() -> None:
        steps = planner.reference(release)
        merged = sum(each.merged for step in steps for each in step.changes)
        own = sum(series.hooks(step.patch, release)[1] == release
                  for step in steps) if release != series.default else 0
        fact = f'{tree} {release}: {len(steps)} patches apply'
        fact += f', {merged} hooked files merged' if merged else ' exactly'
        fact += f', {own} by hooks of its own' if own else ''
        report.facts.append(fact)
    _guarded(report, attempt)


def _drift(series: model.Series, tree: str, release: str,
           report: Report) -> None:
    work = series.work(tree, release)
    if not work.is_dir() or not series.base(tree, release).is_dir():
        return
    where = '' if release == series.default else f' --release {release}'

    def compare() -> None:
        status = trees.status(series, tree, release)
        if status.state != 'applied':
            report.errors.append(
                f'{series.short(work)} and the stored patches differ '
                f'({status.detail or status.state}); run blockpath series '
                f'refresh {tree}{where}, or apply {tree}{where}')
        changed = trees.open_tree(series, tree, release).changed()
        if changed:
            report.warnings.append(f'{series.short(work)}: {len(changed)} '
                                   f'files changed but not committed')
    _guarded(report, compare)


def _size(series: model.Series, tree: str, report: Report) -> None:
    total = 0

    def add() -> None:
        nonlocal total
        for patch in series.patches[tree]:
            total += sum(hunk.changed
                         for each in series.mail(patch, series.default).diffs
                         if not is_test(each.path) for hunk in each.hunks)
    _guarded(report, add)
    limit = series.limits.get(tree)
    most = f', at most {limit}' if limit else ''
    report.facts.append(f'{tree}: hooks change {total} lines, tests '
                        f'aside{most}')
    if limit and total > limit:
        report.errors.append(f'{tree}: hooks change {total} lines, more than '
                             f'{limit}; move logic into new files')
