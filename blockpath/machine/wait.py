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
"""Waiting for something, with a deadline."""

from collections.abc import Callable
import threading
import time
from typing import TypeVar

from blockpath.machine import errors

T = TypeVar('T')

#: Seconds between two looks at something that changes.
POLL = 0.2
#: Seconds that anything may take, emulated guests and busy machines included.
PATIENCE = 120.0
#: Set when the lab is being torn down: whoever waits gives up.
cancelled = threading.Event()


class Cancelled(errors.LabError):
    """Another part failed, or the user interrupted."""


def until(check: Callable[[], T], what: str, timeout: float,
          interval: float = 0.1) -> T:
    """Call ``check`` until its answer is true, and return that.

    :param what: ends the sentence 'timed out waiting for ...'.
    :param timeout: seconds.
    :param interval: seconds between two calls.
    :raises TimedOut: it was never true in that time.
    :raises Cancelled: the lab is being torn down.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise errors.TimedOut(
                f'timed out after {timeout:g} s waiting for {what}')
        if cancelled.wait(interval):
            raise Cancelled('cancelled')
