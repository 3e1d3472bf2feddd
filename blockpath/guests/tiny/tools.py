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
"""Running the programs that build the guest."""

import collections.abc
import os
import pathlib
import shutil
import subprocess

from blockpath import errors

#: Program -> Debian package, for the error that says what to install.
PACKAGES = {
    'apt-cache': 'apt',
    'apt-get': 'apt',
    'busybox': 'busybox-static',
    'cpio': 'cpio',
    'depmod': 'kmod',
    'dpkg-deb': 'dpkg',
    'dropbear': 'dropbear-bin',
    'gcc': 'gcc',
    'ldd': 'libc-bin',
    'lsblk': 'util-linux',
    'mcopy': 'mtools',
    'mformat': 'mtools',
    'mke2fs': 'e2fsprogs',
    'mkfs.fat': 'dosfstools',
    'modprobe': 'kmod',
    'syslinux': 'syslinux',
}
#: kmod's programs are not on an ordinary user's PATH.
SEARCH = os.pathsep.join((os.environ.get('PATH', os.defpath),
                          '/usr/sbin', '/sbin'))


def find(program: str) -> str:
    """The program's path.

    :raises BlockpathError: it is not installed; names the package
    """
    path = shutil.which(program, path=SEARCH)
    if path is None:
        package = PACKAGES.get(program, program)
        raise errors.BlockpathError(
            f'{program} is missing, which the guest image is built with: '
            f'apt-get install {package}')
    return path


def run(args: collections.abc.Sequence[str | pathlib.Path], *,
        cwd: pathlib.Path | None = None, text: str | None = None,
        env: dict[str, str] | None = None) -> str:
    """What the program prints; ``text`` is its standard input.

    :raises BlockpathError: it is missing or fails; quotes its last line
    """
    program = str(args[0])
    done = subprocess.run(
        [find(program), *map(str, args[1:])], cwd=cwd, input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        env={**os.environ, 'LC_ALL': 'C', **(env or {})},
        capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise errors.BlockpathError(
            f'{program} failed with exit code {done.returncode}: '
            f'{lines[-1] if lines else "it said nothing"}')
    return done.stdout
