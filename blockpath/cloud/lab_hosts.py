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

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import contextlib
import pathlib
import re
import subprocess
from typing import Any

import libvirt

from blockpath.cloud import services
from blockpath.machine import kernel_host
from blockpath.machine import topology


#: Traces of connections on a host: kind -> a command that lists them.
_OF_INITIATORS = {
    'session': 'iscsiadm -m session 2>/dev/null | cut -d " " -f 3,4',
    'node record': 'iscsiadm -m node 2>/dev/null',
    'SCSI device': 'ls /sys/class/scsi_device',
    'multipath map': 'dmsetup ls --target multipath | grep -v "^No dev"',
    'dm-crypt device': 'dmsetup ls --target crypt | grep -v "^No dev"',
}
#: How much of a program's name the kernel keeps.
_COMM = 15
_INITIATOR = re.compile(r'^iscsi_initiator = (.*)$', re.MULTILINE)


class Hosts:
    """The hosts of a lab that is up, by their names.

    :ivar names: the compute hosts
    """

    names = tuple(host.name for host in topology.COMPUTES)

    def __init__(self, daemons: services.Daemons) -> None:
        self._site = daemons.site
        self._daemons = daemons

    def shell(self, host: str) -> kernel_host.Shell:
        """Run commands on a host with a kernel of its own."""
        return self._daemons.shell(host)

    def commands(self) -> dict[str, Callable[[Sequence[str]], list[str]]]:
        """Return how to run a program on each host that has a kernel."""
        return {host.name: self.shell(host.name).command
                for host in topology.KERNELS}

    def run_in(self, host: str, argv: Sequence[str],
               **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a program on a host: ``cmp1``, ``storage``, ...

        :param kwargs: for :func:`subprocess.run`; output is captured as
            text.
        """
        if topology.is_kernel(host):
            return self.shell(host).run(argv, **kwargs)
        return subprocess.run(
            [*self._daemons.enter(host), *argv], capture_output=True,
            text=True, env=self._daemons.env(), **kwargs)

    def versions(self) -> dict[str, str]:
        """Return what QEMU and libvirt of a compute host say of theirs."""
        return {name: self.run_in(
            self.names[0], [program, '--version']).stdout.partition('\n')[0]
            for name, program in (('qemu', 'qemu-system-x86_64'),
                                  ('libvirtd', 'libvirtd'))}

    def hypervisor(self, host: str) -> libvirt.virConnect:
        """Connect to a host's libvirtd, from any namespace.

        Close the connection before the host ends: closing calls libvirtd.
        """
        return self._daemons.hypervisor(host)

    def restart(self, service: str) -> None:
        """Restart a service, or a host; it serves when this returns."""
        self._daemons.restart(service)

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

    def running(self, host: str, program: str) -> list[int]:
        """List the processes on a host that run the named program."""
        done = self.shell(host).run(['pgrep', '--exact', program[:_COMM]])
        return [int(line) for line in done.stdout.split()]

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

    def set_initiators(self, initiators: Mapping[str, str]) -> None:
        """Have compute hosts connect volumes by another initiator.

        :param initiators: host -> ``host`` or ``qemu``. Services of
            which nothing changes are left alone.
        """
        changed = []
        for host, initiator in initiators.items():
            path = self._nova_conf(host)
            before = path.read_text()
            after = _INITIATOR.sub(f'iscsi_initiator = {initiator}', before)
            if after != before:
                path.write_text(after)
                changed.append(f'nova-compute-{host}')
        with concurrent.futures.ThreadPoolExecutor() as executor:
            list(executor.map(self.restart, changed))

    @contextlib.contextmanager
    def using_initiator(self, initiator: str) -> Iterator[None]:
        """Have all compute hosts use one initiator until the block ends.

        :param initiator: ``host`` or ``qemu``
        """
        before = {host: _INITIATOR.findall(
            self._nova_conf(host).read_text())[-1] for host in self.names}
        try:
            self.set_initiators(dict.fromkeys(self.names, initiator))
            yield
        finally:
            self.set_initiators(before)

    def _nova_conf(self, host: str) -> pathlib.Path:
        return self._site.etc / host / 'nova.conf'

    def secrets(self, host: str) -> list[libvirt.virSecret]:
        """List libvirt's secrets on a host."""
        return self.hypervisor(host).listAllSecrets()

    def leftovers(self, host: str) -> dict[str, list[str]]:
        """List all that an initiator makes on a host, by kind.

        :returns: kind -> names; kinds of which there are none are left out
        """
        found = {
            kind: self.shell(host).run(
                ['sh', '-c', command]).stdout.split('\n')
            for kind, command in _OF_INITIATORS.items()}
        return {kind: sorted(filter(None, names))
                for kind, names in found.items() if any(names)}
