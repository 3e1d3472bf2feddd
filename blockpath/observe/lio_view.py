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
"""Show, as JSON, LIO's iSCSI targets; run on the host that has them.

It is run as a file, by the host's own Python and with its own rtslib. CHAP
passwords are part of the answer.
"""

import json
from typing import Any

import rtslib_fb


def _acl(acl: Any) -> dict[str, Any]:
    session = acl.session
    return {
        'initiator': acl.node_wwn,
        'user': acl.chap_userid, 'password': acl.chap_password,
        'luns': {str(mapped.mapped_lun):
                 mapped.tpg_lun.storage_object.udev_path
                 for mapped in acl.mapped_luns},
        'addresses': [connection['address'].split(':')[0] for connection in
                      session['connections']] if session else [],
    }


def main() -> None:
    print(json.dumps([
        {'iqn': target.wwn,
         'portals': [f'{portal.ip_address}:{portal.port}'
                     for portal in group.network_portals],
         'acls': [_acl(acl) for acl in group.node_acls]}
        for target in rtslib_fb.RTSRoot().targets
        if target.fabric_module.name == 'iscsi' for group in target.tpgs]))


if __name__ == '__main__':
    main()
