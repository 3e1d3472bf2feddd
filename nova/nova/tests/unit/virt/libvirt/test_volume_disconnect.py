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

"""When a host may disconnect a volume that several servers share."""

from unittest import mock

import ddt
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_instance
from nova.virt import fake
from nova.virt.libvirt import driver


@ddt.ddt
class SharedVolumeTestCase(test.NoDBTestCase):
    """A multiattach volume, server A here or on its way here.

    On the destination of a live migration ``instance.host`` is the source
    until the guest has moved. Asking for the servers of ``instance.host`` when
    rolling back there counts the wrong host's servers, and takes the volume
    from under another guest of the destination.
    """

    def setUp(self):
        super().setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.flags(host='here')
        self.ctxt = context.get_admin_context()
        self.drvr = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        self.servers = {}
        get_uuids = mock.patch(
            'nova.objects.InstanceList.get_uuids_by_host',
            side_effect=lambda ctxt, host: self.servers.get(host, []))
        get_uuids.start()
        self.addCleanup(get_uuids.stop)
        get_volume = mock.patch.object(
            self.drvr._volume_api, 'get', return_value={
                'attachments': {uuids.a: {}, uuids.b: {}}})
        get_volume.start()
        self.addCleanup(get_volume.stop)

    @ddt.data(
        # Where A is, whose servers are whose, and whether to disconnect here.
        ('here', {'here': [uuids.a, uuids.b]}, False),
        ('here', {'here': [uuids.a], 'there': [uuids.b]}, True),
        ('there', {'there': [uuids.a], 'here': [uuids.b]}, False),
        ('there', {'there': [uuids.a, uuids.b]}, True),
    )
    @ddt.unpack
    def test_should_disconnect(self, a_is_on, servers, expected):
        self.servers = servers
        instance = fake_instance.fake_instance_obj(
            self.ctxt, uuid=uuids.a, host=a_is_on)
        self.assertIs(expected, self.drvr._should_disconnect_target(
            self.ctxt, instance, True, mock.Mock(), uuids.volume))
