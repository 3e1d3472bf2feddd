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
"""The lab's daemons: where each runs, how it starts, when it is ready."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import pathlib
import socket
import subprocess
import urllib.error
import urllib.request

import libvirt

from blockpath.cloud import config_files
from blockpath.cloud import hosts
from blockpath.cloud import mariadb
from blockpath.daemons import ceph
from blockpath.machine import anchor
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath import paths

#: Seconds that a service may take until it is ready, on a busy machine.
_READY = 180.0
#: Seconds that a service may take to stop before it is killed.
_STOP = 15.0
#: Of the services that are not started with the lab.
METADATA = 'nova-metadata'
DHCP = 'dhcp'
_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'


@dataclasses.dataclass(frozen=True)
class Service:
    """A daemon.

    :ivar argv: of the program; without it the host's system has a unit of
        this name
    :ivar env: added to what every service gets.
    :ivar extra: started only for what needs it, not with the lab.
    """

    name: str
    host: str
    argv: tuple[str, ...]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: bool = False

    @property
    def binary(self) -> str:
        """The name under which its host and the databases have it."""
        return self.name.removesuffix(f'-{self.host}')


def _apis(site: topology.Site) -> Iterable[Service]:
    etc = site.etc / 'control'
    env = {
        'OS_KEYSTONE_CONFIG_FILES': f'{etc}/keystone.conf',
        'OS_PLACEMENT_CONFIG_DIR': f'{etc}',
        'OS_GLANCE_CONFIG_DIR': f'{etc}',
        'OS_GLANCE_CONFIG_FILES': 'glance-api.conf',
        'OS_NOVA_CONFIG_DIR': f'{etc}',
        # The first one is loaded as the application's.
        'OS_NOVA_CONFIG_FILES':
            f'{config_files.tree("nova")}/etc/nova/api-paste.ini;nova.conf',
        'OS_NEUTRON_CONFIG_DIR': f'{etc}',
        'OS_NEUTRON_CONFIG_FILES': 'neutron.conf',
    }
    for api in config_files.MODULES:
        yield Service(f'{api}-api', topology.CONTROL.name,
                      (site.bin('uwsgi'), f'{etc}/uwsgi-{api}.ini'), env)
    yield Service(METADATA, topology.CONTROL.name,
                  (site.bin('uwsgi'), f'{etc}/uwsgi-{METADATA}.ini'), env,
                  extra=True)


def _network(site: topology.Site) -> Iterable[Service]:
    """What gives servers with a port an address, and a way to it."""
    yield Service(DHCP, topology.CONTROL.name, (
        '/usr/sbin/dnsmasq', '--keep-in-foreground', '--log-facility=-',
        '--conf-file=/dev/null', '--user=root', '--port=0', '--no-resolv',
        f'--interface={topology.GUESTS}', '--bind-interfaces',
        '--leasefile-ro', '--dhcp-authoritative',
        f'--dhcp-range={topology.GUEST_CIDR.partition("/")[0]},static,2m',
        f'--dhcp-option=option:router,{topology.GATEWAY}',
        f'--dhcp-hostsdir={site.leases}',
        f'--pid-file={site.leases.with_suffix(".pid")}'), extra=True)
    for host in topology.COMPUTES:
        yield Service(f'taps-{host.name}', host.name, (
            '/usr/bin/python3', str(paths.ROOT / 'blockpath' / 'machine' /
                                    'taps.py'), topology.GUESTS), extra=True)


def _rabbitmq(site: topology.Site) -> Service:
    folder = site.state / 'rabbitmq'
    return Service('rabbitmq', topology.CONTROL.name,
                   ('/usr/lib/rabbitmq/bin/rabbitmq-server',), {
        'HOME': str(folder),
        'RABBITMQ_NODENAME': 'lab@localhost',
        'RABBITMQ_CONFIG_FILE': str(site.etc / 'control' / 'rabbitmq.conf'),
        'RABBITMQ_MNESIA_BASE': str(folder),
        'RABBITMQ_LOG_BASE': str(folder),
        'RABBITMQ_LOGS': '-',
        'RABBITMQ_ENABLED_PLUGINS_FILE': str(folder / 'plugins'),
        'RABBITMQ_PID_FILE': str(folder / 'pid'),
        'RABBITMQ_CONF_ENV_FILE': '/dev/null',
        # Schedulers that spin cost more than they bring on two processors.
        'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS':
            '+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none',
    })


def _hypervisors(site: topology.Site) -> Iterable[Service]:
    for host in topology.COMPUTES:
        yield Service(f'libvirtd-{host.name}', host.name, ())
        yield Service(f'nova-compute-{host.name}', host.name,
                      ('nova-compute', '--config-file',
                       str(site.etc / host.name / 'nova.conf')))


def table(site: topology.Site) -> dict[str, Service]:
    """Every daemon by its name."""
    control = site.etc / 'control'
    services = [
        Service('mariadb', topology.CONTROL.name,
                ('/usr/sbin/mariadbd', f'--defaults-file={control}'
                                       '/mariadb.cnf')),
        _rabbitmq(site),
        *(Service(name, topology.CEPH.name,
                  ceph.command_line(name, site.ceph))
          for name in ceph.DAEMONS),
        *_apis(site),
        *(Service(name, topology.CONTROL.name,
                  (site.bin(name), '--config-file', f'{control}/nova.conf'))
          for name in ('nova-conductor', 'nova-scheduler')),
        Service('cinder-scheduler', topology.CONTROL.name,
                (site.bin('cinder-scheduler'), '--config-file',
                 f'{control}/cinder.conf')),
        Service('cinder-volume', topology.STORAGE.name,
                ('cinder-volume', '--config-file',
                 str(site.etc / 'storage' / 'cinder.conf'))),
        *_hypervisors(site),
        *_network(site),
    ]
    return {service.name: service for service in services}


# libvirt prints every error besides raising it.
libvirt.registerErrorHandler(lambda context, error: None, None)


class Daemons:
    """Starts, stops and watches the hosts and the services of one lab."""

    def __init__(self, site: topology.Site) -> None:
        self.site = site
        self.records = processes.Records(site.run, site.log)
        self.table = table(site)
        self.ceph = ceph.Cluster(
            site.ceph, topology.CEPH.address, topology.CEPH_PORT,
            pools=tuple(topology.POOLS.values()),
            enter=lambda: self.enter(topology.CEPH.name),
            records=self.records)

    def env(self, **extra: str) -> dict[str, str]:
        """A daemon's environment: nothing of the caller's."""
        return {'PATH': f'{self.site.venv}/bin:{_PATH}', 'LANG': 'C.UTF-8',
                'HOME': anchor.TEMPORARY, 'TMPDIR': anchor.TEMPORARY,
                # The end of a log must show what went wrong.
                'PYTHONWARNINGS': 'ignore'} | extra

    # Hosts ---------------------------------------------------------------

    def enter(self, host: str) -> list[str]:
        """The start of a command line that runs on a host of namespaces.

        :raises LabError: the host is not up.
        """
        keeper = self.records.get(f'anchor-{host}')
        if keeper is None or not keeper.alive:
            raise errors.LabError(
                f'host {host} is not up; start the lab with: '
                'blockpath lab up')
        return ['nsenter', '--target', str(keeper.pid), '--net', '--mount',
                '--uts', '--']

    def shell(self, host: str) -> kernel_host.Shell:
        """Runs commands on a host with a kernel of its own.

        :raises KeyError: no such host
        """
        return hosts.shell(self.site, topology.kernel(host))

    def boot(self, host: str) -> None:
        """Start a host with a kernel of its own; return when it serves.

        :raises LabError: it does not start; with its kernel's last words
        """
        hosts.boot(self.site, topology.kernel(host), self.records)

    def run(self, host: str, name: str, argv: list[str],
            **env: str) -> None:
        """Run a program on a host of namespaces to its end.

        :param name: of its log.
        :raises ServiceDied: it failed; with the end of its log.
        """
        log = self.site.log / f'{name}.log'
        with open(log, 'ab') as output:
            child = subprocess.Popen(
                self.enter(host) + argv, env=self.env(**env),
                stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True)
        process = self.records.record(name, child.pid)
        wait.until(lambda: child.poll() is not None, f'{name} to finish',
                   600)
        self.records.forget(name)
        if child.returncode:
            raise errors.ServiceDied(name, log, process.tail())

    # Services ------------------------------------------------------------

    def find(self, name: str) -> processes.Process | kernel_host.Unit | None:
        """A service that was started; None if it or its host was not."""
        service = self.table[name]
        if topology.is_kernel(service.host):
            if not hosts.is_up(service.host, self.records):
                return None
            return self._unit(service)
        return self.records.get(name)

    def _unit(self, service: Service) -> kernel_host.Unit:
        # Units of the host's system write to its journal, which the log of
        # the host has.
        log = service.name if service.argv else service.host
        return kernel_host.Unit(self.shell(service.host), service.binary,
                                self.site.log / f'{log}.log')

    def start(self, name: str) -> processes.Process | kernel_host.Unit:
        service = self.table[name]
        if not topology.is_kernel(service.host):
            return self.records.spawn(
                name, [*self.enter(service.host), *service.argv],
                self.env(**service.env))
        unit = self._unit(service)
        if service.argv:
            unit.start(service.argv, {'PYTHONWARNINGS': 'ignore'} |
                       service.env)
        else:
            unit.shell.read('systemctl', 'start', unit.name)
        return unit

    def stop(self, name: str, grace: float = _STOP) -> None:
        found = self.find(name)
        if isinstance(found, kernel_host.Unit):
            found.stop()
        elif found:
            processes.end(found, grace)
            self.records.forget(name)

    def start_ready(self, name: str) -> None:
        """Start a service and wait until it serves.

        :raises ServiceDied: it ended instead.
        :raises TimedOut: it lives and does not serve.
        """
        ready = self._check(name)
        process = self.start(name)

        def check() -> bool:
            if ready():
                return True
            process.check()
            return False

        wait.until(check, f'{name} to be ready (its log is {process.log})',
                   _READY, 0.2)

    def start_extras(self) -> None:
        """Start what is not started with the lab, unless it runs."""
        for name, service in self.table.items():
            if service.extra and not self.runs(name):
                self.start_ready(name)

    def runs(self, name: str) -> bool:
        process = self.find(name)
        return bool(process and process.alive)

    def restart(self, name: str) -> None:
        """Restart a service, or a host with all of its services.

        :raises LabError: no such service, or it did not come back.
        """
        self._check_known(name)
        if topology.is_kernel(name):
            hosts.kill(name, self.records)
            self.boot(name)
            for service in self.table.values():
                if service.host == name and not service.extra:
                    self.start_ready(service.name)
            return
        self.stop(name)
        self.start_ready(name)

    def kill(self, name: str) -> bool:
        """Have a service, or a host, end with no last word.

        :returns: whether there was one to kill
        :raises LabError: no such service.
        """
        self._check_known(name)
        if topology.is_kernel(name):
            return hosts.kill(name, self.records)
        found = self.find(name)
        if isinstance(found, kernel_host.Unit):
            was_alive = found.alive
            found.kill()
            return was_alive
        if found:
            processes.kill(found)
            self.records.forget(name)
        if name == DHCP:
            # Whoever gets that number next must not be signalled.
            self._dhcp_pid.unlink(missing_ok=True)
        return found is not None

    def _check_known(self, name: str) -> None:
        known = [*self.table, *(host.name for host in topology.KERNELS)]
        if name not in known:
            raise errors.LabError(
                f'unknown service {name} (choose from {", ".join(known)})')

    def _check(self, name: str) -> Callable[[], bool]:
        service = self.table[name]
        if name == 'mariadb':
            return lambda: mariadb.answers(self.site)
        if name == 'rabbitmq':
            return lambda: self._connects(topology.MESSAGE_PORT)
        if name == ceph.MON:
            return self.ceph.answers
        if name == ceph.OSD:
            before = self.ceph.booted()
            return lambda: self.ceph.booted() > before
        if name.startswith('libvirtd'):
            return lambda: self._libvirt_answers(service.host)
        if name.endswith('-api'):
            port = topology.APIS[name.removesuffix('-api')][0]
            return lambda: self._serves(topology.CONTROL.address, port)
        if name == METADATA:
            return lambda: self._serves(topology.METADATA, 80)
        if name == DHCP:
            return self._dhcp_pid.exists
        if name.startswith('taps'):
            return lambda: True
        return self._reports(service)

    def _connects(self, port: int) -> bool:
        return namespaces.run_in(self.site.netns(topology.CONTROL.name),
                                 _connects, topology.CONTROL.address, port)

    @property
    def _dhcp_pid(self) -> pathlib.Path:
        return self.site.leases.with_suffix('.pid')

    def _serves(self, address: str, port: int) -> bool:
        return namespaces.run_in(self.site.netns(topology.CONTROL.name),
                                 _serves, address, port)

    def hypervisor(self, host: str) -> libvirt.virConnect:
        """Connect to a host's libvirtd, from any namespace.

        :raises libvirt.libvirtError: it does not answer
        """
        return namespaces.run_in(
            self.site.netns(topology.CONTROL.name), libvirt.open,
            f'qemu+tcp://{topology.compute(host).address}/system')

    def _libvirt_answers(self, host: str) -> bool:
        try:
            connection = self.hypervisor(host)
        except libvirt.libvirtError:
            return False
        # The first answer takes seconds: libvirt tries out QEMU.
        connection.getCapabilities()
        connection.close()
        return True

    def _reports(self, service: Service) -> Callable[[], bool]:
        """Whether a daemon has written to its project's database.

        A daemon that was restarted has left a line there: it must have
        counted on since now. cinder-volume writes a line a backend.
        """
        before = self._report_counts(service)
        lines = (len(topology.BACKENDS) if service.name == 'cinder-volume'
                 else 1)

        def check() -> bool:
            counts = self._report_counts(service)
            return len(counts) >= lines and all(
                count > before.get(host, -1)
                for host, count in counts.items())

        return check

    def _report_counts(self, service: Service) -> dict[str, int]:
        """host, or host@backend -> how often it has reported."""
        project = service.name.partition('-')[0]
        with mariadb.connect(self.site) as cursor:
            cursor.execute(
                f'SELECT host, report_count FROM {project}.services '
                'WHERE NOT deleted AND `binary` = %s '
                "AND SUBSTRING_INDEX(host, '@', 1) = %s",
                (service.binary, service.host))
            return dict(cursor.fetchall())


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
        return True
    except OSError:
        return False


def _serves(address: str, port: int) -> bool:
    """Whether an API answers, be it that one must log in."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f'http://{address}:{port}/', timeout=20).close()
        return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False
