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
"""Join the taps that are made for servers to their host's bridge.

An agent of Neutron's does that elsewhere; the lab has none. The host's own
Python runs this file: ``python3 taps.py BRIDGE``.
"""

import json
import subprocess
import sys


def join_all(bridge: str) -> None:
    """Join every tap that is on no bridge."""
    links = json.loads(subprocess.run(
        ['ip', '-json', 'link', 'show'], check=True,
        capture_output=True).stdout)
    for link in links:
        if link['ifname'].startswith('tap') and 'master' not in link:
            # It may be gone by now.
            subprocess.run(['ip', 'link', 'set', link['ifname'], 'master',
                            bridge, 'up'])


def main(bridge: str) -> None:
    with subprocess.Popen(['ip', '-oneline', 'monitor', 'link'],
                          stdout=subprocess.PIPE) as monitor:
        join_all(bridge)
        assert monitor.stdout
        for _ in monitor.stdout:
            join_all(bridge)


if __name__ == '__main__':
    main(*sys.argv[1:])
