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
"""Use of a volume's device right after it was connected to this host."""

from typing import Any

from os_brick.initiator import initiator_connector
from oslo_log import log as logging
from oslo_utils import excutils

LOG = logging.getLogger(__name__)


def valid_or_disconnected(connector: initiator_connector.InitiatorConnector,
                          conn: dict[str, Any],
                          device: dict[str, Any],
                          root_access: bool = True) -> bool:
    """Say if a connected device can be used; disconnect it if not.

    The caller has no other chance to disconnect it: it only passes a device
    on once that is known to be valid.

    :param conn: connection_info that the device was connected with
    :param device: what connector.connect_volume() returned
    :raises Exception: what the check raised, after the device was disconnected
    """
    try:
        valid = connector.check_valid_device(device['path'], root_access)
    except Exception:
        with excutils.save_and_reraise_exception():
            _disconnect(connector, conn, device)
    if not valid:
        _disconnect(connector, conn, device)
    return valid


def _disconnect(connector: initiator_connector.InitiatorConnector,
                conn: dict[str, Any],
                device: dict[str, Any]) -> None:
    # Nothing was written to it, so force loses no data. What made the device
    # unusable is the error to report, not this clean-up's.
    try:
        connector.disconnect_volume(conn['data'], device, force=True)
    except Exception:
        LOG.exception('Could not disconnect unusable device %s.',
                      device['path'])
