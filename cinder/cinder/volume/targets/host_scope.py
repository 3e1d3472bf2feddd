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
"""Targets whose scope is a host: one for each, with its volumes.

``target_scope`` says what exports are made from now on. How a volume is
exported already stands in its provider_location, and it stays so while
anybody is attached to it.
"""

import collections
from collections.abc import Iterator
import contextlib
import os
import re
import threading
from typing import Any
from typing import Optional

from oslo_config import cfg
from oslo_log import log as logging

from cinder import context as cinder_context
from cinder import exception
from cinder.i18n import _
from cinder import objects
from cinder.volume.targets import host_targets
from cinder.volume.targets import tgt_hosts

LOG = logging.getLogger(__name__)

OPTS = [
    cfg.StrOpt('target_scope',
               default='volume',
               choices=[
                   ('volume', 'each volume has a target, which is the same '
                              'for all hosts'),
                   ('host', 'each host has a target with the volumes that '
                            'are attached to it, and an account of its own. '
                            'Needs the tgtadm target helper'),
               ],
               help='What an iSCSI target of the LVM driver is for. Volumes '
                    'that are attached stay as they are until they are '
                    'detached.'),
]

#: provider_location of a volume that is shown to hosts one by one.
_MARK = 'host-scope '
#: RFC 7143, 4.2.7.2 and .3: what an initiator may be called.
_NAME = re.compile(r'(iqn|eui|naa)\.[a-z0-9.:-]{1,219}', re.IGNORECASE)
#: In these a volume may be attached by a service, of which there is no record.
_BUSY = ('backing-up', 'creating', 'downloading', 'maintenance', 'migrating',
         'restoring-backup', 'retyping', 'uploading')


def scoped(target: Any, configuration: Any, backend: str) -> Any:
    """What a driver's target is to be used through.

    :param target: the target driver, by volumes
    :param backend: host@backend of the service
    :raises InvalidConfigurationValue: the helper has no targets of hosts
    """
    wanted = configuration.safe_get('target_scope') == 'host'
    helper = configuration.safe_get('target_helper')
    if helper == 'tgtadm' and target.iscsi_protocol == 'iscsi':
        return ScopedTarget(target, configuration, backend, wanted)
    if wanted:
        raise exception.InvalidConfigurationValue(
            option='target_scope', value=_('host (with %s)') % helper)
    return target


