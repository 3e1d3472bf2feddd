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
"""What a guest has that one may log in to, by ssh, and use disks in."""

import os
import pathlib
import shutil

from blockpath.guests.tiny import tools

#: Debian's programs, copied with the libraries that they load.
PROGRAMS = ('dropbear', 'lsblk', 'mke2fs', 'mkfs.fat')
_FILES = {
    'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
    'etc/group': 'root:x:0:\n',
    'etc/shells': '/bin/sh\n',
    # mke2fs would warn of it, and tools look for it.
    'etc/mtab': '',
}


def inputs() -> list[pathlib.Path]:
    """The files of this machine that an image is made of.

    :raises BlockpathError: one is not installed
    """
    return [pathlib.Path(tools.find(name)) for name in PROGRAMS]


def install(root: pathlib.Path, sources: pathlib.Path) -> None:
    """Put the programs and what they need below ``root``.

    :raises BlockpathError: a program is not installed
    """
    for name in ('etc/dropbear', 'mnt', 'root', 'sbin', 'tmp', 'var/run',
                 'usr/sbin', 'usr/bin'):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path, text in _FILES.items():
        (root / path).write_text(text)
    for name in PROGRAMS:
        program = tools.find(name)
        shutil.copy(program, root / 'bin' / name)
        for library in _libraries(program):
            target = root / library.lstrip('/')
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), target)
    for name in ('mkfs', 'serve', 'sudo'):
        shutil.copy(sources / f'{name}.sh', root / 'bin' / name)
        (root / 'bin' / name).chmod(0o755)


def _libraries(program: str) -> list[str]:
    """The loader and the libraries of a program, as it will look for them."""
    found = []
    for line in tools.run(('ldd', program)).splitlines():
        words = line.split()
        path = words[2] if '=>' in words else words[0]
        if path.startswith('/'):
            found.append(path)
    return found
