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
"""Volumes of the rig, as a driver of Cinder tells of them."""

from collections.abc import Sequence
from typing import Any
import uuid

from blockpath.guests.debian import rig

STORAGE = 'blockpath.guests.debian.storage'
INITIATOR = 'blockpath.guests.debian.initiator'
PORT = 3260


def start(up: rig.Rig, login_s: int) -> None:
    """Start the initiator's services.

    :param login_s: the timeout of a login, which is tried eight times, as by
        open-iscsi's defaults
    """
    up['initiator'].shell(
        f'sed -i "s/login_timeout = .*/login_timeout = {login_s}/; '
        's/login_retry_max = .*/login_retry_max = 8/" '
        '/etc/iscsi/iscsid.conf; systemctl start iscsid multipathd')


def data(up: rig.Rig, iqn: str, lun: int, networks: int = 1,
         chap: Sequence[str] = ()) -> dict[str, Any]:
    """``connection_info['data']``, with lists where there are networks."""
    portals = [f'{address}:{PORT}'
               for address in up['storage'].addresses[:networks]]
    told = {'target_discovered': False, 'volume_id': str(uuid.uuid4()),
            'target_portal': portals[0], 'target_iqn': iqn,
            'target_lun': lun}
    if networks > 1:
        told |= {'target_portals': portals, 'target_iqns': [iqn] * networks,
                 'target_luns': [lun] * networks}
    if chap:
        told |= {'auth_method': 'CHAP', 'auth_username': chap[0],
                 'auth_password': chap[1]}
    return told