class ScopedTarget:
    """A target driver, by volumes or by hosts; see ``ISCSITarget``."""

    def __init__(self, by_volume: Any, configuration: Any, backend: str,
                 wanted: bool) -> None:
        self._by_volume = by_volume
        self._configuration = configuration
        self._backend = backend
        self._wanted = wanted
        self._lock = threading.Lock()
        self._restored = False
        #: how often a volume's name was told to an initiator
        self._told: collections.Counter[tuple[str, str]] = (
            collections.Counter())
        flags = configuration.safe_get('iscsi_target_flags')
        self.targets = host_targets.HostTargets(
            tgt_hosts.Tgtd(flags),
            os.path.join(configuration.safe_get('volumes_dir'), 'hosts',
                         f'{backend}.json'),
            configuration.safe_get('target_prefix'), backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._by_volume, name)

    def _by_host(self, volume: Any) -> bool:
        return (volume['provider_location'] or '').startswith(_MARK)

    def create_export(self, context: Any, volume: Any,
                      volume_path: str) -> dict[str, Optional[str]]:
        """Nothing is shown yet, to hosts one by one."""
        if not self._wanted and not self._by_host(volume):
            return self._by_volume.create_export(context, volume, volume_path)
        attached = any(attachment.connector
                       for attachment in _attachments(volume))
        # Another host may have come first since this volume was read.
        now = objects.Volume.get_by_id(cinder_context.get_admin_context(),
                                       volume['id'])
        if not (self._by_host(now) if attached else self._wanted):
            return self._by_volume.create_export(context, volume, volume_path)
        # Nova and os-brick do not attach and detach the volumes of a target
        # at the same time, when they are told that it has several.
        volume.shared_targets = True
        return {'location': f'{_MARK}{volume_path}', 'auth': None}

    def ensure_export(self, context: Any, volume: Any,
                      volume_path: str) -> Any:
        if not self._by_host(volume):
            return self._by_volume.ensure_export(context, volume, volume_path)
        with self._restoring() as targets:
            if self._adopt(volume, volume_path):
                targets.restore()
            targets.ensure(volume['name_id'])

    def remove_export(self, context: Any, volume: Any) -> None:
        """Hide a volume from all hosts that have no attachment.

        It is also called when one host of several could not connect.
        """
        if not self._by_host(volume):
            return self._by_volume.remove_export(context, volume)
        with self._restoring() as targets:
            attachments = _attachments(volume)
            if _in_the_making(attachments):
                # It may be that of a host which is told of the volume now.
                return
            shown = set(targets.initiators(volume['name_id']))
            targets.unmap(volume['name_id'],
                          shown - _initiators(attachments))

    def initialize_connection(self, volume: Any,
                              connector: dict[str, Any]) -> dict[str, Any]:
        if not self._by_host(volume):
            return self._by_volume.initialize_connection(volume, connector)
        if not _NAME.fullmatch(connector['initiator']):
            raise exception.InvalidConnectorException(missing='initiator')
        path = volume['provider_location'].removeprefix(_MARK)
        with self._restoring() as targets:
            host, lun = targets.map(connector['initiator'], volume['name_id'],
                                    path, identity(volume))
            self._told[volume['name_id'], connector['initiator']] += 1
        configuration = self._configuration
        location = self._by_volume._iscsi_location(
            configuration.target_ip_address, 1, host.iqn, lun,
            configuration.target_secondary_ip_addresses)
        told = collections.ChainMap({
            'provider_location': location,
            'provider_auth': f'CHAP {host.user} {host.password}'}, volume)
        return self._by_volume.initialize_connection(told, connector)

    def terminate_connection(self, volume: Any,
                             connector: Optional[dict[str, Any]],
                             **kwargs: Any) -> Any:
        """Hide a volume from a host, unless it is attached there twice."""
        if not self._by_host(volume):
            return self._by_volume.terminate_connection(volume, connector,
                                                        **kwargs)
        if not connector:
            # A forced detach: remove_export follows the last one.
            return
        initiator = connector['initiator']
        with self._restoring() as targets:
            attachments = _attachments(volume)
            there = sum(initiator.lower() in _initiators([attachment])
                        for attachment in attachments)
            told = self._told[volume['name_id'], initiator]
            # Another attachment of this host may have been told of the
            # volume, without that being recorded yet.
            if there < 2 and not (_in_the_making(attachments) and
                                  told > there):
                targets.unmap(volume['name_id'], [initiator])
                del self._told[volume['name_id'], initiator]

    def extend_target(self, volume: Any) -> None:
        if not self._by_host(volume):
            return self._by_volume.extend_target(volume)
        with self._restoring() as targets:
            targets.resize(volume['name_id'])

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[host_targets.HostTargets]:
        """The targets, for one caller at a time; right, from the start on."""
        with self._lock:
            if not self._restored:
                self.targets.load()
                self._reconcile()
                self.targets.restore()
                self._restored = True
            yield self.targets

    def _reconcile(self) -> None:
        """Leave what the service had mapped when it was killed, or undone.

        Only attachments are recorded. What a service attached it does not use
        any more, unless it is another's and still at it.
        """
        volumes = {volume.name_id: volume for volume in
                   objects.VolumeList.get_all_by_host(
                       cinder_context.get_admin_context(), self._backend)}
        for name in self.targets.volumes():
            volume = volumes.get(name)
            if volume is not None and _busy(volume):
                continue
            wanted = _initiators(_attachments(volume)) if volume else set()
            for initiator in set(self.targets.initiators(name)) - wanted:
                LOG.info('No attachment has %s on %s: it is not shown there.',
                         name, initiator)
                self.targets.drop(name, initiator)

    def _adopt(self, volume: Any, path: str) -> bool:
        """Recall from attachments what the file does not have.

        It was lost, or is on another node that this one stands in for.
        """
        changed = False
        for attachment in _attachments(volume):
            told = attachment.connection_info or {}
            initiator = (attachment.connector or {}).get('initiator')
            if initiator and (told.get('target_iqn') ==
                              self.targets.iqn(initiator)):
                unit = host_targets.Unit(told['target_lun'], path,
                                         identity(volume))
                changed |= self.targets.adopt(
                    initiator, volume['name_id'], unit,
                    told['auth_username'], told['auth_password'])
        return changed


def identity(volume: Any) -> str:
    """What a volume calls itself wherever it is found, of 32 characters."""
    return volume['name_id'].replace('-', '')


def _attachments(volume: Any) -> list[Any]:
    # What came with the volume may be of the time before the request.
    return list(objects.VolumeAttachmentList.get_all_by_volume_id(
        cinder_context.get_admin_context(), volume['id']))


def _initiators(attachments: list[Any]) -> set[str]:
    return {attachment.connector['initiator'].lower()
            for attachment in attachments
            if (attachment.connector or {}).get('initiator')}


def _in_the_making(attachments: list[Any]) -> bool:
    return not all(attachment.connector for attachment in attachments)


def _busy(volume: Any) -> bool:
    return (volume.status in _BUSY or
            volume.migration_status in ('migrating', 'completing') or
            (volume.migration_status or '').startswith('target:'))
