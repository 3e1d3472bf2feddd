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
"""``blockpath series``."""

import pathlib

import click

from blockpath.console import progress
from blockpath import errors
from blockpath import paths
from blockpath.series import check as checking
from blockpath.series import export as exporting
from blockpath.series import fetch as fetching
from blockpath.series import find_target
from blockpath.series import footer
from blockpath.series import model
from blockpath.series import refresh as refreshing
from blockpath.series import release_hooks
from blockpath.series import review as reviewing
from blockpath.series import trees as working

RELEASE = click.option(
    '--release', metavar='R', help='An OpenStack release of '
    'patches/series.toml; its default when not given.')

DEPENDS_ON = click.option(
    '--depends-on', 'urls', metavar='TREE/PATCH=URL', multiple=True,
    help="The change, as Gerrit shows it, of a patch of another tree that one "
         "of these depends on; may be given several times.")


def load() -> model.Series:
    return model.Series(paths.ROOT)


def release_of(series: model.Series, release: str | None,
               *trees: str) -> str:
    """The release that is meant; raises for an unknown one or tree."""
    name = release or series.default
    for tree in trees:
        series.pin(tree, name)
    return name


@click.group('series')
def group() -> None:
    """Fetch the releases, apply the patches, keep them in order.

    A TREE is nova, cinder or os-brick. Exit codes: 0 done, or nothing to do;
    1 failed, nothing changed; 2 wrong usage; 3 left alone, or not applied.
    """


@group.command()
@click.argument('trees', metavar='[TREE]...', nargs=-1)
@RELEASE
def fetch(trees: tuple[str, ...], release: str | None) -> None:
    """Download, verify and unpack the pristine releases.

    Through pip, so its configured index, mirror and proxy count. The sha256
    in patches/series.toml is compared before anything is unpacked. What is
    there already is not downloaded again. With a release comes the one that
    its hooks were made on: they are merged on that one's files.
    """
    series = load()
    wanted = trees or tuple(series.trees())
    name = release_of(series, release, *wanted)
    for tree in wanted:
        for source in series.sources(tree, name):
            progress.say(fetching.fetch(series, tree, source))


def fetch_missing(series: model.Series, tree: str, release: str) -> None:
    """Fetch what the command needs, and say so where it was missing."""
    for line in fetching.fetch_missing(series, tree, release):
        progress.say(line)


@group.command()
@click.argument('tree')
@click.option('--to', metavar='DIR', type=click.Path(path_type=pathlib.Path),
              help='A git clone of upstream, an unpacked sdist, or a '
                   'site-packages folder; without it the tree in .trees.')
@RELEASE
@click.option('--reverse', is_flag=True,
              help='Undo it; without a tree in .trees, make a pristine one.')
@click.option('--status', is_flag=True,
              help='Only say how things stand; 0 when applied, else 3.')
@click.pass_context
def apply(ctx: click.Context, tree: str, to: pathlib.Path | None,
          release: str | None, reverse: bool, status: bool) -> None:
    """Apply the series to a tree: all of it or nothing.

    In a git repository each patch becomes a commit. Hooks are applied by
    content: exactly on the release they were made for, by a three-way merge
    elsewhere, never by searching for a place that looks alike. Applying
    twice changes nothing. Pristine releases that are missing are fetched
    first; --reverse and --status fetch nothing.
    """
    if reverse and status:
        raise click.UsageError('give --reverse or --status, not both')
    series = load()
    name = release_of(series, release, tree)
    if status:
        _status(ctx, series, tree, name, to)
        return
    target = find_target.find(series, tree, name, to) if to else None
    if not reverse:
        fetch_missing(series, tree, name)
    if target is None:
        act = working.reverse if reverse else working.apply
        result = act(series, tree, name)
    else:
        result = target.reverse() if reverse else target.apply()
    progress.say(result.message)
    for path in result.merged:
        progress.say(f'  merged into another version of {path}')


def _status(ctx: click.Context, series: model.Series, tree: str, release: str,
            to: pathlib.Path | None) -> None:
    if to is None:
        state = working.status(series, tree, release)
    else:
        state = find_target.find(series, tree, release, to).status()
    detail = f' ({state.detail})' if state.detail else ''
    progress.say(f'{tree}: {state.state}{detail}')
    if state.state != 'applied':
        ctx.exit(3)


@group.command()
@click.argument('tree')
@click.option('--force', is_flag=True,
              help='Overwrite stored files that were edited here.')
@RELEASE
def refresh(tree: str, force: bool, release: str | None) -> None:
    """Turn the commits in .trees/<release>/TREE into patches and files.

    Edits of upstream's files become patches/TREE/<subject>.patch, files that
    are new go to TREE/ at the same path, and patches/series.toml lists both.
    Reword, reorder or squash with git rebase -i base, then refresh.

    With another release than the default, its tree holds the same patches.
    Those that a three-way merge of the stored ones does not give become hooks
    of the release's own, patches/TREE/R/<subject>.patch.
    """
    series = load()
    name = release_of(series, release, tree)
    if name == series.default:
        lines = refreshing.refresh(series, tree, force)
    else:
        lines = release_hooks.refresh(series, tree, name)
    for line in lines:
        progress.say(line)
    count = len(load().patches[tree])
    unchanged = '' if lines else ', nothing changed'
    progress.say(f'{tree}: {count} patches{unchanged}')
    changed = working.open_tree(series, tree, name).changed()
    if changed:
        progress.note(f'{len(changed)} files are changed but not committed '
                      f'there and are in no patch: {", ".join(changed[:3])}')


