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

"""The libvirt secret that holds the CHAP password of a volume.

One for each volume and host. Its UUID is made from the volume's, so that every
host knows what a guest's XML has to refer to, on whichever host it is written.
Targets and their credentials change under a volume; its UUID does not.
"""

import uuid

from nova.virt.libvirt import host as libvirt_host

USAGE_TYPE = 'iscsi'

_NAMESPACE = uuid.UUID('0d1d2b4c-5a8b-5f43-9d3c-6a0f7ce2b7a4')


def secret_uuid(volume_id: str) -> str:
    """The UUID of the secret of a volume, the same on every host."""
    return str(uuid.uuid5(_NAMESPACE, volume_id))


def put(host: libvirt_host.Host, volume_id: str, password: str) -> str:
    """Make the secret, or give the one there is this password.

    It outlives the libvirt daemon: a guest that reboots or resumes logs in
    again, and nothing connects its volumes before.

    :returns: its UUID
    :raises: libvirtError
    """
    secret = host.find_secret(USAGE_TYPE, volume_id)
    if secret is not None:
        # Another guest may use it: it is changed, never made anew.
        secret.setValue(password)
    else:
        host.create_secret(
            USAGE_TYPE, volume_id, password=password,
            uuid=secret_uuid(volume_id), ephemeral=False, private=True)
    return secret_uuid(volume_id)


def delete(host: libvirt_host.Host, volume_id: str) -> None:
    """Remove the secret of a volume; no matter if there is none."""
    host.delete_secret(USAGE_TYPE, volume_id)
