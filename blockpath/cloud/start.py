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
"""Start a lab: what is done, and what has to wait for what."""

from collections.abc import Callable
import importlib.util
import pathlib
import shutil
import subprocess
import sys

from blockpath.cloud import config_files
from blockpath.cloud import hosts
from blockpath.cloud import keystone_bootstrap
from blockpath.cloud import lifecycle
from blockpath.cloud import mariadb
from blockpath.cloud import seed
from blockpath.cloud import services
from blockpath.console import progress
from blockpath.daemons import ceph
from blockpath.guests import tiny
from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import tasks
from blockpath.machine import topology
from blockpath.machine import wait

#: Programs that must be there -> the Debian package that has each.
PROGRAMS = {
    '/usr/sbin/mariadbd': 'mariadb-server',
    '/usr/lib/rabbitmq/bin/rabbitmq-server': 'rabbitmq-server',
    '/usr/bin/qemu-img': 'qemu-utils',
    '/usr/sbin/dnsmasq': 'dnsmasq-base',
    '/usr/bin/dhcp_release': 'dnsmasq-utils',
    '/usr/bin/nsenter': 'util-linux',
    '/usr/sbin/ip': 'iproute2',
    '/usr/bin/mmdebstrap': 'mmdebstrap',
    '/usr/bin/ssh': 'openssh-client',
    **ceph.PROGRAMS,
}
#: Microseconds between two writes of a guest to its first disk, and to each
#: of the others: its host has one processor, which Nova and libvirt need, too.
INTERVAL_US, OTHERS_US = 20_000, 200_000
#: Modules that must be there -> the Debian package that has each.
BINDINGS = {'rados': 'python3-rados', 'rbd': 'python3-rbd'}


def check_programs() -> None:
    """:raises LabError: names the packages that are missing."""
    missing = [package for path, package in PROGRAMS.items()
               if not pathlib.Path(path).exists()]
    if missing:
        raise errors.LabError('the lab needs packages that are missing; '
                              f'run: apt-get install {" ".join(missing)}')
    unknown = [package for module, package in BINDINGS.items()
               if importlib.util.find_spec(module) is None]
    if unknown:
        raise errors.LabError(
            f'{sys.executable} does not find what {" and ".join(unknown)} '
            'bring; ./run setup says why')


def check_place(site: topology.Site) -> None:
    """:raises LabError: the lab's files would not be found from its hosts."""
    place = str(site.state.absolute())
    if any(character in place for character in ' :;%'):
        raise errors.LabError(
            f'the checkout\'s path, {place}, holds a space, colon, semicolon '
            'or percent sign, which services misread; move it')
    if place.startswith(('/etc/', '/run/', '/var/lib/libvirt/')):
        raise errors.LabError(
            f'the checkout is in a folder, {place}, that each host of the '
            'lab has its own of; move it')


Step = Callable[[], None]