@group.command()
@click.argument('to', metavar='DIR', type=click.Path(path_type=pathlib.Path))
@click.option('--tree', 'trees', metavar='TREE', multiple=True,
              help='Only this tree; may be given several times.')
@click.option('--gerrit', is_flag=True,
              help='Mails for git am and review: Change-Id, Signed-off-by; '
                   'for a branch see the command review.')
@click.option('--numbered', is_flag=True,
              help='-p1 patches that sort in their order, for build scripts '
                   'that apply all of a folder.')
@click.option('--quilt', is_flag=True,
              help='-p1 patches and a series file, for packages.')
@click.option('--kolla', is_flag=True,
              help="-p0 patches of the code alone, a folder each image: "
                   "the patches_path of kolla-build.")
@DEPENDS_ON
@RELEASE
def export(to: pathlib.Path, trees: tuple[str, ...], urls: tuple[str, ...],
           release: str | None, **layouts: bool) -> None:
    """Write the series for other tools to DIR/<layout>/<tree>/.

    Kolla's goes to DIR/kolla/<image>/, so that DIR/kolla is the patches_path.
    Without --gerrit, --numbered, --quilt or --kolla all four. DIR must be new
    or empty. Pristine releases that are missing are fetched first. The signer
    of --gerrit is git's user.name and user.email.
    """
    series = load()
    wanted = list(trees or series.trees())
    name = release_of(series, release, *wanted)
    chosen = tuple(layout for layout in exporting.LAYOUTS if layouts[layout])
    known = footer.parse_urls(series, urls)
    chosen = chosen or exporting.LAYOUTS
    for tree in wanted:
        fetch_missing(series, tree, name)
    for line in exporting.export(series, wanted, name, chosen, to, known):
        progress.say(line)
    if 'gerrit' in chosen:
        for warning in footer.missing((patch for tree in wanted for patch in
                                       series.patches[tree]), known):
            progress.note(f'warning: {warning}')


@group.command()
@click.argument('tree')
@click.option('--to', metavar='DIR', required=True,
              type=click.Path(path_type=pathlib.Path),
              help="A clone of upstream's repository.")
@click.option('--branch', default='blockpath', show_default=True,
              help="The branch's name.")
@click.option('--onto', metavar='COMMIT',
              help='What the branch begins at, such as origin/master; the '
                   'commit checked out when not given.')
@DEPENDS_ON
@RELEASE
def review(tree: str, to: pathlib.Path, branch: str, onto: str | None,
           urls: tuple[str, ...], release: str | None) -> None:
    """Make a branch in a clone that git review takes, a commit each patch.

    Each commit has its Change-Id, the same each time, so that the branch
    made again becomes new patch sets of the same changes. The signer is the
    clone's user.name and user.email. Where upstream moved, hooks are merged
    three ways; what conflicts is named, and the clone stays as it was.

    Then, in DIR: git switch blockpath; git review --topic blockpath
    """
    series = load()
    name = release_of(series, release, tree)
    branched = reviewing.Review(series, tree, name, to, branch)
    known = footer.parse_urls(series, urls)
    fetch_missing(series, tree, name)
    made = branched.make(onto, known)
    progress.say(made.message)
    for path in made.merged:
        progress.say(f'  merged into another version of {path}')
    for warning in made.missing:
        progress.note(f'warning: {warning}')


@group.command()
@click.argument('trees', metavar='[TREE]...', nargs=-1)
@click.option('--release', metavar='R', help='The release that has to be '
              'fetched; the default one when not given. The others are '
              'checked as far as they are.')
@click.option('--each', is_flag=True,
              help="Then run every commit by itself: upstream's style, and "
                   'the tests that the series has by then. It takes half an '
                   'hour; what passed is kept in .cache/each.')
@click.option('--upstream', is_flag=True,
              help="With --each: upstream's test modules of the hooked files "
                   'as well, for hours.')
@click.option('--fresh', is_flag=True,
              help='With --each: run what passed before, too.')
def check(trees: tuple[str, ...], release: str | None, each: bool,
          upstream: bool, fresh: bool) -> None:
    """Prove that the series is whole, in order and without drift.

    Each file is stored and listed once; every patch applies exactly, with no
    fuzz and no offset, to the pristine release; hooks have their form and
    messages their reason; the trees in .trees hold what is stored.
    """
    if (upstream or fresh) and not each:
        raise click.UsageError('--upstream and --fresh go with --each')
    series = load()
    if each and release not in (None, series.default):
        raise click.UsageError(f'--each is for {series.default} only')
    wanted = list(trees or series.trees())
    report = checking.check(series, wanted,
                            release_of(series, release, *wanted))
    for fact in report.facts:
        progress.say(fact)
    for warning in report.warnings:
        progress.note(f'warning: {warning}')
    for error in report.errors:
        progress.note(f'error: {error}')
    if report.errors:
        raise errors.BlockpathError(
            f'the series has {len(report.errors)} errors; the first: '
            f'{report.errors[0]}')
    progress.say('the series is in order')
    if each:
        # It runs tests, and so needs more packages than all else here.
        from blockpath.series import check_each as running
        running.check(series, wanted, upstream, fresh)


@group.command()
@RELEASE
@click.option('--all', 'every', is_flag=True, help='Those of all releases.')
def releases(release: str | None, every: bool) -> None:
    """List the trees of a release: release, tree, version; for scripts."""
    series = load()
    names = list(series.releases) if every else [
        release_of(series, release, *series.trees())]
    for name in names:
        for tree, pin in series.releases[name].items():
            progress.say(f'{pin.release} {tree} {pin.version}')
