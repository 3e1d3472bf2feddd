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
"""One copy by Cinder's code, in a process of its own.

``python -P -m blockpath.bench.copy_job JSON``, with a Cinder on PYTHONPATH.
The JSON has ``tool`` (series or cinder), ``tree`` (from which Cinder must have
come), ``source``, ``destination``, ``size`` in bytes. Imports and the reading
of options are the service's own: the measuring begins after them and ends
when both volumes are closed.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import importlib
import json
import pathlib
import sys
from typing import Any

from blockpath.bench import copy_measure
from blockpath.bench import copy_volumes

#: Seconds that the login to a target may take.
_LOGIN = 30.0


def main(arguments: list[str]) -> None:
    job = json.loads(arguments[0])
    prepare = {'series': _series, 'cinder': _cinder}[job['tool']]
    copy = prepare(job)
    # None of this is of any use if it is another Cinder that was measured.
    where = importlib.import_module('cinder').__file__ or ''
    if not pathlib.Path(where).is_relative_to(job['tree']):
        raise SystemExit(f'cinder is {where}, not of {job["tree"]}')
    meter = copy_measure.Meter()
    copy()
    meter.report(meter.usage())


def _series(job: Mapping[str, Any]) -> Callable[[], None]:
    """The copier that the series adds."""
    from cinder.volume.copier import engine
    from cinder.volume.copier import local_file
    from cinder.volume.copier import native
    from cinder.volume.copier import opts
    from cinder.volume.copier import qemu_export
    from cinder.volume.copier import rbd_file

    # As cinder.volume.copier.migration passes them on.
    defaults = {option.name: option.default for option in opts.OPTS}
    options = engine.Options(
        destination_is_zero=True,
        verify=engine.Verify(defaults['volume_copy_verify']),
        in_flight=defaults['volume_copy_in_flight'],
        stall=defaults['volume_copy_timeout'])

    def open_volume(volume: copy_volumes.Volume, writable: bool) -> Any:
        if isinstance(volume, copy_volumes.Image):
            ceph = volume.ceph
            return rbd_file.RBDFile.open(
                rbd_file.Cluster(ceph.user, ceph.conf), volume.pool,
                volume.name, writable)
        if isinstance(volume, copy_volumes.Lun):
            return qemu_export.open_iscsi(
                {'target_portal': volume.portal, 'target_iqn': volume.iqn,
                 'target_lun': volume.number}, copy_volumes.INITIATOR,
                writable, _LOGIN)
        return local_file.LocalFile.open(volume.path, writable)

    def copy() -> None:
        with contextlib.ExitStack() as stack:
            source, destination = (
                stack.enter_context(open_volume(
                    copy_volumes.from_json(job[role]),
                    role == 'destination'))
                for role in ('source', 'destination'))
            native.copy(source, destination, job['size'], options)
    return copy


def _cinder(job: Mapping[str, Any]) -> Callable[[], None]:
    """What the manager of a pristine Cinder does between two backends."""
    from cinder.volume import volume_utils
    from os_brick.initiator.connectors import rbd

    connector = rbd.RBDConnector('sudo')

    def connect(volume: copy_volumes.Volume,
                stack: contextlib.ExitStack) -> Any:
        if isinstance(volume, copy_volumes.File):
            # It stands for a device, of which opening drops nothing.
            return stack.enter_context(open(volume.path, 'r+b'))
        if isinstance(volume, copy_volumes.Lun):
            raise SystemExit('this Cinder needs a SCSI device for a LUN')
        properties = _connection_properties(volume)
        device = connector.connect_volume(properties)
        stack.callback(connector.disconnect_volume, properties, device)
        if not connector.check_valid_device(device['path']):
            raise SystemExit(f'{volume.spec} is no valid device')
        return device['path']

    def copy() -> None:
        with contextlib.ExitStack() as stack:
            source, destination = (
                connect(copy_volumes.from_json(job[role]), stack)
                for role in ('source', 'destination'))
            volume_utils.copy_volume(source, destination, job['size'] >> 20,
                                     '1M')
    return copy


def _connection_properties(image: copy_volumes.Image) -> dict[str, Any]:
    address, _, port = image.ceph.monitor.rpartition(':')
    return {'name': image.spec, 'hosts': [address], 'ports': [port],
            'cluster_name': 'ceph', 'auth_username': image.ceph.user,
            # In the deployments that this stands for, a file below /etc/ceph.
            'keyring': pathlib.Path(image.ceph.keyring).read_text()}


if __name__ == '__main__':
    main(sys.argv[1:])
