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
"""What tempest needs of a lab that others do not, and its configuration."""

import base64
from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

import libvirt

from blockpath.cloud import cloud
from blockpath.cloud import config_files
from blockpath.cloud import seed
from blockpath.daemons import ceph
from blockpath.guests import tiny
from blockpath.machine import credentials
from blockpath.machine import topology

#: The guest that one may log in to.
IMAGE = 'logins'
#: A flavor that differs from the usual one.
OTHER_FLAVOR = 'small'
MULTIATTACH = 'multiattach'
#: The backends between which volumes move.
BACKENDS = (topology.LVM, 'rbd')
#: The backend, and the volume type, of volumes with a dead portal.
DEAD_PORTAL = topology.LVM_BY_VOLUME
#: Bytes a second. A copy of 1 GiB takes 11 s, in which a command can kill the
#: service.
_COPY_RATE = 96 << 20
_SECRET = '''<secret ephemeral='no' private='yes'>
  <uuid>{uuid}</uuid>
  <usage type='ceph'><name>client.{user} secret</name></usage>
</secret>'''


def prepare(lab: cloud.Lab, say: tiny.Say) -> pathlib.Path:
    """Start what is missing, and write tempest's configuration.

    Doing it again changes nothing. Must be called in the control host's
    network namespace.

    :returns: the folder that it is in, with passwords: mode 0700
    """
    lab.daemons.start_extras()
    for host in lab.hosts.names:
        add_ceph_key(lab, host)
    add_multiattach_type(lab)
    folder = lab.site.etc / 'tempest'
    folder.mkdir(mode=0o700, exist_ok=True)
    passwords = credentials.Passwords.load(lab.site.state / 'passwords.json')
    text = config_files.Renderer(lab.site, passwords).text(
        'tempest.conf', folder=folder, network=seed.NETWORK,
        image=image(lab, say), flavors=(flavor(lab, seed.FLAVOR, 128),
                                        flavor(lab, OTHER_FLAVOR, 192)),
        computes=len(lab.hosts.names), backends=BACKENDS,
        multiattach=MULTIATTACH, dead_portal=DEAD_PORTAL,
        blockpath=lab.site.bin('blockpath'))
    credentials.write_private(folder / 'tempest.conf', text)
    return folder


@contextlib.contextmanager
def configured(lab: cloud.Lab, initiator: str) -> Iterator[None]:
    """Configure the hosts for the tests until the block ends.

    :param initiator: of both compute hosts, ``host`` or ``qemu``
    """
    with lab.storage.added_dead_portal() as dead:
        sections: dict[str, dict[str, object]] = {
            # Not of all backends: with a limit qemu-img copies nothing.
            BACKENDS[0]: {'volume_copy_bps_limit': _COPY_RATE},
            DEAD_PORTAL: {
                'target_ip_address': dead,
                'target_secondary_ip_addresses': topology.STORAGE.second}}
        with (lab.hosts.configured('cinder-volume', **sections),
              lab.hosts.using_initiator(initiator)):
            yield


def add_ceph_key(lab: cloud.Lab, host: str) -> None:
    """Let guests of a host use volumes on Ceph: QEMU logs in with this."""
    cluster = lab.daemons.ceph
    hypervisor = lab.hosts.hypervisor(host)
    try:
        secret = hypervisor.secretLookupByUUIDString(cluster.identity.fsid)
    except libvirt.libvirtError:
        secret = hypervisor.secretDefineXML(_SECRET.format(
            uuid=cluster.identity.fsid, user=ceph.USER))
    secret.setValue(base64.b64decode(cluster.key()))


def add_multiattach_type(lab: cloud.Lab) -> None:
    """Add a type of volumes that several servers may have at once."""
    storage = lab.cloud.block_storage
    if storage.find_type(MULTIATTACH) is None:
        storage.create_type(name=MULTIATTACH, is_public=True, extra_specs={
            'volume_backend_name': topology.LVM, 'multiattach': '<is> True'})


def flavor(lab: cloud.Lab, name: str, ram: int) -> str:
    """The id of a flavor, which is made if it is not there."""
    found: Any = lab.cloud.compute.find_flavor(name)
    if found is None:
        found = lab.cloud.compute.create_flavor(name=name, ram=ram, vcpus=1,
                                                disk=1)
    return found.id


def image(lab: cloud.Lab, say: tiny.Say) -> str:
    """The id of the image that one may log in to."""
    found = lab.cloud.image.find_image(IMAGE)
    if found is None:
        made = tiny.build(say=say, takes_logins=True)
        found = lab.cloud.image.create_image(
            IMAGE, filename=str(made.path), disk_format='raw',
            container_format='bare', visibility='public',
            validate_checksum=True, wait=True)
    return found.id
