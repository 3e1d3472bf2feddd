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
"""Cinder's LVM backend, which scenarios can have err."""

from cinder import interface
from cinder.volume.drivers import lvm


@interface.volumedriver
class LabDriver(lvm.LVMVolumeDriver):
    """Upstream's, for storage that maps another's volume, or hangs."""

    def initialize_connection(self, volume, connector):
        """Return another LUN, or other portals, if a volume's metadata say so.

        ``mistaken_for`` is the id of a volume that the same host has;
        ``reached_by`` lists portals, separated by commas.
        """
        info = super().initialize_connection(volume, connector)
        data = info['data']
        units = getattr(self.target_driver, 'targets', None)
        if units and 'mistaken_for' in volume.metadata:
            host = units.hosts[connector['initiator']]
            other = host.units[volume.metadata['mistaken_for']]
            data['target_lun'] = other.lun
            data['target_luns'] = [other.lun] * len(data['target_luns'])
        if 'reached_by' in volume.metadata:
            portals = volume.metadata['reached_by'].split(',')
            data['target_portal'] = portals[0]
            data['target_portals'] = portals
        return info
