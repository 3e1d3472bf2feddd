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
import time
from typing import Any
from typing import Optional

from oslo_config import cfg
from oslo_log import log as logging

from cinder import context as cinder_context
from cinder import exception
from cinder.i18n import _
from cinder import objects
from cinder.volume.targets import host_targets
from cinder.volume.targets import iscsi
from cinder.volume.targets import lio_hosts
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
                            'Needs the tgtadm or lioadm helper'),
               ],
               help='What an iSCSI target of the LVM driver is for. Volumes '
                    'that are attached stay as they are until they are '
                    'detached.'),
]

#: What serves the targets, by the target helper.
_DAEMONS = {'lioadm': lio_hosts.Lio, 'tgtadm': tgt_hosts.Tgtd}
#: provider_location of a volume that is shown to hosts one by one.
_MARK = 'host-scope '
#: RFC 7143, 4.2.7.2 and .3: what an initiator may be called.
_NAME = re.compile(r'(iqn|eui|naa)\.[A-Za-z0-9.:-]{1,219}')
#: How long the API may take to record what a host was told.
_RECORDED_S = 60
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
    if wanted and configuration.safe_get('iscsi_write_cache') == 'off':
        # It would be ignored: hosts would take for stable what is not.
        raise exception.InvalidConfigurationValue(
            option='iscsi_write_cache', value=_('off (with target_scope)'))
    if helper in _DAEMONS and target.iscsi_protocol == 'iscsi':
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
        #: by a volume's name and the initiator that was told of it: when,
        #: and the attachments of that initiator which were recorded then
        self._told: dict[tuple[str, str],
                         list[tuple[float, frozenset[str]]]] = {}
        self._daemon = _DAEMONS[configuration.safe_get('target_helper')](
            configuration)
        self.targets = host_targets.HostTargets(
            self._daemon,
            os.path.join(configuration.safe_get('volumes_dir'), 'hosts',
                         f'{backend}.json'),
            configuration.safe_get('target_prefix'), backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._by_volume, name)

    def _by_host(self, volume: Any) -> bool:
        return (volume['provider_location'] or '').startswith(_MARK)

    def validate_connector(self, connector: dict[str, Any]) -> bool:
        """Refuse what is no name of an initiator, before anything is done."""
        if self._wanted:
            _check_initiator(connector)
        return self._by_volume.validate_connector(connector)

    def create_export(self, context: Any, volume: Any,
                      volume_path: str) -> dict[str, Optional[str]]:
        """Nothing is shown yet, to hosts one by one."""
        if not self._wanted and not self._by_host(volume):
            return self._by_volume.create_export(context, volume, volume_path)
        attached = any(attachment.connector or _by_old_api(attachment)
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
            targets.ensure(volume['name_id'])

    def remove_export(self, context: Any, volume: Any) -> None:
        """Hide a volume from all hosts that have no attachment.

        It is also called when one host of several could not connect.
        """
        if not self._by_host(volume):
            return self._by_volume.remove_export(context, volume)
        name = volume['name_id']
        with self._restoring() as targets:
            attachments = _attachments(volume)
            if any(_in_the_making(each) or _by_old_api(each)
                   for each in attachments):
                # It may be that of a host which is told of the volume now,
                # or of one of which there is no record.
                return
            gone = set(targets.initiators(name)) - _initiators(attachments)
            targets.unmap(name, gone)
            for initiator in gone:
                self._told.pop((name, initiator), None)

    def initialize_connection(self, volume: Any,
                              connector: dict[str, Any]) -> dict[str, Any]:
        if not self._by_host(volume):
            return self._by_volume.initialize_connection(volume, connector)
        _check_initiator(connector)
        name, initiator = volume['name_id'], connector['initiator']
        path = volume['provider_location'].removeprefix(_MARK)
        with self._restoring() as targets:
            host, lun = targets.map(initiator, name, path, identity(volume))
            self._told[name, initiator] = [
                *self._lately(volume, initiator),
                (time.monotonic(), self._recorded(_attachments(volume),
                                                  initiator))]
        configuration = self._configuration
        location = self._by_volume._iscsi_location(
            configuration.target_ip_address, 1, host.iqn, lun,
            configuration.target_secondary_ip_addresses)
        told = collections.ChainMap({
            'provider_location': location,
            'provider_auth': f'CHAP {host.user} {host.password}'}, volume)
        # Without what a helper does for its own targets.
        return iscsi.ISCSITarget.initialize_connection(
            self._by_volume, told, connector)

    def terminate_connection(self, volume: Any,
                             connector: Optional[dict[str, Any]],
                             **kwargs: Any) -> Any:
        """Hide a volume from a host, unless it is attached there twice."""
        if not self._by_host(volume):
            return self._by_volume.terminate_connection(volume, connector,
                                                        **kwargs)
        initiator = (connector or {}).get('initiator')
        if not initiator:
            # A forced detach: remove_export follows the last one.
            return
        name = volume['name_id']
        with self._restoring() as targets:
            attachments = _attachments(volume)
            there = sum(initiator in _initiators([attachment])
                        for attachment in attachments)
            coming = (any(map(_in_the_making, attachments)) and
                      self._is_coming(volume, initiator, attachments))
            if there < 2 and not coming:
                targets.unmap(name, [initiator])
                self._told.pop((name, initiator), None)

    def _is_coming(self, volume: Any, initiator: str,
                   attachments: list[Any]) -> bool:
        """Whether a host was told of a volume without a record of it yet.

        An attachment that is about to be recorded looks like that of a
        shelved server, which stays as it is. But when none is about to be,
        there are as many new records as the host was told of.
        """
        told = self._lately(volume, initiator)
        if not told:
            return False
        since = self._recorded(attachments, initiator) - told[0][1]
        return len(told) > len(since)

    def _lately(self, volume: Any, initiator: str
                ) -> list[tuple[float, frozenset[str]]]:
        """What the host was told of the volume and may not be recorded."""
        return [each for each in self._told.get((volume['name_id'],
                                                 initiator), [])
                if time.monotonic() - each[0] < _RECORDED_S]

    def _recorded(self, attachments: list[Any],
                  initiator: str) -> frozenset[str]:
        """Those whose records say what this host was told, by id."""
        return frozenset(
            each.id for each in attachments
            if initiator in _initiators([each]) and self._is_recorded(each))

    def extend_target(self, volume: Any) -> None:
        if not self._by_host(volume):
            return self._by_volume.extend_target(volume)
        with self._restoring() as targets:
            targets.resize(volume['name_id'])

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[host_targets.HostTargets]:
        """The targets, for one caller at a time.

        They are right then, also when this or the daemon has just started.
        """
        with self._lock:
            if not self._restored:
                self._recall()
            if not self._restored:
                self._restore_by_volume()
            if not (self._restored and self.targets.complete()):
                self._daemon.listen()
                self.targets.restore()
                self._restored = True
            yield self.targets

    def _restore_by_volume(self) -> None:
        """LIO's targets of volumes, which are restored if there is no target.

        There would be those of hosts.
        """
        restore = getattr(self._by_volume, '_restore_configuration', None)
        if restore and not self._daemon.iqns():
            restore()

    def _recall(self) -> None:
        """What is to be shown to whom.

        That is what attachments recorded. Beside it counts the file of what
        the service had mapped: for a host that was told of a volume without
        that being recorded yet, for what was attached by the older API, which
        records nothing, and for what another service has attached for itself.
        The file may also be lost, or of a time when another node served.
        """
        kept = self.targets.load()
        hosts: dict[str, host_targets.Host] = {}
        recorded_units, loose = [], []
        for volume in objects.VolumeList.get_all_by_host(
                cinder_context.get_admin_context(), self._backend):
            if not self._by_host(volume):
                continue
            path = volume.provider_location.removeprefix(_MARK)
            attachments = _attachments(volume)
            recorded = {each.connector['initiator']: each.connection_info
                        for each in attachments
                        if self._is_recorded(each)}
            for initiator, told in recorded.items():
                hosts.setdefault(initiator, host_targets.Host(
                    told['target_iqn'], told['auth_username'],
                    told['auth_password']))
                recorded_units.append((
                    initiator, volume.name_id, host_targets.Unit(
                        told['target_lun'], path, identity(volume))))
            others = _initiators(attachments) - set(recorded)
            unknown = _busy(volume) or any(map(_by_old_api, attachments))
            loose += [(initiator, volume.name_id)
                      for initiator, host in kept.items()
                      if volume.name_id in host.units and
                      initiator not in recorded and
                      (unknown or initiator in others)]
        _put(hosts, recorded_units)
        for initiator, _name in loose:
            before = kept[initiator]
            hosts.setdefault(initiator, host_targets.Host(
                before.iqn, before.user, before.password))
        # A LUN that an attachment recorded is that volume's.
        _put(hosts, [(initiator, name, kept[initiator].units[name])
                     for initiator, name in loose
                     if kept[initiator].units[name].lun not in
                     hosts[initiator].by_lun()])
        for initiator, host in kept.items():
            if initiator in hosts:
                hosts[initiator].last = host.last
            else:
                # Its target goes, with what is left in it.
                hosts[initiator] = host_targets.Host(
                    host.iqn, host.user, host.password, host.last)
        self.targets.hosts = hosts

    def _is_recorded(self, attachment: Any) -> bool:
        initiator = (attachment.connector or {}).get('initiator')
        told = attachment.connection_info or {}
        return bool(initiator) and (
            told.get('target_iqn') == self.targets.iqn(initiator))


def _put(hosts: dict[str, host_targets.Host],
         units: list[tuple[str, str, host_targets.Unit]]) -> None:
    """Put volumes where they were, but for those that claim one place."""
    places = collections.Counter((initiator, unit.lun)
                                 for initiator, _name, unit in units)
    for initiator, name, unit in units:
        if places[initiator, unit.lun] == 1:
            hosts[initiator].units[name] = unit
        else:
            # Which of them the host has there can not be known.
            LOG.error('%s is not the only volume by LUN %d of %s: it is not '
                      'shown until it is attached again.', unit.path,
                      unit.lun, hosts[initiator].iqn)


def _check_initiator(connector: dict[str, Any]) -> None:
    name = connector.get('initiator')
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise exception.InvalidConnectorException(missing='initiator')


def identity(volume: Any) -> str:
    """What a volume calls itself wherever it is found, of 32 characters."""
    return volume['name_id'].replace('-', '')


def _attachments(volume: Any) -> list[Any]:
    # What came with the volume may be of the time before the request.
    return list(objects.VolumeAttachmentList.get_all_by_volume_id(
        cinder_context.get_admin_context(), volume['id']))


def _initiators(attachments: list[Any]) -> set[str]:
    return {attachment.connector['initiator'] for attachment in attachments
            if (attachment.connector or {}).get('initiator')}


def _in_the_making(attachment: Any) -> bool:
    return not attachment.connector and not _by_old_api(attachment)


def _by_old_api(attachment: Any) -> bool:
    """Whether it is one that never has a connector.

    That of a shelved server is attached without one too, until it is
    unshelved; only the old API notes when.
    """
    return (not attachment.connector and
            attachment.attach_status == 'attached' and
            attachment.attach_time is not None)


def _busy(volume: Any) -> bool:
    return (volume.status in _BUSY or
            volume.migration_status in ('migrating', 'completing') or
            (volume.migration_status or '').startswith('target:'))
