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
"""Follow one of Cinder's copies: by what Cinder tells, and past Cinder."""

import dataclasses
import threading
import time
from typing import Any
import warnings

from oslo_config import cfg

from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.observe import volume_content

with warnings.catch_warnings():
    # It may be imported; nothing here runs on it.
    warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')
    import oslo_messaging

#: Options with which a service sends its notifications.
NOTIFY = {'oslo_messaging_notifications': {'driver': 'messagingv2'}}
_EVENT = r'^volume\.migrate\.progress$'
#: Seconds between two looks at what is stored. Of an image in Ceph each
#: takes 40 ms of a processor.
_PAUSE = 0.25


@dataclasses.dataclass(frozen=True)
class Word:
    """What Cinder told of a copy.

    :ivar at: when it arrived, in seconds of ``time.monotonic()``
    :ivar done: all of the volume below this offset was dealt with
    :ivar written: bytes that were written
    :ivar seconds: since the copy began
    """

    at: float
    done: int
    written: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes written a second, since the copy began."""
        return self.written / self.seconds if self.seconds else 0.0


def word(at: float, progress: dict[str, Any]) -> Word:
    """Take one from what Cinder's notification has as ``progress``."""
    rate = progress['rate']
    return Word(at, progress['done'], progress['written'],
                progress['done'] / rate if rate else 0.0)


class Listener:
    """Hears what Cinder tells of its copies, in a block.

    cinder-volume has to be run with :data:`NOTIFY`, and this in the control
    host's network namespace.
    """

    filter_rule = oslo_messaging.NotificationFilter(event_type=_EVENT)

    def __init__(self, site: topology.Site) -> None:
        # The password of the message queue stays in the file.
        conf = cfg.ConfigOpts()
        conf([], project='cinder', default_config_files=[
            str(site.etc / topology.CONTROL.name / 'cinder.conf')])
        self._transport = oslo_messaging.get_notification_transport(conf)
        self._listener = oslo_messaging.get_notification_listener(
            self._transport,
            [oslo_messaging.Target(topic='notifications',
                                   exchange='cinder')],
            [self], executor='threading')
        self._heard: list[tuple[str, Word]] = []

    def __enter__(self) -> 'Listener':
        self._listener.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.stop()
        self._listener.wait()
        self._transport.cleanup()

    def info(self, context: Any, publisher: str, event: str,
             payload: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Called by oslo.messaging, in a thread of its own."""
        self._heard.append((payload['volume_id'],
                            word(time.monotonic(), payload['progress'])))

    def words(self, volume: Any, since: float = 0.0) -> list[Word]:
        """All of a volume's copies from then on."""
        return [word for volume_id, word in list(self._heard)
                if volume_id == volume.id and word.at >= since]


class Growth:
    """Watches, in a block, how much is stored for a volume.

    It ends by itself when the volume is deleted.

    :ivar samples: times, in seconds of ``time.monotonic()``, and bytes
    """

    def __init__(self, holdings: volume_content.Holdings,
                 volume: Any) -> None:
        self._holdings = holdings
        self.volume = volume
        self.samples: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> 'Growth':
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def stored(self) -> int:
        """Bytes, when it was last looked at."""
        return self.samples[-1][1] if self.samples else 0

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                stored = self._holdings.allocated(self.volume)
            except errors.LabError:
                return
            self.samples.append((time.monotonic(), stored))
            self._ended.wait(_PAUSE)


@dataclasses.dataclass
class Course:
    """How a copy went, for a plot.

    :ivar began: when it was asked for, in seconds of ``time.monotonic()``
    :ivar samples: times and bytes stored
    :ivar told: times, bytes that are there, and the bytes a second so far, by
        what Cinder told
    :ivar marks: times, and what happened then
    """

    title: str
    began: float
    samples: list[tuple[float, int]] = dataclasses.field(
        default_factory=list)
    told: list[tuple[float, int, float]] = dataclasses.field(
        default_factory=list)
    marks: list[tuple[float, str]] = dataclasses.field(default_factory=list)


def rates(samples: list[tuple[float, int]], window: float
          ) -> list[tuple[float, float]]:
    """Bytes a second, each over at least so many seconds before.

    :param samples: times and bytes
    :returns: times, and the rate until then
    """
    found = []
    first = 0
    for at, stored in samples:
        while (first + 1 < len(samples) and
               at - samples[first + 1][0] >= window):
            first += 1
        begin, before = samples[first]
        if at - begin >= window:
            found.append((at, (stored - before) / (at - begin)))
    return found
