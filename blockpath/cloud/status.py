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
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology


@dataclasses.dataclass(frozen=True)
class Line:
    """One service.

    :ivar process: None when it was never started.
    :ivar memory: MiB of it and what it started, shared pages in proportion.
    """

    service: services.Service
    process: processes.Process | None
    memory: int

    @property
    def alive(self) -> bool:
        return bool(self.process and self.process.alive)


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
    """:returns: a line a service, and the MiB of all the lab's processes.

    Guests count in the sum only.
    """
    daemons = services.Daemons(site)
    by_session: dict[int, int] = {}
    for pid in namespaces.members(namespaces.existing(site)):
        session = _session(pid)
        by_session[session] = by_session.get(session, 0) + _memory(pid)
    lines = []
    for name, service in daemons.table.items():
        process = daemons.records.get(name)
        if service.extra and not process:
            continue
        kib = by_session.get(process.pid, 0) if process else 0
        lines.append(Line(service, process, kib >> 10))
    return lines, sum(by_session.values()) >> 10
