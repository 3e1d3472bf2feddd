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
from oslo_config import cfg
from oslo_log import log as logging

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
    return {f'{prefix}{name}': properties.get(key) or ''
            for key, name in names.items()}


def give(connector: 'iscsi.ISCSIConnector', properties: dict) -> None:
    """Write the credentials to the record of the portal and target.

    A session that is there already may have been made with others. Then these
    are tried before it is used.

    :raises: BrickException; ProcessExecutionError if they are not accepted
    """
    if not properties.get('auth_method'):
        return
    portal, target = properties['target_portal'], properties['target_iqn']
    names = _FORWARD | _REVERSE
    if not records.update_node(target, portal, _settings(
            'node.session.auth.', names, properties)):
        raise exception.BrickException(
            _('open-iscsi has no record of %(target)s on portal %(portal)s '
              'below %(roots)s. [os_brick] iscsi_databases must tell where it '
              'keeps them.') % {
                'target': target, 'portal': portal,
                'roots': ', '.join(cfg.CONF.os_brick.iscsi_databases)})
    del names['auth_method']
    for session in _sessions(properties):
        if not records.session_has(session, _settings('', names, properties)):
            _authenticate_again(connector, properties, session)


def _authenticate_again(connector: 'iscsi.ISCSIConnector', properties: dict,
                        session: str) -> None:
    if not iscsi_sessions.devices(session):
        # The login that follows authenticates.
        _end(connector, session)
        return
    LOG.info('The session with %(target)s on portal %(portal)s, which is in '
             'use, was made with other credentials: trying these in a second '
             'one.', {'target': properties['target_iqn'],
                      'portal': properties['target_portal']})
    before = _sessions(properties)
    try:
        connector._run_iscsiadm_bare(
            ['-m', 'session', '-r', session, '--op', 'new'])
    finally:
        for added in _sessions(properties) - before:
            _end(connector, added)


def _end(connector: 'iscsi.ISCSIConnector', session: str) -> None:
    out, error = connector._run_iscsiadm_bare(
        ['-m', 'session', '-r', session, '--logout'], check_exit_code=False)
    if error:
        LOG.warning('Session %(session)s could not be ended: %(error)s',
                    {'session': session, 'error': error.strip()})


def _sessions(properties: dict) -> set[str]:
    return {session for session in iscsi_ifaces.sessions(properties)
            if iscsi_ifaces.has(session, properties)}


def give_for_discovery(properties: dict) -> None:
    """Write the credentials to the record of discoveries at the portal.

    :raises: ProcessExecutionError with iscsiadm's exit code if there is none
    """
    names = {f'discovery_{key}': name for key, name in _FORWARD.items()}
    if not records.update_discovery(properties['target_portal'], _settings(
            'discovery.sendtargets.auth.', names, properties)):
        raise putils.ProcessExecutionError(
            exit_code=_NO_RECORD,
            description=_('no record of discoveries at this portal'))
