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
"""What of a lab runs, and what it takes."""

import dataclasses
import pathlib

from blockpath.cloud import services
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology


@dataclasses.dataclass(frozen=True)
class Line:
    """A service, or a host with a kernel of its own.

    :ivar running: None if it was never started
    :ivar memory: MiB of it and its children, shared pages in proportion;
        None for a service of such a host, whose memory is the host's
    """

    name: str
    host: str
    running: processes.Process | kernel_host.Unit | None
    memory: int | None

    @property
    def alive(self) -> bool:
        return bool(self.running and self.running.alive)


def _memory(pid: int) -> int:
    """A process's share of memory, in KiB."""
    try:
        rollup = pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in rollup.splitlines():
        if line.startswith('Pss:'):
            return int(line.split()[1])
    return 0


def _session(pid: int) -> int:
    """The session of a process; each service is started in its own."""
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(')')[2].split()[3])


def collect(site: topology.Site) -> tuple[list[Line], int]:
    """List what runs, and what it takes.

    :returns: a line for each host with a kernel of its own and for each
        service, and the MiB of all the lab's processes
    """
    daemons = services.Daemons(site)
    by_session: dict[int, int] = {}
    for pid in namespaces.members(namespaces.existing(site)):
        session = _session(pid)
        by_session[session] = by_session.get(session, 0) + _memory(pid)
    lines = [_line(host.name, host.name, daemons.records.get(host.name),
                   by_session) for host in topology.KERNELS]
    for name, service in daemons.table.items():
        found = daemons.find(name)
        if not service.extra or found and found.alive:
            lines.append(_line(name, service.host, found, by_session))
    return lines, sum(by_session.values()) >> 10


def _line(name: str, host: str,
          found: processes.Process | kernel_host.Unit | None,
          by_session: dict[int, int]) -> Line:
    memory = (by_session.get(found.pid, 0) >> 10
              if isinstance(found, processes.Process) else None)
    return Line(name, host, found, memory)
