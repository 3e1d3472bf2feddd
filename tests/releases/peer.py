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
"""One end of a live migration: Nova's objects of the release that runs this.

Reads a primitive as it travels in a message, acts on it as the host of that
role does, and writes what it sends back. An object that is too new is made
older by the conductor, which runs the newer of the two releases.
"""

import json
import subprocess
import sys

from nova import context
from nova import objects
from nova.objects import base

IDENTITIES = {'6f70656e-0000-4000-8000-000000000001': ['naa.6001']}


class Conductor:
    """A conductor that is another process, of another release."""

    def __init__(self, python):
        self._python = python

    def object_backport_versions(self, context, objinst, object_versions):
        done = subprocess.run(
            [self._python, __file__, 'conductor', self._python],
            input=json.dumps([objinst, object_versions]),
            capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return SERIALIZER.deserialize_entity(context, json.loads(done.stdout))


SERIALIZER = base.NovaObjectSerializer()


def check_destination():
    return objects.LibvirtLiveMigrateData(
        is_shared_instance_path=True, is_shared_block_storage=True,
        block_migration=False)


def check_source(data):
    data.src_supports_dest_disk_xml = True
    data.src_volume_identities = IDENTITIES
    return data


def pre_live_migration(data):
    known = dict(data.src_volume_identities) == IDENTITIES
    bdm = objects.LibvirtLiveMigrateBDMInfo(
        serial='volume' if known else 'unknown', bus='virtio', dev='vda',
        type='disk', connection_info_json='{}')
    if 'src_supports_dest_disk_xml' in data:
        bdm.disk_xml = '<disk/>'
    data.bdms = [bdm]
    return data


def rewrite(data):
    bdm, = data.bdms
    return [bdm.serial, bdm.disk_xml if 'disk_xml' in bdm else None]


def conductor(data, versions):
    return data.obj_to_primitive(target_version=versions[data.obj_name()],
                                 version_manifest=versions)


def with_vtpm(data):
    data.vtpm_secret_uuid = '6f70656e-0000-4000-8000-000000000002'
    data.vtpm_secret_value = 'secret'
    return data


def main(role, newer):
    objects.register_all()
    SERIALIZER._conductor = Conductor(newer)
    admin = context.get_admin_context()
    sent = json.load(sys.stdin)
    result = globals()[role](*(
        SERIALIZER.deserialize_entity(admin, each) for each in sent))
    json.dump(SERIALIZER.serialize_entity(admin, result), sys.stdout)


if __name__ == '__main__':
    main(*sys.argv[1:])
