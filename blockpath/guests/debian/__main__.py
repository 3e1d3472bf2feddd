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
"""A shell in a guest: ``python -m blockpath.guests.debian storage|initiator``.

The rig is up for as long as the shell is. ``tree-python`` in it is Python
with the packages of the checkout.
"""

import os
import select
import socket
import sys
import termios
import tty

from blockpath.guests.debian import rig

USAGE = f'usage: python -m blockpath.guests.debian {"|".join(rig.ROLES)}'


def main(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0] not in rig.ROLES or not sys.stdin.isatty():
        print(f'{USAGE}, on a terminal', file=sys.stderr)
        return 2
    with rig.Rig() as guests, socket.socket(socket.AF_UNIX) as console:
        guest = guests[argv[0]]
        console.connect(str(guest.machine.folder / 'console'))
        print('"exit" ends the shell and the guests')
        size = os.get_terminal_size()
        shell = guest.agent.start(
            'bash', '-c', 'stty -F /dev/ttyS0 sane '
            f'rows {size.lines} cols {size.columns}; '
            'TERM=xterm exec setsid --wait --ctty bash -i '
            '</dev/ttyS0 >/dev/ttyS0 2>&1', timeout=86400)
        before = termios.tcgetattr(0)
        tty.setraw(0)
        try:
            while shell.running:
                _pass_on(console)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    return 0


def _pass_on(console: socket.socket) -> None:
    for end in select.select([0, console.fileno()], [], [], 0.2)[0]:
        if end == 0:
            console.sendall(os.read(0, 4096))
        else:
            os.write(1, console.recv(4096))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
