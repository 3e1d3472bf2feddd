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
"""Give a host its own files, then keep its namespaces alive.

Run as ``python -m blockpath.machine.anchor FOLDER HOSTNAME`` in new mount and
UTS namespaces, and in the host's network namespace. Daemons are started, and
started again, by entering this process's namespaces.

/run is a file system of the host's own, and /etc a copy, over which
FOLDER/etc is laid: nothing outside is touched, and all mounts go with the
last process.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

#: Where daemons keep temporary files; in /run, and so gone with the host.
TEMPORARY = '/run/tmp'


def _mount(*args: str) -> None:
    subprocess.run(['mount', *args], check=True)


def _own_etc(folder: pathlib.Path) -> None:
    shutil.copytree('/etc', '/run/etc', symlinks=True,
                    ignore_dangling_symlinks=True)
    if folder.exists():
        shutil.copytree(folder, '/run/etc', dirs_exist_ok=True)
    _mount('--bind', '/run/etc', '/etc')


def main(argv: list[str]) -> None:
    folder, hostname = argv
    socket.sethostname(hostname)
    _mount('-t', 'tmpfs', '-o', 'mode=755', 'none', '/run')
    os.mkdir(TEMPORARY, 0o700)
    _own_etc(pathlib.Path(folder) / 'etc')
    print('ready', flush=True)
    # Small, and with no Python left in memory.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.execv('/usr/bin/sleep', ['sleep', 'infinity'])


if __name__ == '__main__':
    main(sys.argv[1:])
