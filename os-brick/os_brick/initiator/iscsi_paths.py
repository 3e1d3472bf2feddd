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

"""The paths to a volume: the portals, targets and LUNs that Cinder tells.

By the plural keys (target_portals, target_iqns, target_luns) it tells all, and
nothing else is asked. By the singular ones it tells a portal where the others
may be discovered, but no other target.
"""

import os
import typing as ty

from oslo_concurrency import processutils as putils
from oslo_log import log as logging
from oslo_utils import netutils

from os_brick import exception
from os_brick.i18n import _
from os_brick.initiator import iscsi_sessions

if ty.TYPE_CHECKING:
    from os_brick.initiator.connectors import iscsi

LOG = logging.getLogger(__name__)

KEYS = ('target_portal', 'target_iqn', 'target_lun')
_PORT = 3260
_BLOCK = '/sys/block'

#: Portal, IQN and LUN.
Triple = tuple[str, str, ty.Any]


class Properties(dict):
    """Connection properties that were checked.

    :ivar before: names of the iSCSI devices that were there already
    :ivar alone: whether no path but this one is tried
    :ivar login: how to log in; if None, as open-iscsi does by itself
    """

    before: ty.AbstractSet[str] = frozenset()
    alone = True
    login: ty.Any = None


def checked(properties: ty.Mapping[str, ty.Any]) -> Properties:
    """Properties whose portals, IQNs and LUNs belong together.

    Where some of the three are plural, one that is singular counts for all.

    :returns: plural keys are lists of equal length without duplicates, or
        all absent
    :raises: InvalidParameterValue, which names the key
    """
    result = Properties(properties)
    result.before = iscsi_sessions.devices()
    given = {key: _list(properties, f'{key}s') for key in KEYS
             if properties.get(f'{key}s')}
    for key in KEYS:
        result.pop(f'{key}s', None)
        # What a list tells need not be told again, so it may be anything.
        if key in result and key not in given:
            result[key] = _CHECKS[key](key, result[key])
    if not given:
        _need(result, 'target_portal', 'target_iqn')
        return result
    if len(set(map(len, given.values()))) > 1:
        names = 's, '.join(given) + 's'
        lengths = ', '.join(str(len(values)) for values in given.values())
        raise _refusal(names, _('differ in length: %s') % lengths)
    count = len(next(iter(given.values())))
    _need(result, *(key for key in KEYS if key not in given))
    columns = [given.get(key) or [result[key]] * count for key in KEYS]
    unique = dict.fromkeys(zip(*columns))
    for key, column in zip(KEYS, zip(*unique)):
        result[f'{key}s'] = list(column)
    return result


def told(properties: ty.Mapping[str, ty.Any]) -> Properties:
    """As ``checked``, for a disconnection: nothing is refused.

    Properties of a connection that failed stay as they are.
    """
    if isinstance(properties, Properties):
        return properties
    try:
        result = checked(properties)
    except exception.InvalidParameterValue as error:
        LOG.warning('Disconnecting what can be found: %s', error)
        result = Properties(properties)
    result.before = frozenset()
    return result


def _list(properties: ty.Mapping[str, ty.Any], key: str) -> list:
    values = properties[key]
    if not isinstance(values, (list, tuple)):
        raise _refusal(key, _('is no list'))
    return [_CHECKS[key[:-1]](key, value) for value in values]


def _need(properties: ty.Mapping[str, ty.Any], *keys: str) -> None:
    for key in keys:
        if key not in properties:
            raise _refusal(key, _('is missing'))


def _text(key: str, value: ty.Any) -> str:
    # They become arguments of commands, and names of files.
    if (not isinstance(value, str) or not value.isprintable() or
            not value.strip() or set(value) & set(' /') or
            value.startswith('-')):
        raise _refusal(key, _('is not valid: %r') % (value,))
    return value


def _portal(key: str, value: ty.Any) -> str:
    # The portal group tag is no part of what sessions are recognised by.
    value = _text(key, value).partition(',')[0]
    if ':' in value.rpartition(']')[2] and not netutils.is_valid_ipv6(value):
        return value
    # The kernel shows it with its port, by which a session is recognised.
    return f'{netutils.escape_ipv6(value)}:{_PORT}'


