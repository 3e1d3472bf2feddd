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

"""Any other object with the methods of a file."""

import errno
import os
import typing as ty

from cinder.i18n import _
from cinder.volume.copier import volume_file


class HandleFile(volume_file.VolumeFile):
    """What an os-brick connector gave in place of a path, for example.

    It stays open; that is its owner's to close.
    """

    def __init__(self, handle: ty.Any, size: int, writable: bool) -> None:
        """Use `handle` alone from here on.

        :param handle: has ``read``, ``seek`` and, if writable, ``write`` and
            ``flush``
        :param size: in bytes; it may have more
        """
        self._handle = handle
        super().__init__(name=getattr(handle, 'name', None) or
                         type(handle).__name__, size=size, writable=writable)

    def _read_at(self, offset: int, length: int) -> volume_file.Buffer:
        self._handle.seek(offset)
        data = self._handle.read(length)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise volume_file.VolumeIOError(
                errno.EIO, 'read', self.name, offset, length,
                _('%s came') % type(data).__name__)
        return data

    def _write_at(self, offset: int, data: memoryview) -> int:
        self._handle.seek(offset)
        count = self._handle.write(bytes(data))
        # Not all say how much they took, which then is all of it.
        return len(data) if count is None else count

    def _flush(self) -> None:
        self._handle.flush()
        try:
            descriptor = self._handle.fileno()
        except (AttributeError, OSError):
            return
        os.fsync(descriptor)
