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
"""Follow or verify a ring where only this host can read it.

``python -m blockpath.observe.write_agent PATH`` follows the ring and prints a
JSON object a line: a report every 50 ms, and ``{"clock": SECONDS}`` as the
answer to each line on its standard input, whose end also ends the agent.
With ``--verify`` it prints one :class:`write_ring.Result`. On an error its
last line is ``{"failed": "why"}``. ``remote_watcher`` reads all of these.

All times are seconds of this host's ``time.monotonic()``, a clock that nobody
can set. No module outside the standard library is imported: the host that
runs this has not all that blockpath requires.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import select
import sys
import time
from typing import Any

from blockpath.observe import write_follower
from blockpath.observe import write_ring

#: Seconds between two reports.
REPORT_S = 0.05
_STDIN = 0


class Reporter:
    """Reports all that is new since the last report."""

    def __init__(self, seen: write_follower.Seen) -> None:
        self._seen = seen
        self._times = self._blind = self._problems = 0

    def report(self, ended: bool = False) -> dict[str, Any]:
        """Return the next report, for JSON.

        :param ended: it is the last one
        """
        seen = self._seen
        new = {'started': seen.started, 'looked': seen.looked,
               'times': seen.times[self._times:].tolist(),
               'blind': seen.blind[self._blind:],
               'problems': [dataclasses.asdict(one) for one in
                            seen.problems[self._problems:]],
               # All of them: there is one each boot, and the last one grows.
               'runs': [dataclasses.asdict(one) for one in seen.runs.runs],
               'ended': ended}
        self._times = len(seen.times)
        self._blind = len(seen.blind)
        self._problems = len(seen.problems)
        return new


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; return its exit status."""
    parser = argparse.ArgumentParser(prog='write_agent')
    parser.add_argument('path', help='of the file or block device')
    parser.add_argument('--verify', action='store_true',
                        help='verify all that the ring holds, and exit')
    args = parser.parse_args(argv)
    try:
        if args.verify:
            _print(dataclasses.asdict(write_ring.verify(args.path)))
        else:
            _follow(args.path)
    except Exception as error:
        _print({'failed': f'{type(error).__name__}: {error}'})
        return 1
    return 0


def _follow(path: str) -> None:
    write_follower.hurry()
    with contextlib.closing(write_ring.Ring(path)) as ring:
        follower = write_follower.Follower(ring, time.monotonic())
        reporter = Reporter(follower)
        due = 0.0
        while True:
            now = time.monotonic()
            follower.poll(now)
            if now >= due:
                _print(reporter.report())
                due = now + REPORT_S
            if select.select([_STDIN], [], [], write_follower.POLL_S)[0]:
                asked = os.read(_STDIN, 4096)
                if not asked:
                    break
                for _ in range(asked.count(b'\n')):
                    _print({'clock': time.monotonic()})
        follower.poll(time.monotonic())
        _print(reporter.report(ended=True))


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == '__main__':
    sys.exit(main())
