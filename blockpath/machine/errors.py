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
"""What goes wrong in a lab."""

from blockpath import errors


class LabError(errors.BlockpathError):
    """Something of the lab is missing, refused or did not work."""


class ServiceDied(LabError):
    """A process of the lab ended unexpectedly.

    :param name: the service.
    :param log: path of its log.
    :param lines: the last lines of that log.
    """

    def __init__(self, name: str, log: object, lines: list[str]) -> None:
        shown = '\n'.join('    ' + line for line in lines)
        super().__init__(
            f'{name} ended unexpectedly; its log is {log}, which ends with:\n'
            f'{shown}' if lines else
            f'{name} ended unexpectedly and logged nothing to {log}')
        self.name = name


class TimedOut(LabError):
    """A condition did not come true in time."""
