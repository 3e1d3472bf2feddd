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

"""Runs what takes its time where it does not hold up the service."""

import collections.abc
import functools
import threading
import typing as ty

from oslo_config import cfg
from oslo_log import log as logging

from cinder import utils
from cinder.volume.copier import engine
from cinder.volume.copier import qemu_copy
from cinder.volume.copier import volume_file

CONF = cfg.CONF
LOG = logging.getLogger(__name__)
#: The least that backend_native_threads_pool_size may be.
_THREADS = 20
_Result = ty.TypeVar('_Result')


class _Caller:

    @staticmethod
    def call(function: collections.abc.Callable[..., ty.Any],
             *args: ty.Any) -> ty.Any:
        return function(*args)


def call(function: collections.abc.Callable[..., _Result], *args: ty.Any
         ) -> _Result:
    """Call `function` in a thread of the operating system."""
    return ty.cast(_Result, utils.tpool_wrap(_Caller()).call(function, *args))


def copy(source: volume_file.VolumeFile, destination: volume_file.VolumeFile,
         length: int, options: engine.Options = engine.Options(),
         progress: engine.Progress | None = None) -> engine.Progress:
    """Call :func:`.engine.copy` there, or what does the same for less."""
    arguments = source, destination, length, options, (
        progress or engine.Progress())
    with _turns():
        if qemu_copy.suits(source, destination, options):
            try:
                return call(qemu_copy.copy, *arguments)
            except qemu_copy.Unable as error:
                # What it may have written is what is written now.
                LOG.warning('%s; copying without qemu-img.', error)
        return call(engine.copy, *arguments)


@functools.cache
def _turns() -> threading.Semaphore:
    """Leaves half of the threads to what else the backend's driver does."""
    # Not there in tests and tools, which have no volume manager.
    threads = getattr(getattr(CONF, 'backend_defaults', None),
                      'backend_native_threads_pool_size', _THREADS)
    return threading.Semaphore(threads // 2)
