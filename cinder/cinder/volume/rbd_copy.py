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
"""Copies of RBD images by librbd."""

import typing as ty

from oslo_utils import excutils


def copy_new(driver: ty.Any, proxy: ty.Any, source: ty.Any, target: ty.Any,
             name: str) -> None:
    """Copy an image to one that is not there yet.

    librbd creates that itself. It can fail before it does, because of an
    image of that name, for example, which then is not ours to remove.

    :param driver: the RBD driver
    :param proxy: what opens an image, its RBDVolumeProxy
    :param source: the image, open
    :param target: a connection to the pool of the copy
    """
    existed = _exists(driver, proxy, target, name)
    try:
        source.copy(target.ioctx, name)
    except driver.rbd.ImageExists:
        raise
    except Exception:
        with excutils.save_and_reraise_exception():
            if not existed and _exists(driver, proxy, target, name):
                driver.RBDProxy().remove(target.ioctx, name)


def _exists(driver: ty.Any, proxy: ty.Any, target: ty.Any, name: str) -> bool:
    try:
        with proxy(driver, name, read_only=True, client=target.client,
                   ioctx=target.ioctx):
            return True
    except driver.rbd.ImageNotFound:
        return False
