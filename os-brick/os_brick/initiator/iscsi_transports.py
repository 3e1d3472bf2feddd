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

"""The transports of open-iscsi, as iscsiadm names them."""

import time
import typing as ty

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

NAMES = ('be2iscsi', 'bnx2i', 'cxgb3i', 'cxgb4i', 'iser', 'ocs', 'qedi',
         'qla4xxx', 'tcp')
#: What the lines of ``iscsiadm -m session`` begin with. Sessions of firmware
#: or of drivers that open-iscsi does not run are none of ours.
SESSION_PREFIXES = tuple(f'{name}:' for name in NAMES)
#: How often to log in to a node whose session does not show.
LOGINS = 5
#: Seconds between a second login and the next ones.
PAUSE = 1


def looks(portal: str, iqn: str) -> ty.Iterator[int]:
    """Count the looks for a session, between each two of which is a login.

    iscsiadm can say that it has logged in, or that the session exists
    already, while the list of sessions does not have it.
    """
    for done in range(LOGINS):
        if done > 1:
            time.sleep(PAUSE)
        yield done
    LOG.warning('%(count)d logins to %(iqn)s on portal %(portal)s gave no '
                'session.', {'count': LOGINS, 'iqn': iqn, 'portal': portal})
