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
"""The logs of the lab that is up, or of the last one.

The log folder outlives the lab. The consoles of guests are among Nova's files
on each host, and are copied there when the lab stops.
"""

from collections.abc import Iterator
import dataclasses
import html
import pathlib
import re
import shutil

from blockpath.machine import errors
from blockpath.machine import topology

#: In the order of a listing.
KINDS = ('service', 'host', 'guest', 'QEMU')
_CONSOLE = 'console-'
#: Nova's compute services log the XML of each domain that they start.
_SERVER = re.compile(rb'<uuid>([-0-9a-f]{36})</uuid>.{0,2000}?'
                     rb'<nova:name>(.*?)</nova:name>', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Log:
    """A log.

    :ivar kind: of the program that writes it, one of :data:`KINDS`
    :ivar name: its path in the log folder, without the suffix
    """

    kind: str
    name: str
    path: pathlib.Path

    @property
    def server(self) -> str:
        """The id of the server whose console it is."""
        return self.name.rpartition(_CONSOLE)[2]


def find(site: topology.Site) -> list[Log]:
    """List the logs; of a console that is being written, not its copy."""
    found = {}
    for path in site.log.rglob('*.log'):
        name = str(path.relative_to(site.log).with_suffix(''))
        found[name] = Log(_kind(name), name, path)
    for path, kept in _consoles(site):
        name = str(kept.relative_to(site.log).with_suffix(''))
        found[name] = Log('guest', name, path)
    return sorted(found.values(),
                  key=lambda log: (KINDS.index(log.kind), log.name))


def _kind(name: str) -> str:
    host, _, rest = name.partition('/')
    if rest.startswith(_CONSOLE):
        return 'guest'
    if rest.startswith('libvirt/qemu/'):
        return 'QEMU'
    return 'host' if not rest and topology.is_kernel(host) else 'service'


def _consoles(site: topology.Site
              ) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yield Nova's files, and the path of a copy in the log folder."""
    for host in topology.COMPUTES:
        instances = site.host(host.name) / 'nova' / 'instances'
        for path in instances.glob('*/console.log'):
            yield path, (site.log / host.name /
                         f'{_CONSOLE}{path.parent.name}.log')


def keep_consoles(site: topology.Site) -> list[pathlib.Path]:
    """Copy the consoles of guests to the log folder.

    :returns: the copies
    """
    copies = []
    for path, kept in _consoles(site):
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
        copies.append(kept)
    return copies


def servers(site: topology.Site) -> dict[str, str]:
    """Map the ids of all servers that were started to their names."""
    found = {}
    for path in site.log.glob('nova-compute-*.log'):
        for server, name in _SERVER.findall(path.read_bytes()):
            found[server.decode()] = html.unescape(name.decode())
    return found


def get(site: topology.Site, name: str) -> Log:
    """Return a log by its name.

    :raises LabError: there is none of that name
    """
    for log in find(site):
        if log.name == name:
            return log
    raise errors.LabError(
        f'unknown log {name}; list them with: blockpath lab logs')


def console(site: topology.Site, name: str) -> Log:
    """Return the console of a host's kernel, or of a server's guest.

    A guest that was migrated may have one on each host: the newest counts.

    :param name: of the host or the server, or the server's id
    :raises LabError: there is none
    """
    names = servers(site)
    found = [log for log in find(site)
             if log.kind == 'host' and log.name == name or
             log.kind == 'guest' and name in (log.server,
                                              names.get(log.server))]
    if not found:
        raise errors.LabError(
            f'no console of {name} was found; list the logs with: '
            'blockpath lab logs')
    return max(found, key=lambda log: log.path.stat().st_mtime)
