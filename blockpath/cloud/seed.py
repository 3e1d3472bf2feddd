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
"""What a fresh cloud holds: an image, flavors, a network, volume types.

The functions that take a site run in the control host's network namespace.
"""

import openstack.connection

from blockpath.guests import tiny
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.machine import wait

IMAGE = 'guest'
FLAVOR = 'tiny'
NETWORK = 'private'
CLOUD = 'lab'


def connect(site: topology.Site) -> openstack.connection.Connection:
    """The cloud, as its administrator."""
    return openstack.connection.Connection(
        config=openstack.config.OpenStackConfig(
            config_files=[str(site.etc / 'control' / 'clouds.yaml')],
            load_envvars=False).get_one(CLOUD),
        compute_api_version='2.95', block_storage_api_version='3')


def add_image(site: topology.Site, image: tiny.GuestImage) -> None:
    cloud = connect(site)
    made = cloud.image.create_image(
        IMAGE, filename=str(image.path), disk_format='raw',
        container_format='bare', visibility='public', validate_checksum=True,
        wait=True)
    if made.status != 'active':
        raise errors.LabError(f'the image is {made.status} after its upload')


def add_flavors(site: topology.Site) -> None:
    connect(site).compute.create_flavor(
        name=FLAVOR, id='1', ram=128, vcpus=1, disk=1)


def add_network(site: topology.Site) -> None:
    cloud = connect(site)
    network = cloud.network.create_network(name=NETWORK, is_shared=True)
    cloud.network.create_subnet(
        network_id=network.id, name=NETWORK, ip_version=4,
        cidr=topology.GUEST_CIDR, gateway_ip=topology.GATEWAY,
        is_dhcp_enabled=False)


def add_volume_types(site: topology.Site) -> None:
    storage = connect(site).block_storage
    for backend in topology.BACKENDS:
        storage.create_type(name=backend, is_public=True,
                            extra_specs={'volume_backend_name': backend})
    storage.create_type(name=topology.ANYWHERE, is_public=True)
    encrypted = storage.create_type(
        name=topology.ENCRYPTED, is_public=True,
        extra_specs={'volume_backend_name': topology.LVM})
    # QEMU opens LUKS of version 1 on its own, the host version 2.
    storage.create_type_encryption(
        encrypted.id, provider='luks2', cipher='aes-xts-plain64', key_size=256,
        control_location='front-end')
    # Scenarios may want more than the ten volumes of the default.
    storage.update_quota_class_set('default', volumes=-1, gigabytes=-1)


def wait_for_pools(site: topology.Site) -> None:
    """Until Cinder's scheduler knows the storage and would use it."""
    cloud = connect(site)
    wait.until(lambda: len(list(cloud.block_storage.backend_pools())) ==
               len(topology.BACKENDS),
               'the storage pools to be known to Cinder', 90, 0.3)
