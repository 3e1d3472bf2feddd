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
"""Pinned sdists: downloaded through pip, verified, unpacked whole.

pip does the download, because its configuration says which index, mirror,
proxy and certificates to use here.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib

from blockpath.console import progress
from blockpath import errors
from blockpath.series import model


class FetchError(errors.BlockpathError):
    """A release cannot be had; nothing was left half-done."""


def fetch(series: model.Series, tree: str, release: str) -> str:
    """Get a pristine release into ``.trees/<release>/base/<tree>``.

    Returns what was done, in one line.

    :raises FetchError: no index answers, the hash differs, or the archive
        holds what it must not
    """
    pin = series.pin(tree, release)
    base = series.base(tree, release)
    clear_partial(base.parent, f'.{tree}.partial-')
    if version_of(base) == pin.version:
        return f'{tree}: {pin.version} is there'
    if base.exists():
        raise FetchError(f'{series.short(base)} is not {pin.project} '
                         f'{pin.version}; move it away and fetch again')
    sdist = series.sdist(pin)
    if sdist.exists() and sha256(sdist) != pin.sha256:
        progress.note(f'{series.short(sdist)} has a wrong hash and is '
                      f'fetched again')
        sdist.unlink()
    if not sdist.exists():
        with progress.working(f'{tree}: downloading {pin.sdist}'):
            _download(pin, sdist)
    with progress.working(f'{tree}: unpacking {pin.sdist}'):
        _unpack(pin, sdist, base)
    return f'{tree}: {pin.version} unpacked in {series.short(base)}'


def fetch_missing(series: model.Series, tree: str, release: str) -> list[str]:
    """Get what applying the patches to a release reads, where it is missing.

    Returns what was done, a line for each release that was.

    :raises FetchError: one of them cannot be had
    """
    return [fetch(series, tree, name) for name in series.sources(tree, release)
            if version_of(series.base(tree, name)) !=
            series.pin(tree, name).version]


def version_of(folder: pathlib.Path) -> str:
    """The version an unpacked sdist says it is; empty if there is none."""
    try:
        lines = (folder / 'PKG-INFO').read_text('utf-8').splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ''
    for line in lines:
        if line.startswith('Version: '):
            return line.removeprefix('Version: ').strip()
    return ''


def sha256(path: pathlib.Path) -> str:
    total = hashlib.sha256()
    with path.open('rb') as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _download(pin: model.Release, sdist: pathlib.Path) -> None:
    sdist.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=sdist.parent,
                                     prefix='.partial-') as name:
        folder = pathlib.Path(name)
        wanted = folder / 'wanted.txt'
        # With a hash required, pip compares it before it runs any of the
        # archive's own code.
        wanted.write_text(f'{pin.project}=={pin.version} '
                          f'--hash=sha256:{pin.sha256}\n')
        done = subprocess.run(
            [sys.executable, '-m', 'pip', 'download', '--quiet', '--retries',
             '2', '--no-input', '--no-deps', '--no-binary', ':all:',
             '--no-build-isolation', '--ignore-requires-python',
             '--require-hashes', '-r', str(wanted), '-d', str(folder)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=os.environ | {'PBR_VERSION': pin.version})
        archives = list(folder.glob('*.tar.gz'))
        if done.returncode or len(archives) != 1:
            raise FetchError(_reason(pin, sdist, done.stderr))
        # pip may take a file from its configured folders without asking.
        if sha256(archives[0]) != pin.sha256:
            raise FetchError(_wrong_hash(pin))
        archives[0].replace(sdist)


def _wrong_hash(pin: model.Release) -> str:
    return (f'{pin.sdist} from the index is not the pinned one (sha256 '
            f'differs); check the index in pip.conf, or mend the pin in '
            f'patches/series.toml')


def _reason(pin: model.Release, sdist: pathlib.Path, stderr: str) -> str:
    """pip's many lines in one."""
    if 'DO NOT MATCH THE HASHES' in stderr:
        return _wrong_hash(pin)
    if 'from versions: none' in stderr or 'connection broken' in stderr:
        return (f'no package index answers for {pin.project}; set one in '
                f'pip.conf, or put {pin.sdist} into {sdist.parent}')
    if 'No matching distribution' in stderr:
        return (f'the package index has no sdist of {pin.project} '
                f'{pin.version}; put {pin.sdist} into {sdist.parent}')
    lines = [line for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if line.lower().startswith('error:')]
    reason = (named or lines or ['it said nothing'])[0]
    return (f'pip cannot download {pin.project} {pin.version}: '
            f'{reason[:200].strip()}')


def _unpack(pin: model.Release, sdist: pathlib.Path,
            base: pathlib.Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    partial = base.parent / f'.{base.name}.partial-{os.getpid()}'
    try:
        with tarfile.open(sdist, 'r:gz') as archive:
            for member in archive:
                _extract(archive, member, partial)
        tops = list(partial.iterdir())
        if len(tops) != 1 or version_of(tops[0]) != pin.version:
            raise FetchError(f'{sdist} is no sdist of {pin.project} '
                             f'{pin.version}; mend the pin in '
                             f'patches/series.toml')
        tops[0].rename(base)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as exc:
        raise FetchError(f'{sdist} cannot be unpacked: {exc}')
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo,
             folder: pathlib.Path) -> None:
    """Write one member: plain files and folders, inside, as our own.

    tarfile's own data filter does the same, but not on Debian 12's Python.

    :raises tarfile.TarError: anything else
    """
    name = pathlib.PurePosixPath(member.name)
    if name.is_absolute() or '..' in name.parts:
        raise tarfile.TarError(f'{name} lies outside of it')
    if member.isdir():
        (folder / name).mkdir(parents=True, exist_ok=True)
        return
    source = archive.extractfile(member) if member.isreg() else None
    if source is None:
        raise tarfile.TarError(f'{name} is no plain file')
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with source, (folder / name).open('wb') as destination:
        shutil.copyfileobj(source, destination)
    (folder / name).chmod(0o755 if member.mode & 0o100 else 0o644)


def clear_partial(folder: pathlib.Path, prefix: str) -> None:
    """Remove what a killed run left; a running one's stays."""
    for partial in folder.glob(f'{prefix}*'):
        pid = partial.name.removeprefix(prefix)
        if pid.isdigit() and not pathlib.Path('/proc', pid).exists():
            shutil.rmtree(partial, ignore_errors=True)
