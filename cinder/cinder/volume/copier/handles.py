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

"""Copies between paths and handles, as os-brick's connectors give them."""

import contextlib
import typing as ty

from cinder import exception
from cinder.i18n import _
from cinder import utils
from cinder.volume.copier import handle_file
from cinder.volume.copier import local_file
from cinder.volume.copier import native
from cinder.volume.copier import volume_file


def copy(source: ty.Any, destination: ty.Any, length: int) -> None:
    """Copy the first `length` bytes.

    :param source: a path, or an object with a file's methods, which stays
        open; so is `destination`, whose file is neither made nor truncated
    :raises: DeviceUnavailable, CopyError or an OSError
    """
    for end, role in ((source, 'source'), (destination, 'destination')):
        if not end:
            raise exception.DeviceUnavailable(path='', reason=_(
                'there is no %s to copy') % role)
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(_opened(end, length, write))
                 for end, write in ((source, False), (destination, True))]
        native.copy(*files, length)


def _opened(end: ty.Any, length: int, write: bool
            ) -> contextlib.AbstractContextManager[volume_file.VolumeFile]:
    if isinstance(end, volume_file.VolumeFile):
        # Its owner closes it.
        return contextlib.nullcontext(end)
    if not isinstance(end, str):
        return handle_file.HandleFile(end, length, write)
    with utils.temporary_chown(end):
        return local_file.LocalFile.open(end, write)
