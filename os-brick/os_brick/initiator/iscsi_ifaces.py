#
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

"""The ifaces of open-iscsi that sessions are made over, several at once.

An iface is named, as in ``iscsiadm -m iface``, or described. What is described
is made, and put right, before it is used::

    default                                what open-iscsi does by itself
    iser                                   the same by RDMA
    cxgb4i.00:07:43:28:b2:58               an iface there, or one of this
                                           transport and hardware address
    left=tcp.eth1                          an iface of the name given, of
                                           transport and net device
    hba=qedi.00:0e:1e:c4:e1:6d@192.0.2.7   with an address for the adapter
"""

import collections.abc
import contextlib
import dataclasses
import glob
import os
import re
import threading
import typing as ty

from oslo_concurrency import processutils as putils
from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import netutils

from os_brick import exception
from os_brick.i18n import _
from os_brick.initiator import iscsi_paths
from os_brick.initiator import iscsi_transports

if ty.TYPE_CHECKING:
    from os_brick.initiator.connectors import iscsi

LOG = logging.getLogger(__name__)

DEFAULT = 'default'
#: Ifaces that open-iscsi has by itself.
_BUILT_IN = (DEFAULT, 'iser')
#: iscsiadm's exit codes where it has no such iface.
_ABSENT = (6, 21)
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}')
_MAC = re.compile(r'(([0-9a-f]{2}:){5}[0-9a-f]{2})'
                  # As open-iscsi names those that it makes itself.
                  r'(\.ipv[46]\.\d+)?', re.IGNORECASE)
_SYS = '/sys/class'
_RECORDED = 'Iface Name: '


class Unusable(exception.BrickException):
    """An iface can not be used, for the reason given."""


@dataclasses.dataclass(frozen=True)
class Iface:
    """An iface as it was asked for.

    :ivar settings: what its record must have; if there are none it must be
        there already
    """

    name: str
    settings: collections.abc.Mapping[str, str] = dataclasses.field(
        default_factory=dict, hash=False)
    described: bool = False

    @classmethod
    def parse(cls, text: str) -> 'Iface':
        """Read what was asked for.

        :raises: Unusable if it is not one
        """
        name, equals, description = text.strip().partition('=')
        if not _NAME.fullmatch(name):
            raise _invalid(text, _('%r is no name') % name)
        if equals and name in _BUILT_IN:
            raise _invalid(text, _('%s is open-iscsi\'s own') % name)
        settings = _describe(description or name)
        if equals and not settings:
            raise _invalid(text, _('%r is not TRANSPORT.DEVICE[@ADDRESS], '
                                   'with a transport among %s') % (
                description, ', '.join(iscsi_transports.NAMES)))
        return cls(name, settings, bool(equals))


def _invalid(text: str, why: str) -> Unusable:
    return Unusable(_('iSCSI iface %(text)r: %(why)s')
                    % {'text': text, 'why': why})


def _describe(text: str) -> dict[str, str]:
    rest, at, address = text.partition('@')
    transport, dot, device = rest.partition('.')
    if (transport not in iscsi_transports.NAMES or
            not _NAME.fullmatch(device) or
            at and not netutils.is_valid_ip(address)):
        return {}
    settings = {'iface.transport_name': transport}
    hardware = _MAC.fullmatch(device)
    if hardware:
        settings['iface.hwaddress'] = hardware[1]
    else:
        settings['iface.net_ifacename'] = device
    if at:
        settings['iface.ipaddress'] = address
    return settings


class Login:
    """How a session is to be made.

    :ivar name: the iface
    :ivar explicit: whether open-iscsi must be told it
    :ivar group: of those that are made at the same time; None if the default
        iface may not be used instead
    :ivar again: whether it is the one to try that at its portal
    """

    def __init__(self, name: str, group: ty.Optional['_Group'] = None,
                 again: bool = False) -> None:
        self.name = name
        self.explicit = name != DEFAULT
        self.group = group
        self.again = again


