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
"""Write every configuration file of a lab from its template."""

import base64
import os
import pathlib

import jinja2

from blockpath.daemons import ceph
from blockpath.machine import credentials
from blockpath.machine import topology
from blockpath.machine import userland
from blockpath import paths

_HOSTS = {host.name: host for host in topology.HOSTS}
_TEMPLATES = pathlib.Path(__file__).parent / 'templates'

#: Configuration of the services, by the host that reads it.
SERVICES = {
    'control': ('keystone.conf', 'placement.conf', 'glance-api.conf',
                'nova.conf', 'cinder.conf', 'neutron.conf', 'clouds.yaml',
                'rabbitmq.conf', 'mariadb.cnf'),
    'storage': ('cinder.conf',),
}
#: Module that holds each API's WSGI application.
MODULES = {
    'keystone': 'keystone.wsgi.api',
    'placement': 'placement.wsgi.api',
    'glance': 'glance.wsgi.api',
    'nova': 'nova.wsgi.osapi_compute',
    'cinder': 'cinder.wsgi.api',
    'neutron': 'neutron.wsgi.api',
}


def tree(name: str) -> pathlib.Path:
    """The checked-out tree of a patched project that .venv imports.

    :returns: the newest release's.
    """
    found = sorted(paths.TREES.glob(f'*/{name}'))
    return found[-1] if found else paths.TREES / name


class Renderer:
    """Writes configuration files of one lab."""

    def __init__(self, site: topology.Site,
                 passwords: credentials.Passwords) -> None:
        self.site = site
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES), trim_blocks=True,
            lstrip_blocks=True, undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True)
        self._environment.globals.update(
            site=site, passwords=passwords, control=topology.CONTROL,
            storage=topology.STORAGE,
            hosts=topology.HOSTS, url=topology.url,
            region=topology.REGION, database_port=topology.DATABASE_PORT,
            message_port=topology.MESSAGE_PORT, scopes=topology.SCOPES,
            default_type=topology.LVM,
            backends=topology.BACKENDS,
            pools=topology.POOLS, ceph_conf=site.ceph / 'ceph.conf',
            ceph_user=ceph.USER,
            database_socket=topology.DATABASE_SOCKET,
            trees=tree('nova').parent)

    def text(self, template: str, **values: object) -> str:
        return self._environment.get_template(f'{template}.j2').render(values)

    def write(self, template: str, path: pathlib.Path,
              **values: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        credentials.write_private(
            path, self.text(template, config=path, **values))

    def all(self) -> None:
        """Write every file."""
        for name, files in SERVICES.items():
            for file in files:
                self.write(file, self.site.etc / name / file,
                           host=_HOSTS[name], venv=self._venv(name))
        for api, module in MODULES.items():
            self._write_uwsgi(api, module)
        self._write_metadata()
        for host in topology.HOSTS:
            self._write_public('hosts', self._own(host, 'etc/hosts'))
        for compute in topology.COMPUTES:
            self._write_hypervisor(compute)
        for kernel in topology.KERNELS:
            self._write_initiator(kernel)
        # Else LIO has nowhere to keep its configuration.
        self._own(topology.STORAGE, 'etc/target').mkdir()
        self._write_keys()

    def _venv(self, host: str) -> pathlib.Path:
        """Return the virtual environment of a host's services."""
        if not topology.is_kernel(host):
            return self.site.venv
        suite = userland.SUITES[topology.kernel(host).suite]
        return userland.venv_of(suite, userland.CACHE)

    def _own(self, host: topology.Host, path: str) -> pathlib.Path:
        """Return where a file of a host's own is written."""
        own = self.site.host(host.name)
        return (own / 'root' if topology.is_kernel(host.name) else own) / path

    def _write_public(self, template: str, path: pathlib.Path,
                      **values: object) -> None:
        """Write a file that holds no password."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(template, **values))

    def _write_uwsgi(self, api: str, module: str) -> None:
        folder = self.site.etc / 'control'
        # Cinder finds its configuration by command line only.
        pyargv = (f'--config-file {folder}/cinder.conf'
                  if api == 'cinder' else '')
        self.write('uwsgi.ini', folder / f'uwsgi-{api}.ini',
                   address=topology.CONTROL.address,
                   port=topology.APIS[api][0], module=module, pyargv=pyargv)

    def _write_metadata(self) -> None:
        self.write('uwsgi.ini',
                   self.site.etc / 'control' / 'uwsgi-nova-metadata.ini',
                   address=topology.METADATA, port=80,
                   module='nova.wsgi.metadata', pyargv='')

    def _write_hypervisor(self, host: topology.ComputeHost) -> None:
        for file in ('libvirtd.conf', 'qemu.conf'):
            self._write_public(file, self._own(host, f'etc/libvirt/{file}'),
                               host=host)
        self._own(host, 'etc/default').mkdir()
        # Else it ends when it has had nothing to do for two minutes.
        self._own(host, 'etc/default/libvirtd').write_text('LIBVIRTD_ARGS=\n')
        wanted = self._own(host, 'etc/systemd/system/sockets.target.wants')
        wanted.mkdir(parents=True)
        unit = 'libvirtd-tcp.socket'
        (wanted / unit).symlink_to(f'/lib/systemd/system/{unit}')
        self.write('nova.conf', self.site.etc / host.name / 'nova.conf',
                   host=host, venv=self._venv(host.name))

    def _write_initiator(self, host: topology.KernelHost) -> None:
        iscsi = self._own(host, 'etc/iscsi')
        iscsi.mkdir(exist_ok=True)
        (iscsi / 'initiatorname.iscsi').write_text(
            f'InitiatorName={host.initiator}\n')
        self._write_public('iscsid.conf', iscsi / 'iscsid.conf')
        self._write_public('multipath.conf',
                           self._own(host, 'etc/multipath.conf'))

    def _write_keys(self) -> None:
        """Keystone's key repositories: one staged key, one in use."""
        for name in ('tokens', 'receipts', 'credentials'):
            folder = self.site.state / 'keystone' / name
            folder.mkdir(parents=True, mode=0o700)
            for key in ('0', '1'):
                credentials.write_private(
                    folder / key,
                    base64.urlsafe_b64encode(os.urandom(32)).decode())
