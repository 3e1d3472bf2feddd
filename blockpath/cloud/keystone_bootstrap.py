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
"""Accounts and the catalog: what keystone must hold before others start."""

from typing import Any

import requests

from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import topology

#: The passwords in a database just created. They are changed before other
#: services start, and open nothing outside a lab's namespaces.
SEED_PASSWORD = 'changed-at-every-start'
_TIMEOUT = 60


class Identity:
    """A few calls of keystone's API, as the administrator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def _call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._session.request(
            method, self.url + path, json=body or None, timeout=_TIMEOUT)
        if not answer.ok:
            raise errors.LabError(
                f'keystone: {method} {path} answered {answer.status_code}')
        return answer.json() if answer.content else {}

    def log_in(self, password: str) -> None:
        answer = self._session.post(
            f'{self.url}/auth/tokens', timeout=_TIMEOUT, json={'auth': {
                'identity': {'methods': ['password'], 'password': {
                    'user': {'name': 'admin', 'domain': {'id': 'default'},
                             'password': password}}},
                'scope': {'project': {'name': 'admin',
                                      'domain': {'id': 'default'}}}}})
        if not answer.ok:
            raise errors.LabError('keystone: the administrator could not log '
                                  f'in ({answer.status_code})')
        self._session.headers['X-Auth-Token'] = (
            answer.headers['X-Subject-Token'])

    def _role(self, name: str) -> str:
        for role in self._call('GET', '/roles')['roles']:
            if role['name'] == name:
                return role['id']
        return self._call('POST', '/roles', role={'name': name})['role']['id']

    def add_service_account(self, password: str) -> None:
        """The one account that all services share."""
        project = self._call('POST', '/projects', project={
            'name': 'service', 'domain_id': 'default'})['project']['id']
        user = self._call('POST', '/users', user={
            'name': 'blockpath', 'domain_id': 'default',
            'password': password})['user']['id']
        for role in ('admin', 'service'):
            self._call('PUT', f'/projects/{project}/users/{user}'
                              f'/roles/{self._role(role)}')

    def set_password(self, user: str, password: str) -> None:
        found = self._call('GET', f'/users?name={user}')['users']
        self._call('PATCH', f'/users/{found[0]["id"]}',
                   user={'password': password})

    def add_endpoints(self) -> None:
        for api, (_, _, kind) in topology.APIS.items():
            if api == 'keystone':
                continue
            service = self._call('POST', '/services', service={
                'type': kind, 'name': api})['service']['id']
            for interface in ('public', 'internal', 'admin'):
                self._call('POST', '/endpoints', endpoint={
                    'service_id': service, 'interface': interface,
                    'region_id': topology.REGION, 'url': topology.url(api)})


def build() -> None:
    """Add what is the same in every lab: the service account, the endpoints.

    Must run in the control host's network namespace, as the others here.
    """
    identity = Identity(topology.url('keystone'))
    identity.log_in(SEED_PASSWORD)
    identity.add_service_account(SEED_PASSWORD)
    identity.add_endpoints()


def set_passwords(passwords: credentials.Passwords) -> None:
    """Replace the seed's passwords by the lab's own."""
    identity = Identity(topology.url('keystone'))
    identity.log_in(SEED_PASSWORD)
    # The administrator's last: a new password revokes the token.
    identity.set_password('blockpath', passwords.service)
    identity.set_password('admin', passwords.admin)
