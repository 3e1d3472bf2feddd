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

"""How fast copies may go."""

import _queue
import time


class Limiter:
    """Shares a number of bytes a second among all that hold it.

    Safe in any thread, also under eventlet (see :mod:`.volume_file`).
    """

    def __init__(self, rate: int) -> None:
        """:param rate: bytes a second"""
        self._rate = rate
        #: The time at which everything reserved so far will be through. A
        #: queue of one, which is taken and put back, in place of a lock.
        self._until: _queue.SimpleQueue[float] = _queue.SimpleQueue()
        self._until.put(0.0)

    def reserve(self, length: int) -> float:
        """Take a share of `length` bytes.

        :returns: the seconds to wait before they are moved
        """
        now = time.monotonic()
        begin = max(self._until.get(), now)
        self._until.put(begin + length / self._rate)
        return begin - now


_limiters: dict[int, Limiter] = {}


def limiter(rate: int | None) -> Limiter | None:
    """The one limiter of this process for `rate`, or None for no limit.

    Copies at the same rate share it, as those of one backend shall.
    """
    return _limiters.setdefault(rate, Limiter(rate)) if rate else None
