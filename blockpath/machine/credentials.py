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
"""The passwords of one lab: random, and readable by root only."""

import dataclasses
import json
import os
import pathlib
import secrets


def write_private(path: pathlib.Path, text: str) -> None:
    """Write a file that nobody else can read, at no moment."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, 'w') as file:
        file.write(text)


def _random() -> str:
    return secrets.token_hex(16)


@dataclasses.dataclass(frozen=True)
class Passwords:
    """One random password a purpose."""

    database: str = dataclasses.field(default_factory=_random)
    messages: str = dataclasses.field(default_factory=_random)
    admin: str = dataclasses.field(default_factory=_random)
    service: str = dataclasses.field(default_factory=_random)
    #: The key of all encrypted volumes, 256 bits in hexadecimal digits.
    volumes: str = dataclasses.field(
        default_factory=lambda: secrets.token_hex(32))

    @classmethod
    def load(cls, path: pathlib.Path) -> 'Passwords':
        return cls(**json.loads(path.read_text()))

    def save(self, path: pathlib.Path) -> None:
        write_private(path, json.dumps(dataclasses.asdict(self)))