class Start:
    """One start of a lab.

    :param say: is told what takes long.
    """

    def __init__(self, site: topology.Site, say: tiny.Say) -> None:
        self.site = site
        self.say = say
        self.passwords = credentials.Passwords()
        self.renderer = config_files.Renderer(site, self.passwords)
        self.daemons = services.Daemons(site)
        self.store = mariadb.Store(site)

    def tasks(self) -> list[tasks.Task]:
        """The steps. The order here breaks ties: longest way first."""
        task = tasks.Task
        start = {name: self._starter(name) for name in self.daemons.table}
        # Services look their peers up once: the catalog must be complete.
        daemons = ('identity', 'rabbitmq')
        return [
            task('configuration', self._configure),
            task('network', lambda: namespaces.create(self.site)),
            task('database files', self.store.prepare),
            task('anchors', self._anchor, ('configuration', 'network')),
            *(task(f'host {host.name}', self._booter(host.name),
                   ('anchors',)) for host in topology.KERNELS),
            task('rabbitmq', start['rabbitmq'], ('anchors',)),
            task('mariadb', start['mariadb'], ('anchors', 'database files')),
            task('schemas', self._schemas, ('mariadb',)),
            task('keystone', start['keystone-api'], ('schemas',)),
            *(task(f'libvirtd {host.name}', start[f'libvirtd-{host.name}'],
                   (f'host {host.name}',)) for host in topology.COMPUTES),
            task('volume groups', self._make_volume_groups,
                 (f'host {topology.STORAGE.name}',)),
            task('ceph files', self.daemons.ceph.make, ('anchors',)),
            task('ceph-mon', start[ceph.MON], ('ceph files',)),
            task('ceph members', self.daemons.ceph.register, ('ceph-mon',)),
            task('ceph-osd', start[ceph.OSD], ('ceph members',)),
            task('ceph pools', self.daemons.ceph.create_pools,
                 ('ceph members',)),
            task('identity', self._identity, ('keystone',)),
            task('nova-conductor', start['nova-conductor'], daemons),
            *(task(api, start[f'{api}-api'], daemons)
              for api in topology.APIS if api != 'keystone'),
            *(task(f'nova-compute {host.name}',
                   start[f'nova-compute-{host.name}'],
                   ('nova-conductor', 'placement', f'libvirtd {host.name}'))
              for host in topology.COMPUTES),
            task('nova-scheduler', start['nova-scheduler'], daemons),
            task('cinder-volume', start['cinder-volume'],
                 (*daemons, 'volume groups', 'ceph pools', 'ceph-osd')),
            task('cinder-scheduler', start['cinder-scheduler'], daemons),
            task('guest image', self._build_image),
            task('image', self._add_image,
                 ('guest image', 'glance')),
            task('flavors', self._content(seed.add_flavors),
                 ('nova',)),
            task('network types', self._content(seed.add_network),
                 ('neutron',)),
            task('volume types', self._content(seed.add_volume_types),
                 ('cinder',)),
            task('hypervisors', self._hypervisors,
                 ('nova-scheduler', *(f'nova-compute {host.name}'
                                      for host in topology.COMPUTES))),
            task('storage pools', self._content(seed.wait_for_pools),
                 ('cinder', 'cinder-volume', 'cinder-scheduler')),
        ]

    def _starter(self, name: str) -> Step:
        return lambda: self.daemons.start_ready(name)

    def _booter(self, host: str) -> Step:
        return lambda: self.daemons.boot(host)

    def _configure(self) -> None:
        for folder in ('glance', 'cinder/conversion', 'neutron', 'rabbitmq',
                       'locks'):
            (self.site.state / folder).mkdir(parents=True)
        (self.site.state / 'rabbitmq' / 'plugins').write_text('[].\n')
        self.passwords.save(self.site.state / 'passwords.json')
        self.renderer.all()
        hosts.configure(self.site)

    def _make_volume_groups(self) -> None:
        """Make a volume group for each LVM backend of Cinder, on a disk."""
        shell = self.daemons.shell(topology.STORAGE.name)
        for disk, group in zip('abcdef', topology.SCOPES):
            shell.read('vgcreate', group, f'/dev/ubd{disk}')

    def _build_image(self) -> None:
        self.image = tiny.build(INTERVAL_US, OTHERS_US, say=self.say)

    def _add_image(self) -> None:
        self._in_control(seed.add_image, self.site, self.image)

    def _anchor(self) -> None:
        """Give each host a process that keeps its namespaces."""
        started = [self._start_anchor(host) for host in topology.NAMESPACES]
        for host, child in zip(topology.NAMESPACES, started):
            out, err = child.stdout, child.stderr
            assert out and err
            if out.readline() != b'ready\n':
                raise errors.LabError(
                    f'host {host.name} could not be made: '
                    f'{err.read().decode().strip()[-300:]}')
            out.close()
            err.close()
            self.daemons.records.record(f'anchor-{host.name}', child.pid)

    def _start_anchor(self, host: topology.Host
                      ) -> 'subprocess.Popen[bytes]':
        folder = self.site.host(host.name)
        return subprocess.Popen(
            ['nsenter', f'--net={namespaces.path(self.site.netns(host.name))}',
             'unshare', '--mount', '--uts', '--propagation', 'private',
             sys.executable, '-m', 'blockpath.machine.anchor', str(folder),
             host.name],
            env=self.daemons.env(PYTHONPATH=str(_CHECKOUT)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)

    def _schemas(self) -> None:
        self.store.grant(self.passwords)
        if not self.store.ready:
            mariadb.create_schemas(
                self.site, lambda name, argv: self.daemons.run(
                    topology.CONTROL.name, f'schema-{name}', argv,
                    OS_BOOTSTRAP_PASSWORD=keystone_bootstrap.SEED_PASSWORD))

    def _identity(self) -> None:
        if not self.store.ready:
            self._in_control(keystone_bootstrap.build)
            self.daemons.stop('mariadb', 60)
            self.store.keep()
            self.daemons.start_ready('mariadb')
        self._in_control(keystone_bootstrap.set_passwords, self.passwords)

    def _in_control(self, function: Callable[..., None],
                    *args: object) -> None:
        namespaces.run_in(self.site.netns(topology.CONTROL.name),
                          function, *args)

    def _content(self, function: Callable[..., None]) -> Step:
        return lambda: self._in_control(function, self.site)

    def _hypervisors(self) -> None:
        """Wait until the scheduler may place servers on each host."""
        def mapped() -> bool:
            with mariadb.connect(self.site) as cursor:
                cursor.execute('SELECT COUNT(*) FROM nova_api.host_mappings')
                hosts = cursor.fetchone()
                cursor.execute('SELECT COUNT(*) FROM '
                               'placement.resource_providers')
                return min(hosts[0], cursor.fetchone()[0]) == len(
                    topology.COMPUTES)

        wait.until(mapped, 'the hypervisors to be listed', 90, 0.2)


_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def up(site: topology.Site, report: progress.Display) -> bool:
    """Start a lab and return when it serves.

    What a killed lab left is cleared first. On failure and on interruption
    all is cleared again, but the logs.

    :returns: False when it was up already.
    :raises LabError: what failed, with the end of the log of the service.
    """
    check_programs()
    check_place(site)
    with lifecycle.locked(site):
        found = lifecycle.find(site)
        if found is lifecycle.State.UP:
            _check_alive(site)
            return False
        if found is lifecycle.State.REMAINS:
            report.say('clearing what an earlier lab left')
        lifecycle.clear(site)
        shutil.rmtree(site.log, ignore_errors=True)
        for folder in (site.log, site.run, site.etc):
            folder.mkdir(mode=0o700)
        start = Start(site, report.say)
        try:
            hosts.prepare(report.say)
            tasks.run_all(start.tasks(), report)
            lifecycle.mark_up(site)
        except BaseException:
            lifecycle.clear(site)
            raise
    return True


def _check_alive(site: topology.Site) -> None:
    """:raises LabError: a service of the running lab has died."""
    daemons = services.Daemons(site)
    for name, service in daemons.table.items():
        if service.extra:
            continue
        found = daemons.find(name)
        if found is None:
            raise errors.LabError(
                f'the lab is up without {name}; run: blockpath lab down')
        found.check()
