#
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

"""The credentials of iSCSI targets, on their way to open-iscsi.

They go by its database (:mod:`os_brick.privileged.iscsi`) and never by a
command line. Those of a target are given to each of its portals.
"""

import typing as ty

from oslo_concurrency import processutils as putils
from oslo_log import log as logging
from oslo_utils import excutils

from os_brick import exception
from os_brick.i18n import _
from os_brick.initiator import iscsi_ifaces
from os_brick.initiator import iscsi_sessions
from os_brick.privileged import iscsi as records

if ty.TYPE_CHECKING:
    from os_brick.initiator.connectors import iscsi

LOG = logging.getLogger(__name__)

#: Properties that Cinder tells, and what open-iscsi's records call them.
_FORWARD = {'auth_method': 'authmethod', 'auth_username': 'username',
            'auth_password': 'password'}
#: What the target proves to the initiator: mutual CHAP.
_REVERSE = {'mutual_auth_username': 'username_in',
            'mutual_auth_password': 'password_in'}
#: iscsiadm's exit code where a discovery record is absent; its name for it is
#: ISCSI_ERR_IDBM.
_NO_RECORD = 6
#: Longest name or secret that open-iscsi keeps, in bytes.
_LONGEST = 255


def check(properties: ty.Mapping[str, ty.Any]) -> None:
    """Refuse credentials that open-iscsi would misread or ignore.

    :raises: InvalidParameterValue, which names the key and not its value
    """
    for prefix in ('', 'discovery_'):
        method = properties.get(f'{prefix}auth_method')
        if method:
            if method != 'CHAP':
                _refuse(f'{prefix}auth_method', _('is not CHAP'))
            for key in (f'{prefix}auth_username', f'{prefix}auth_password'):
                _check_text(key, properties.get(key))
    if any(properties.get(key) for key in _REVERSE):
        _check_mutual(properties)


def _check_mutual(properties: ty.Mapping[str, ty.Any]) -> None:
    if not properties.get('auth_method'):
        _refuse('auth_method', _('is missing, and mutual CHAP asked for'))
    for key in _REVERSE:
        _check_text(key, properties.get(key))
    if properties['mutual_auth_password'] == properties['auth_password']:
        # RFC 7143, section 9.2.1.
        _refuse('mutual_auth_password', _('is the same as auth_password'))


def _check_text(key: str, value: ty.Any) -> None:
    if not isinstance(value, str) or not value:
        _refuse(key, _('is missing'))
    elif not value.isprintable() or value != value.strip():
        _refuse(key, _('has characters that open-iscsi can not keep'))
    elif len(value.encode()) > _LONGEST:
        _refuse(key, _('is longer than 255 bytes'))


def _refuse(key: str, why: str) -> ty.NoReturn:
    raise exception.InvalidParameterValue(
        err=_('iSCSI connection properties: %(key)s %(why)s')
        % {'key': key, 'why': why})


def _settings(prefix: str, names: ty.Mapping[str, str],
              properties: ty.Mapping[str, ty.Any]) -> dict[str, str]:
    return {f'{prefix}.auth.{name}': properties[key]
            for key, name in names.items() if properties.get(key)}


def give(connector: 'iscsi.ISCSIConnector', properties: dict) -> None:
    """Write the credentials to the record of the portal and target.

    A session that is there already was let in by what the record had before.
    If that differed, the new ones are tried before the session is used.

    :raises: BrickException; ProcessExecutionError if they are not accepted
    """
    settings = _settings('node.session', _FORWARD | _REVERSE, properties)
    if not settings:
        return
    portal, target = properties['target_portal'], properties['target_iqn']
    changed = records.update_node(target, portal, settings)
    if changed is None:
        raise exception.BrickException(
            _('open-iscsi has no record of %(target)s on portal %(portal)s '
              'below any of %(roots)s') % {
                'target': target, 'portal': portal,
                'roots': ', '.join(records.ROOTS)})
    if changed:
        try:
            _authenticate_again(connector, properties)
        except Exception:
            with excutils.save_and_reraise_exception():
                # Or they would count as tried, the next time.
                records.update_node(target, portal, {
                    'node.session.auth.authmethod': 'None'})


def _authenticate_again(connector: 'iscsi.ISCSIConnector',
                        properties: dict) -> None:
    for session in _sessions(properties):
        if not iscsi_sessions.devices(session):
            # The login that follows authenticates.
            connector._run_iscsiadm_bare(
                ['-m', 'session', '-r', session, '--logout'],
                check_exit_code=[0, 21])
        else:
            LOG.info('The credentials of %(target)s on portal %(portal)s have '
                     'changed: trying them in a second session, as the first '
                     'is in use.', {'target': properties['target_iqn'],
                                    'portal': properties['target_portal']})
            _try_second_session(connector, properties, session)


def _sessions(properties: dict) -> set[str]:
    return {session for session in iscsi_ifaces.sessions(properties)
            if iscsi_ifaces.has(session, properties)}


def _try_second_session(connector: 'iscsi.ISCSIConnector', properties: dict,
                        session: str) -> None:
    before = _sessions(properties)
    try:
        connector._run_iscsiadm_bare(
            ['-m', 'session', '-r', session, '--op', 'new'])
    finally:
        for added in _sessions(properties) - before:
            connector._run_iscsiadm_bare(
                ['-m', 'session', '-r', added, '--logout'],
                check_exit_code=[0, 21])


def give_for_discovery(properties: dict) -> None:
    """Write the credentials to the record of discoveries at the portal.

    :raises: ProcessExecutionError with iscsiadm's exit code if there is none
    """
    names = {f'discovery_{key}': name for key, name in _FORWARD.items()}
    settings = _settings('discovery.sendtargets', names, properties)
    if records.update_discovery(properties['target_portal'],
                                settings) is None:
        raise putils.ProcessExecutionError(
            exit_code=_NO_RECORD,
            description=_('no record of discoveries at this portal'))
