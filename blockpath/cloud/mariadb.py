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
"""The lab's database server and what it holds before any service starts.

Creating the schemas takes longer than all the rest of a start, and gives the
same result every time. So the server's files are kept just after that, named
after what they were made from, and copied back by the next lab.
"""

from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import pathlib
import shutil
import subprocess

import pymysql

from blockpath.cloud import config_files
from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath import paths

DATABASES = ('keystone', 'placement', 'glance', 'nova_api', 'nova_cell0',
             'nova', 'cinder', 'neutron')
#: A cell's URLs as templates, which Nova fills from its own configuration:
#: the database then holds no password, and can be kept.
_CELL_DATABASE = '{scheme}://{username}:{password}@{hostname}:{port}/'
_CELL_MESSAGES = '{scheme}://{username}:{password}@{hostname}:{port}/{path}'


def _migrations() -> Iterator[pathlib.Path]:
    packages = next((paths.VENV / 'lib').glob('python3*')) / 'site-packages'
    for root in (packages / 'keystone', packages / 'placement',
                 packages / 'glance', packages / 'neutron',
                 config_files.tree('nova') / 'nova',
                 config_files.tree('cinder') / 'cinder'):
        yield from sorted(root.glob('**/versions/**/*.py'))


def digest() -> str:
    """Names what the schemas are made from."""
    state = hashlib.sha256()
    server = os.stat('/usr/sbin/mariadbd')
    state.update(f'{server.st_size} {server.st_mtime_ns}\n'.encode())
    for path in (*_migrations(), pathlib.Path(__file__)):
        state.update(f'{path.name}\n'.encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


@contextlib.contextmanager
def connect(site: topology.Site) -> Iterator[pymysql.cursors.Cursor]:
    """A cursor with all rights, from any namespace.

    :raises pymysql.err.OperationalError: the server does not answer.
    :raises LabError: its host is not up.
    """
    keeper = processes.Records(site.run, site.log).get(
        f'anchor-{topology.CONTROL.name}')
    if keeper is None:
        raise errors.LabError('the lab\'s control host is not up')
    connection = pymysql.connect(
        unix_socket=f'/proc/{keeper.pid}/root{topology.DATABASE_SOCKET}',
        user='root', autocommit=True)
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


def answers(site: topology.Site) -> bool:
    try:
        with connect(site):
            return True
    except pymysql.err.OperationalError:
        return False


class Store:
    """The files of the server, and the kept copy of them."""

    def __init__(self, site: topology.Site) -> None:
        self.site = site
        self.data = site.state / 'mysql'
        self.kept = site.cache / f'database-{digest()}'
        #: Whether the data holds the schemas already.
        self.ready = False

    def prepare(self) -> None:
        """Fill the server's folder, from the kept copy if there is one."""
        if self.kept.exists():
            _copy(self.kept, self.data)
            self.ready = True
            return
        done = subprocess.run(
            ['mariadb-install-db', '--no-defaults', '--user=root',
             f'--datadir={self.data}', '--skip-test-db',
             '--auth-root-authentication-method=socket'],
            capture_output=True, text=True)
        if done.returncode:
            raise errors.LabError('the database could not be created: ' +
                                  ' '.join(done.stderr.split())[-300:])

    def keep(self) -> None:
        """Copy the files of the server, which must be stopped."""
        self.site.cache.mkdir(parents=True, exist_ok=True)
        for old in self.site.cache.glob('database-*'):
            shutil.rmtree(old, ignore_errors=True)
        partial = self.kept.with_suffix('.partial')
        shutil.rmtree(partial, ignore_errors=True)
        _copy(self.data, partial)
        partial.rename(self.kept)

    def grant(self, passwords: credentials.Passwords) -> None:
        """Give the services their account, and the databases."""
        with connect(self.site) as cursor:
            for name in DATABASES:
                cursor.execute(f'CREATE DATABASE IF NOT EXISTS {name}')
            # A kept copy has the account, with another lab's password.
            cursor.execute("CREATE OR REPLACE USER blockpath@'%%' "
                           'IDENTIFIED BY %s', (passwords.database,))
            cursor.execute("GRANT ALL ON *.* TO blockpath@'%'")


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    subprocess.run(['cp', '-a', '--sparse=always', '--reflink=auto',
                    str(source), str(target)], check=True)


Run = Callable[[str, list[str]], None]


def create_schemas(site: topology.Site, run: Run) -> None:
    """Run every project's own tool, in lanes.

    Two lanes, of about the same length, keep two processors busy.

    :param run: runs a named program on the control host and raises when it
        fails.
    """
    etc = site.etc / 'control'

    def manage(tool: str, config: str, *arguments: str) -> None:
        words = itertools.takewhile(lambda word: word[0] != '-', arguments)
        run('-'.join((tool, *words)),
            [site.bin(tool), '--config-file', str(etc / config), *arguments])

    def first() -> None:
        manage('keystone-manage', 'keystone.conf', 'db_sync')
        manage('keystone-manage', 'keystone.conf', 'bootstrap',
               '--bootstrap-region-id', topology.REGION,
               *(f'--bootstrap-{interface}-url={topology.url("keystone")}'
                 for interface in ('public', 'internal', 'admin')))
        manage('placement-manage', 'placement.conf', 'db', 'sync')
        manage('glance-manage', 'glance-api.conf', 'db_sync')
        manage('cinder-manage', 'cinder.conf', 'db', 'sync')

    def second() -> None:
        nova = ('nova-manage', 'nova.conf')
        manage(*nova, 'api_db', 'sync')
        manage(*nova, 'cell_v2', 'map_cell0', '--database_connection',
               f'{_CELL_DATABASE}nova_cell0?{{query}}')
        manage(*nova, 'db', 'sync')
        manage(*nova, 'cell_v2', 'create_cell', '--name', 'cell1',
               '--database_connection', f'{_CELL_DATABASE}nova?{{query}}',
               '--transport-url', _CELL_MESSAGES)
        manage('neutron-db-manage', 'neutron.conf', 'upgrade', 'heads')

    with concurrent.futures.ThreadPoolExecutor(2) as lanes:
        for lane in [lanes.submit(first), lanes.submit(second)]:
            lane.result()
