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
"""Release notes of a tree, by reno, from the files that are checked out.

reno's own loader goes through git's history, for the tags by which it sorts
notes. The notes here are all for one release, and a shallow clone or an
archive has no history.
"""

import pathlib
from typing import Any

from reno import config
from reno import formatter
from reno import loader
import yaml

from blockpath.series import model


class Checkout(loader.Loader):
    """The notes of one folder, as those of one version."""

    def __init__(self, conf: config.Config, version: str) -> None:
        self._version = version
        super().__init__(conf, ignore_cache=True)

    def _load_data(self) -> None:
        files = sorted(pathlib.Path(self._reporoot, self._notespath).glob(
            '*.yaml'))
        self._cache: dict[str, Any] = {'file-contents': {
            file.name: yaml.safe_load(file.read_text('utf-8'))
            for file in files}}
        self._scanner_output = {self._version: [(file.name, None)
                                                for file in files]}
        self._tags_to_dates: dict[str, float] = {}


def report(series: model.Series, tree: str) -> str:
    """The notes of a tree, in reStructuredText, below one heading."""
    pin = series.pin(tree, series.default)
    version = f'{tree} {pin.version}'
    conf = config.Config(str(series.root), f'{tree}/releasenotes')
    with Checkout(conf, version) as notes:
        return str(formatter.format_report(notes, conf, [version],
                                           show_source=False))
