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
"""The portals of tgtd.

All its targets are at all of them. It begins with port 3260 of all addresses,
or with what its service file says.
"""

from collections.abc import Iterable
import re

from oslo_concurrency import processutils
from oslo_log import log as logging
from oslo_utils import netutils

from cinder import exception
from cinder.i18n import _
from cinder.privsep.targets import tgt_portals
from cinder import utils
from cinder.volume.targets import iscsi_portals

LOG = logging.getLogger(__name__)

_ALL_IPV4, _ALL_IPV6 = '0.0.0.0', '[::]'
_SHOWN = re.compile(r'^Portal: (\S+),\d+$', re.MULTILINE)


@utils.synchronized('tgt-portals', external=True)
def listen(addresses: Iterable[str], port: int) -> None:
    """Have tgtd listen where it is said that it does.

    Where it can not that may be well, as with a name, or an address that is
    translated on the way; but not with a port of its own.

    :param port: where an address has none
    :raises ISCSITargetHelperCommandFailed: it can not listen on such a port
    """
    try:
        shown = _SHOWN.findall(tgt_portals.show())
    except processutils.ProcessExecutionError as error:
        LOG.warning('tgtd does not tell what it listens on: %s',
                    _reason(error))
        return
    for portal in iscsi_portals.with_ports(addresses, port):
        if _listens(portal, shown):
            continue
        try:
            tgt_portals.add(portal)
            LOG.info('tgtd listens on %s now', portal)
        except processutils.ProcessExecutionError as error:
            if not portal.endswith(f':{port}'):
                raise exception.ISCSITargetHelperCommandFailed(
                    error_message=_('tgtd does not listen on %(portal)s: '
                                    '%(why)s') % {'portal': portal,
                                                  'why': _reason(error)})
            LOG.debug('tgtd does not listen on %s: %s', portal,
                      _reason(error))


def _reason(error: processutils.ProcessExecutionError) -> str:
    return (error.stderr or '').strip() or str(error.exit_code)


def _listens(portal: str, shown: list[str]) -> bool:
    host, _colon, port = portal.rpartition(':')
    if netutils.is_valid_ipv4(host):
        everywhere = [_ALL_IPV4]
    elif netutils.is_valid_ipv6(host.strip('[]')):
        everywhere = [_ALL_IPV6]
    else:
        everywhere = [_ALL_IPV4, _ALL_IPV6]
    return portal in shown or any(
        f'{every}:{port}' in shown for every in everywhere)
