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
"""Where the targets on this host are reached: addresses and ports.

The first is that of ``target_ip_address``, the others those of
``target_secondary_ip_addresses``. Each may have a port of its own, as in
``192.0.2.7:3261`` or ``[2001:db8::7]:3261``; the others have
``target_port``.
"""

from collections.abc import Iterable
from typing import Any

from oslo_utils import netutils

from cinder import exception
from cinder.i18n import _


def addresses(configuration: Any) -> list[str]:
    """The addresses as they are configured."""
    secondary = configuration.target_secondary_ip_addresses or []
    return [configuration.target_ip_address, *secondary]


def split(address: str, port: int) -> tuple[str, int]:
    """A host, an IPv6 address in brackets, and its port.

    :param port: where the address has none
    :raises ValueError: it is no address
    """
    host, own_port = netutils.parse_host_port(address, default_port=port)
    host = netutils.escape_ipv6(host or '')
    # What the parser leaves out, as it does what follows a bracket, shows.
    if (not host or not netutils.is_valid_port(own_port) or
            address not in (host, host.strip('[]'), f'{host}:{own_port}')):
        raise ValueError(_('%r is no address') % address)
    return host, own_port


def with_ports(texts: Iterable[str], port: int) -> list[str]:
    """Portals as connection_info has them, each once.

    :raises ValueError: one of them is none
    """
    return list(dict.fromkeys(
        '%s:%s' % split(text, port) for text in texts))


def check(configuration: Any, target_driver: Any) -> None:
    """Refuse what the target driver could not give.

    :raises InvalidConfigurationValue: an address is none, or has a port which
        that driver can not listen on
    """
    port = configuration.target_port
    for text in configuration.target_secondary_ip_addresses or []:
        try:
            refused = (split(text, port)[1] != port and
                       not target_driver.OWN_PORTS_SUPPORT)
        except ValueError:
            refused = True
        if refused:
            raise exception.InvalidConfigurationValue(
                value=_('%(text)s (with %(driver)s)') % {
                    'text': text, 'driver': type(target_driver).__name__},
                option='target_secondary_ip_addresses')