class _Group:
    """Logins for one volume, of which one session is enough."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._left = count
        self._done = False

    def ended(self, well: bool) -> bool:
        """Whether all have failed; returns when that is known.

        Each says once how it ended.
        """
        with self._changed:
            self._left -= 1
            self._done = self._done or well
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done or not self._left)
            return not self._done


class Ifaces:
    """The ifaces of a connector."""

    #: What was said already, by any of them.
    _said: set[tuple[str, ...]] = set()

    def __init__(self, connector: 'iscsi.ISCSIConnector',
                 transport: ty.Union[str, ty.Iterable[str]]) -> None:
        """Read which are asked for.

        A connector is also made where none is needed, to tell what the host
        is, so what is wrong is told by ``prepare``.

        :param transport: names or descriptions, a list or one with commas;
            if it is the default one, those of the configuration
        """
        texts = (transport.split(',') if isinstance(transport, str)
                 else list(transport))
        self._connector = connector
        #: One that is just named, as it was before there were several.
        self._single = len(texts) == 1 and texts != [DEFAULT] and (
            '=' not in texts[0])
        if texts == [DEFAULT]:
            texts = cfg.CONF.os_brick.iscsi_ifaces or texts
        self._asked: list[Iface] = []
        self._wrong: list[str] = []
        for text in dict.fromkeys(texts):
            self._ask(text)
        self._usable = [iface.name for iface in self._asked] or [DEFAULT]

    def _ask(self, text: str) -> None:
        try:
            iface = Iface.parse(text)
            if iface.name in {other.name for other in self._asked}:
                raise _invalid(text, _('there is another %s') % iface.name)
            self._asked.append(iface)
        except Unusable as error:
            self._wrong.append(str(error))

    def transport(self) -> str:
        """The iface where there can be but one, as for names of devices."""
        if self._single and self._asked and self._fallback:
            name = self._connector._validate_iface_transport(
                self._asked[0].name)
            if name == DEFAULT:
                self._asked = [Iface(DEFAULT)]
            self._usable = [name]
        return next((name for name in self._usable if name != DEFAULT),
                    DEFAULT)

    @property
    def _fallback(self) -> bool:
        return cfg.CONF.os_brick.iscsi_iface_fallback

    def prepare(self) -> None:
        """Make sure of the ifaces and of the hardware they stand for.

        :raises: BrickException if none of them can be used
        """
        usable, reasons = [], list(self._wrong)
        for iface in self._asked:
            try:
                self._prepare(iface)
                usable.append(iface.name)
            except Unusable as error:
                reasons.append(str(error))
        if not usable:
            if not self._fallback:
                raise exception.BrickException('; '.join(reasons))
            usable = [DEFAULT]
        self._usable = usable
        for reason in reasons:
            self.warn('%s. Volumes are connected over: %s', reason,
                      ', '.join(usable))

    @classmethod
    def warn(cls, text: str, *values: str) -> None:
        """Say it, if it was not said before."""
        if (text, *values) not in cls._said:
            cls._said.add((text, *values))
            LOG.warning(text, *values)

    def _prepare(self, iface: Iface) -> None:
        if iface.name == DEFAULT:
            return
        # What the hardware lacks is told before anything is made for it.
        _verify(iface.name, iface.settings)
        if iface.name in _BUILT_IN:
            _verify(iface.name, {'iface.transport_name': iface.name})
            return
        record = self._record(iface.name)
        if record is None:
            if not iface.settings:
                raise Unusable(_('There is no iSCSI iface %s, and it is not '
                                 'described') % iface.name)
            self._make(iface)
        elif iface.described:
            self._put_right(iface, record)
        else:
            _verify(iface.name, record)

    def _make(self, iface: Iface) -> None:
        self._run(iface.name, '--op', 'new')
        try:
            self._put_right(iface, {})
        except Unusable:
            # Whoever comes next is not to find half of it, and use that.
            with contextlib.suppress(Unusable):
                self._run(iface.name, '--op', 'delete')
            raise

    def _put_right(self, iface: Iface, record: ty.Mapping[str, str]) -> None:
        for setting, value in iface.settings.items():
            if record.get(setting, '').lower() != value.lower():
                self._run(iface.name, '--op', 'update', '-n', setting, '-v',
                          value)

    def _record(self, name: str) -> ty.Optional[dict[str, str]]:
        out = self._run(name, check_exit_code=[0, *_ABSENT])
        record = dict(line.split(' = ', 1) for line in out.splitlines()
                      if ' = ' in line)
        return {setting: '' if value == '<empty>' else value
                for setting, value in record.items()} or None

    def _run(self, name: str, *rest: str, **kwargs: ty.Any) -> str:
        try:
            return self._connector._run_iscsiadm_bare(
                ['-m', 'iface', '-I', name, *rest], **kwargs)[0]
        except putils.ProcessExecutionError as error:
            raise Unusable(_('The iSCSI iface %(name)s could not be read or '
                             'changed: %(error)s') % {
                'name': name, 'error': ' '.join((error.stderr or '').split())
                or error.exit_code})

    def discover(self, properties: dict) -> list[iscsi_paths.Triple]:
        """Discover the portals over the first iface by which there are any.

        :raises: ProcessExecutionError of the last one
        """
        names = list(self._usable)
        if self._fallback and DEFAULT not in names:
            names.append(DEFAULT)
        for name in names:
            try:
                found = self._connector._discover_iscsi_portals(
                    path(properties, Login(name), alone=True))
            except putils.ProcessExecutionError:
                if name == names[-1]:
                    raise
                continue
            if found:
                return found
        return []

    def over(self, paths: ty.Iterable[tuple]) -> list[tuple]:
        """Each portal, IQN and LUN, over each iface: with its login.

        They are made at the same time. If none of them succeeds, there is one
        at each portal that tries the default iface.
        """
        every = [(each, name) for each in paths for name in self._usable]
        group = _Group(len(every)) if self._falls_back else None
        return [(*each, Login(name, group, name == self._usable[0]))
                for each, name in every]

    def each(self, paths: ty.Iterable[iscsi_paths.Properties]
             ) -> ty.Iterator[iscsi_paths.Properties]:
        """The same of paths that are tried in turn."""
        every = list(paths)
        alone = len(self._usable) == 1 and not self._falls_back
        for properties in every:
            for name in self._usable:
                yield path(properties, Login(name), properties.alone and alone)
        if self._falls_back:
            self._say_it_falls_back()
            for properties in every:
                yield path(properties, Login(DEFAULT), properties.alone)

    @property
    def _falls_back(self) -> bool:
        return self._fallback and DEFAULT not in self._usable

    def _say_it_falls_back(self) -> None:
        self.warn('No login over iSCSI iface %s succeeded. The default one is '
                  'used.', ', '.join(self._usable))

    def connect(self, method: ty.Callable[[dict], tuple],
                properties: dict) -> tuple:
        """Log in, and over the default iface if no others do."""
        login = getattr(properties, 'login', None)
        if login is None or login.group is None:
            return method(properties)
        result, failure = (None, None), None
        try:
            result = method(properties)
        except Exception as error:
            failure = error
        if login.group.ended(well=bool(result[0])) and login.again:
            self._say_it_falls_back()
            return method(path(properties, Login(DEFAULT), alone=False))
        if failure:
            raise failure
        return result


def _verify(name: str, settings: ty.Mapping[str, str]) -> None:
    """Make sure that the host has what an iface stands for.

    :raises: Unusable, which tells what is absent
    """
    transport = settings.get('iface.transport_name', '')
    if transport == 'iser':
        # Its module is loaded by the first login.
        _need(name, 'infiniband/*', _('no RDMA device'))
    elif transport not in ('', 'tcp'):
        _need(name, f'iscsi_transport/{transport}', _('no such transport'))
    device = settings.get('iface.net_ifacename')
    if device:
        _need(name, f'net/{glob.escape(device)}', _('no such net device'))
    hardware = settings.get('iface.hwaddress', '').lower()
    if hardware and hardware not in _hardware():
        raise Unusable(_('iSCSI iface %(name)s: no net device and no iSCSI '
                         'host has the hardware address %(hardware)s')
                       % {'name': name, 'hardware': hardware})


def _need(name: str, pattern: str, lack: str) -> None:
    path = os.path.join(_SYS, pattern)
    if not glob.glob(path):
        raise Unusable(_('iSCSI iface %(name)s: the host has %(lack)s, '
                         '%(path)s')
                       % {'name': name, 'lack': lack, 'path': path})


def _hardware() -> set[str]:
    found = set()
    for pattern in ('net/*/address', 'iscsi_host/*/hwaddress'):
        for path in glob.glob(os.path.join(_SYS, pattern)):
            try:
                with open(path) as file:
                    found.add(file.read().strip().lower())
            except OSError:
                continue  # it went meanwhile, or has none
    return found


def path(properties: ty.Mapping[str, ty.Any], login: Login,
         alone: bool) -> iscsi_paths.Properties:
    """Properties of one of the paths, with its login."""
    result = iscsi_paths.path(properties, alone and login.group is None)
    result.login = login
    return result


def name(connector: 'iscsi.ISCSIConnector', properties: dict) -> str:
    """The iface to log in over."""
    login = getattr(properties, 'login', None)
    return login.name if login else connector._get_transport()


def option(properties: dict, command: ty.Sequence[str]) -> tuple[str, ...]:
    """What tells iscsiadm the iface."""
    login = getattr(properties, 'login', None)
    if not login or not login.explicit or '--interface' in command:
        return ()
    return '-I', login.name


def lacks_record(properties: dict, records: str) -> bool:
    """Whether the records of a node are those of other ifaces alone.

    If there are any of others, iscsiadm must be told the iface from here on:
    without it, it would log in over all of them.

    :param records: what iscsiadm shows of them
    """
    login = getattr(properties, 'login', None)
    names = re.findall(r'^iface\.iscsi_ifacename = (\S+)$', records, re.M)
    if not login or not names:
        return False
    login.explicit = login.explicit or names != [login.name]
    return login.name not in names


def recorded(line: str, wanted: str) -> bool:
    """Whether a line of discovered portals tells an iface to be recalled.

    Only iSER's are kept apart. Others may be of a former configuration, or of
    releases that discovered over the default one whatever was asked for.

    :param wanted: such a line
    """
    if not line.startswith(_RECORDED):
        return False
    return line == wanted or line.removeprefix(_RECORDED) not in _BUILT_IN


def has(session: str, properties: dict) -> bool:
    """Whether a session is over the iface to log in over."""
    login = getattr(properties, 'login', None)
    return not login or _iface(session) in ('', login.name)


def sessions(properties: dict) -> dict[str, str]:
    """The ifaces of the sessions with a target at a portal, by number."""
    host, __, port = properties['target_portal'].partition(',')[0].rpartition(
        ':')
    found = {}
    for path in glob.glob(os.path.join(_SYS, 'iscsi_session/session*')):
        number = path.rpartition('session')[2]
        address, at = (_read('connection', f'{number}:0', f'persistent_{name}')
                       for name in ('address', 'port'))
        if (_read('session', number, 'targetname') == properties['target_iqn']
                and address.lower() == host.strip('[]').lower() and
                at == port):
            found[number] = _iface(number) or DEFAULT
    return found


def _iface(session: str) -> str:
    name = _read('session', session, 'ifacename')
    # Adapters that log in by themselves have none.
    return '' if name.startswith(('(', '<')) else name


def _read(kind: str, number: str, attribute: str) -> str:
    try:
        with open(os.path.join(_SYS, f'iscsi_{kind}', f'{kind}{number}',
                               attribute)) as file:
            return file.read().strip()
    except OSError:
        return ''
