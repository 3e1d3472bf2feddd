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
"""The hosts of a running lab: their processes, services and hypervisors."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
import subprocess
from typing import Any

import libvirt

from blockpath.cloud import services
from blockpath.machine import namespaces
from blockpath.machine import topology


class Hosts:
    """The hosts of a lab that is up, by their names.

    :ivar names: the compute hosts
    """

    names = tuple(host.name for host in topology.COMPUTES)

    def __init__(self, daemons: services.Daemons) -> None:
        self._site = daemons.site
        self._daemons = daemons
        self._libvirt: dict[str, libvirt.virConnect] = {}

    def run_in(self, host: str, argv: Sequence[str],
               **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a program on a host: ``cmp1``, ``storage``, ...

        :param kwargs: for :func:`subprocess.run`; output is captured as
            text.
        """
        return subprocess.run(
            [*self._daemons.enter(host), *argv], capture_output=True,
            text=True, env=self._daemons.env(), **kwargs)

    def root(self, host: str) -> pathlib.Path:
        """Return a host's root directory, with its own /run and /etc."""
        return self._daemons.root(host)

    def versions(self) -> dict[str, str]:
        """Return what QEMU and libvirt of a compute host say of theirs."""
        return {name: self.run_in(
            self.names[0], [program, '--version']).stdout.partition('\n')[0]
            for name, program in (('qemu', 'qemu-system-x86_64'),
                                  ('libvirtd', 'libvirtd'))}

    def processes(self) -> dict[int, str]:
        """Map the ids of all processes of the lab to their hosts."""
        prefix = f'{self._site.prefix}-'
        return {pid: name.removeprefix(prefix) for pid, name in
                namespaces.members(namespaces.existing(self._site)).items()}

    def hypervisor(self, host: str) -> libvirt.virConnect:
        """Return a connection to a host's libvirtd, from any namespace."""
        if host in self._libvirt:
            try:
                # isAlive() would not notice that libvirtd was restarted.
                self._libvirt[host].getLibVersion()
                return self._libvirt[host]
            except libvirt.libvirtError:
                pass
        self._libvirt[host] = libvirt.open(self._daemons.libvirt_uri(host))
        return self._libvirt[host]

    def restart(self, service: str) -> None:
        """Restart a service; it serves when this returns.

        A restarted tgtd has no targets. cinder-volume, which creates them,
        is restarted as well.
        """
        self._daemons.restart(service)
        if service == 'tgtd':
            self._daemons.restart('cinder-volume')

    def kill(self, service: str) -> bool:
        """Kill a service without warning; :meth:`restart` starts it.

        :returns: whether the service ran
        """
        return self._daemons.kill(service)

    @contextlib.contextmanager
    def killed(self, service: str) -> Iterator[None]:
        """Kill a service without warning; it serves again after the block."""
        try:
            self.kill(service)
            yield
        finally:
            self.restart(service)

    def running(self, program: str) -> list[int]:
        """List the processes of the lab that run the named program."""
        def runs(pid: int) -> bool:
            try:
                line = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
            except OSError:
                return False
            return line.partition(b'\0')[0].rpartition(
                b'/')[2] == program.encode()

        return sorted(filter(runs, self.processes()))

    @contextlib.contextmanager
    def configured(self, service: str,
                   **sections: Mapping[str, object]) -> Iterator[None]:
        """Run a service with other options until the block ends.

        :param sections: section -> option -> value
        """
        argv = self._daemons.table[service].argv
        path = pathlib.Path(argv[argv.index('--config-file') + 1])
        before = path.read_text()
        # If an option is set twice, the last counts.
        lines = [line for section, options in sections.items() for line in
                 (f'[{section}]', *(f'{option} = {value}' for option, value
                                    in options.items()))]
        path.write_text('\n'.join([before, *lines, '']))
        try:
            self.restart(service)
            yield
        finally:
            path.write_text(before)
            self.restart(service)

    def secrets(self, host: str) -> list[libvirt.virSecret]:
        """List libvirt's secrets on a host."""
        return self.hypervisor(host).listAllSecrets()

    def scsi_devices(self) -> list[str]:
        """List the SCSI devices of this machine's kernel."""
        found = pathlib.Path('/sys/class/scsi_device')
        return sorted(entry.name for entry in found.glob('*'))
