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
"""Hosts with kernels of their own, played by this machine.

ssh runs commands here; systemd is a script that starts processes and keeps
their ids in files.
"""

import os
import pathlib
import signal
import sys

import fixtures

#: The last word is for the host's shell. The address names the host.
_SSH = '''#!/bin/sh
while [ "$1" != -- ]; do
    case $1 in root@*) host=${1#root@} ;; esac
    shift
done
shift
printf '%s\\n' "$1" >>FOLDER/commands
if [ -e "FOLDER/down/$host" ]; then
    echo "ssh: connect to host $host port 22: No route to host" >&2
    exit 255
fi
export FAKE_HOST=FOLDER/hosts/$host
mkdir -p "$FAKE_HOST"
exec sh -c "$*"
'''
_NSENTER = '''#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
'''
#: As systemd does, it keeps the name of a service that failed, and starts no
#: other of this name until that is reset.
_SYSTEMD = '''#!PYTHON
import os, pathlib, signal, subprocess, sys, time

folder = pathlib.Path(os.environ['FAKE_HOST'])


def alive(unit):
    try:
        pid = int((folder / unit).read_text())
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pid if stat.rpartition(')')[2].split()[0] not in 'ZX' else 0


def end(unit, number):
    pid = alive(unit)
    if pid:
        os.killpg(pid, number)
    while alive(unit):
        time.sleep(0.01)


def start(unit, argv, env, log):
    if (folder / unit).exists():
        sys.exit(f'Unit {unit}.service was already loaded')
    with open(log, 'ab') as output:
        child = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True)
    (folder / unit).write_text(str(child.pid))


def run(words):
    env, argv, properties = {}, [], {}
    while words[0].startswith('--'):
        option, _, value = words.pop(0).partition('=')
        name, _, setting = value.partition('=')
        if option == '--setenv':
            env[name] = setting
        elif option == '--property':
            properties[name] = setting
        elif option == '--unit':
            unit = value
    log = properties['StandardOutput'].removeprefix('append:')
    assert properties['StandardError'] == properties['StandardOutput']
    start(unit, words, env, log)


def control(words):
    options = [word for word in words if word.startswith('--')]
    verb, *names = [word for word in words if not word.startswith('--')]
    if verb == 'is-system-running':
        print('running')
    elif verb == 'reset-failed':
        assert names == ['*'], names
        for path in folder.iterdir():
            if not alive(path.name):
                path.unlink()
    elif verb == 'is-active':
        sys.exit(0 if alive(*names) else 3)
    elif verb == 'start':
        if not alive(*names):
            start(names[0], ['sleep', '600'], os.environ, os.devnull)
    elif verb == 'kill':
        if '--signal=SIGKILL' in options and alive(*names):
            end(*names, signal.SIGKILL)
    elif verb == 'stop':
        if alive(*names):
            end(*names, signal.SIGTERM)
            (folder / names[0]).unlink()
    else:
        sys.exit(f'Unknown command verb {verb}.')


command = {'systemctl': control, 'systemd-run': run}
command[os.path.basename(sys.argv[0])](sys.argv[1:])
'''


class FakeHosts(fixtures.Fixture):
    """Puts the programs first in PATH, here and on the hosts.

    :param folder: for the programs and all that they keep
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        #: Hosts look here before they look in /usr.
        self.bin = folder / 'bin'

    def _setUp(self) -> None:
        for part in ('bin', 'down', 'hosts'):
            (self.folder / part).mkdir(parents=True)
        for name, text in (('ssh', _SSH), ('nsenter', _NSENTER),
                           ('systemctl', _SYSTEMD),
                           ('systemd-run', _SYSTEMD)):
            self.add(name, text)
        self.useFixture(fixtures.EnvironmentVariable(
            'PATH', f'{self.bin}:{os.environ["PATH"]}'))
        self.addCleanup(self._end_all)

    def add(self, name: str, text: str) -> None:
        """Add a program."""
        path = self.bin / name
        path.write_text(text.replace('FOLDER', str(self.folder)).replace(
            'PYTHON', sys.executable))
        path.chmod(0o755)

    def cut_off(self, address: str) -> None:
        """Have a host answer no more."""
        (self.folder / 'down' / address).touch()

    def commands(self) -> list[str]:
        """List the command lines that hosts were given."""
        path = self.folder / 'commands'
        return path.read_text().splitlines() if path.exists() else []

    def units(self, address: str) -> dict[str, int]:
        """Map the services that were started on a host to their ids."""
        return {path.name: int(path.read_text()) for path in
                (self.folder / 'hosts' / address).glob('*')}

    def _end_all(self) -> None:
        for path in self.folder.glob('hosts/*/*'):
            try:
                os.killpg(int(path.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
