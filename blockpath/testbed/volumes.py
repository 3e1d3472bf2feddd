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
"""Volumes as a driver of Cinder describes them to a host."""

from collections.abc import Sequence
from typing import Any
import uuid

STORAGE = 'blockpath.testbed.storage'
INITIATOR = 'blockpath.testbed.initiator'
PORT = 3260


def data(addresses: Sequence[str], iqn: str, lun: int,
         chap: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``connection_info['data']``, with lists for many addresses."""
    portals = [f'{address}:{PORT}' for address in addresses]
    found = {'target_discovered': False, 'volume_id': str(uuid.uuid4()),
            'target_portal': portals[0], 'target_iqn': iqn,
            'target_lun': lun}
    if len(portals) > 1:
        found |= {'target_portals': portals,
                 'target_iqns': [iqn] * len(portals),
                 'target_luns': [lun] * len(portals)}
    if chap:
        found |= {'auth_method': 'CHAP', 'auth_username': chap[0],
                 'auth_password': chap[1]}
    return found
