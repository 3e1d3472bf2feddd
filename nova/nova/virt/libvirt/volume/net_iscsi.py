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

"""iSCSI volumes through QEMU's own initiator, without a device on the host."""

from oslo_log import log as logging

from nova import exception
from nova.i18n import _
from nova.virt import block_device as driver_block_device
from nova.virt.libvirt.volume import iscsi_connection
from nova.virt.libvirt.volume import iscsi_initiator
from nova.virt.libvirt.volume import iscsi_probe
from nova.virt.libvirt.volume import iscsi_secret
from nova.virt.libvirt.volume import net

LOG = logging.getLogger(__name__)


class LibvirtNetISCSIVolumeDriver(net.LibvirtNetVolumeDriver):
    """A network disk whose target QEMU logs in to.

    Connecting a volume changes nothing on the host but a libvirt secret. It
    finds a path that works and keeps it, with all that the guest's disk
    refers to, in ``connection_info['data']['nova_initiator']``: ``portal``
    (address and port), ``target``, ``lun``, ``iqn`` (QEMU's own), and with
    CHAP ``username`` and ``secret_uuid``; and ``volume_id``, which the secret
    goes by, as a migrated volume takes over the ID of another.
    """

    def connect_volume(self, connection_info, instance):
        """Find a path to the volume and store its credentials.

        :raises: InvalidISCSIConnection naming the key that is wrong
        :raises: ISCSIPathsFailed when no path lets QEMU in
        """
        data = connection_info['data']
        volume_id = driver_block_device.get_volume_id(connection_info)
        connection = iscsi_connection.parse(data)
        name = iscsi_initiator.initiator_name()
        path = iscsi_probe.first_healthy(connection, name, volume_id)
        choice = data[iscsi_initiator.CHOICE]
        choice.update(portal=[path.host, path.port], target=path.iqn,
                      lun=path.lun, iqn=name, volume_id=volume_id)
        for key in ('username', 'secret_uuid'):
            choice.pop(key, None)
        if connection.chap:
            choice['username'] = connection.chap.username
            choice['secret_uuid'] = iscsi_secret.put(
                self.host, volume_id, connection.chap.password)
        else:
            iscsi_secret.delete(self.host, volume_id)
        LOG.debug('QEMU is to reach volume %(volume)s by LUN %(lun)s of '
                  '%(target)s at %(portal)s.',
                  {'volume': volume_id, 'lun': path.lun, 'target': path.iqn,
                   'portal': path.portal}, instance=instance)

    def disconnect_volume(self, connection_info, instance, force=False):
        """Forget the volume's credentials; QEMU has logged out by itself."""
        choice = connection_info['data'].get(iscsi_initiator.CHOICE, {})
        iscsi_secret.delete(self.host, choice.get('volume_id') or
                            driver_block_device.get_volume_id(connection_info))

    def _get_net_config(self, conf, connection_info):
        choice = connection_info['data'][iscsi_initiator.CHOICE]
        if 'target' not in choice:
            raise exception.InvalidISCSIConnection(
                key=iscsi_initiator.CHOICE,
                reason=_('the volume has not been connected'))
        host, port = choice['portal']
        conf.source_type = 'network'
        conf.source_protocol = 'iscsi'
        conf.source_name = f"{choice['target']}/{choice['lun']}"
        conf.source_hosts = [host]
        conf.source_ports = [str(port)]
        conf.initiator_iqn = choice['iqn']
        if 'secret_uuid' in choice:
            conf.auth_username = choice['username']
            conf.auth_secret_type = iscsi_secret.USAGE_TYPE
            conf.auth_secret_uuid = choice['secret_uuid']
        return conf