def _lun(key: str, value: ty.Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(value, (bool, float)):
        raise _refusal(key, _('is not valid: %r') % (value,))
    return number


_CHECKS: dict[str, ty.Callable[[str, ty.Any], ty.Any]] = {
    'target_portal': _portal, 'target_iqn': _text, 'target_lun': _lun}


def _refusal(key: str, why: str) -> exception.InvalidParameterValue:
    return exception.InvalidParameterValue(
        err=_('iSCSI connection properties: %(key)s %(why)s')
        % {'key': key, 'why': why})


def path(properties: ty.Mapping[str, ty.Any], alone: bool) -> Properties:
    """Properties of one of the paths."""
    result = Properties(properties)
    result.before = getattr(properties, 'before', frozenset())
    result.alone = alone
    return result


def each(paths: ty.Iterable[dict]) -> ty.Iterator[Properties]:
    """The same of all, to be tried in turn."""
    every = list(paths)
    for properties in every:
        yield path(properties, alone=len(every) == 1)


def limit_login(connector: 'iscsi.ISCSIConnector', properties: dict) -> None:
    """Let a portal that does not answer cost no more than one login timeout.

    By open-iscsi's defaults it is 8. That is for the only path; with others
    there, the volume can be reached without this one.
    """
    if not getattr(properties, 'alone', True):
        connector._iscsiadm_update(
            properties, 'node.session.initial_login_retry_max', '1',
            check_exit_code=False)


def own(devices_map: dict, properties: ty.Mapping[str, ty.Any]) -> dict:
    """What a disconnection removes: nothing of other volumes.

    A connection that fails leaves what was there before it. Of a target that
    Cinder did not name only what is known to be the same volume is removed,
    and its session and record are left alone if there is nothing.

    :param devices_map: names of the devices to be removed, and of those that
        stay, by portal and IQN
    """
    before: ty.AbstractSet[str] = getattr(properties, 'before', frozenset())
    named = (properties.get('target_iqns') or
             [properties.get('target_iqn')])
    volume = {_wwid(device) for (__, iqn), (remove, __) in devices_map.items()
              if iqn in named for device in remove} - {None}
    result = {}
    for (portal, iqn), (remove, stay) in devices_map.items():
        others = {device for device in remove if device in before or
                  iqn not in named and _wwid(device) not in volume}
        if iqn in named or remove - others:
            result[portal, iqn] = remove - others, stay | others
    return result


def discovered(connector: 'iscsi.ISCSIConnector',
               properties: dict) -> list[Triple]:
    """The portals of the target that Cinder named, by a discovery.

    If that fails, or does not find the target, it is the portal that Cinder
    named. Logging in to a target that it did not name would attach whatever
    has the same LUN there.
    """
    try:
        found = connector._discover_iscsi_portals(properties)
    except putils.ProcessExecutionError as error:
        LOG.warning('Discovery at portal %(portal)s failed with exit code '
                    '%(code)s.', {'portal': properties['target_portal'],
                                  'code': error.exit_code})
        found = []
    named = [triple for triple in found
             if triple[1] == properties['target_iqn']]
    if len(named) < len(found):
        LOG.debug('Of the targets at portal %(portal)s only %(iqn)s is used.',
                  {'portal': properties['target_portal'],
                   'iqn': properties['target_iqn']})
    return named or connector._get_all_targets(properties)


def recalled(connector: 'iscsi.ISCSIConnector',
             properties: dict) -> list[Triple]:
    """Where a connection with these properties may have logged in.

    :raises: TargetPortalNotFound if no discovery was made
    """
    found = connector._get_discoverydb_portals(properties)
    there = {triple[:2] for triple in found}
    return found + [triple for triple in connector._get_all_targets(properties)
                    if triple[:2] not in there]


def check_same_volume(devices: ty.Iterable[str]) -> None:
    """Refuse paths that lead to different volumes.

    Which of them is the right one can not be known.

    :param devices: names of the block devices
    :raises: BrickException
    """
    devices_by_wwid = {}
    for device in devices:
        wwid = _wwid(device)
        if wwid:
            devices_by_wwid[wwid] = device
    if len(devices_by_wwid) > 1:
        seen = ', '.join(_('%(device)s is %(wwid)s') % {
            'device': device, 'wwid': wwid}
            for wwid, device in devices_by_wwid.items())
        raise exception.BrickException(
            _('The paths lead to different volumes: %s') % seen)


def _wwid(device: str) -> ty.Optional[str]:
    try:
        with open(os.path.join(_BLOCK, device, 'device/wwid')) as file:
            return file.read().strip()
    except OSError:
        # Not all targets tell one.
        return None
