#
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

"""The records of open-iscsi's database, written without its command line.

``iscsiadm --op update`` takes a value as an argument, which any user of the
host can read while it runs. A record is a file of ``name = value`` lines.
"""

import glob
import os
import typing as ty

import os_brick.privileged

#: Where open-iscsi was built to keep its database.
ROOTS = ('/etc/iscsi', '/var/lib/iscsi')
_END = '# END RECORD'
_DEFAULT_PORT = '3260'

Settings = ty.Mapping[str, str]


@os_brick.privileged.default.entrypoint
def update_node(target: str, portal: str,
                settings: Settings) -> ty.Optional[list[str]]:
    """Set values of the records of a target at a portal, of all ifaces.

    :param portal: as iscsiadm takes it: address and port.
    :returns: names of what was something else before; None without a record
    :raises: OSError
    """
    changed: set[str] = set()
    found = False
    for root in ROOTS:
        # With no portal group tag known, a portal has one record, a file.
        # Else it has a folder, with a file for each iface.
        path = glob.escape(os.path.join(root, 'nodes', target,
                                        _address(portal)))
        for record in glob.glob(path) + glob.glob(path + ',*/*'):
            if os.path.isfile(record):
                found = True
                changed.update(_update(record, settings))
    return sorted(changed) if found else None


@os_brick.privileged.default.entrypoint
def update_discovery(portal: str,
                     settings: Settings) -> ty.Optional[list[str]]:
    """Set values of the record of SendTargets discoveries at a portal.

    :returns: names of what was something else before; None without a record
    :raises: OSError
    """
    for root in ROOTS:
        path = os.path.join(root, 'send_targets', _address(portal),
                            'st_config')
        if os.path.isfile(path):
            return _update(path, settings)
    return None


def _address(portal: str) -> str:
    """``[::1]:3260`` or ``[::1]:3260,1`` as files are named: ``::1,3260``."""
    host, colon, port = portal.partition(',')[0].rpartition(':')
    if not colon or port.endswith(']'):
        host, port = portal, _DEFAULT_PORT
    return f'{host.strip("[]")},{port}'


def _update(path: str, settings: Settings) -> list[str]:
    # Its folders let no one make files in them, root without the right to
    # override that neither. So it is written in place, by one call, for who
    # reads it meanwhile.
    with open(path, 'r+b', buffering=0) as file:
        old = file.read().decode()
        lines = old.splitlines()
        values = dict(line.split(' = ', 1) for line in lines
                      if ' = ' in line)
        changed = [name for name, value in settings.items()
                   if values.get(name) != value]
        if changed:
            new = _with(lines, settings)
            # Not shorter: nothing is left behind the end, even for a moment.
            data = new.encode().ljust(len(old.encode()), b'\n')
            if os.pwrite(file.fileno(), data, 0) != len(data):
                raise OSError(f'{path} could not be written')
            os.fsync(file.fileno())
    return changed


def _with(lines: list[str], settings: Settings) -> str:
    kept = [line for line in lines if line.split(' = ', 1)[0] not in settings]
    end = kept.index(_END) if _END in kept else len(kept)
    kept[end:end] = [f'{name} = {value}' for name, value in settings.items()]
    return '\n'.join(kept) + '\n'
