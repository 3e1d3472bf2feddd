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
"""How tempest finds the tests, by its entry point ``tempest.test_plugins``."""

import pathlib

from oslo_config import cfg
from tempest import config
from tempest.test_discover import plugins

from blockpath.tempest import config as ours

_HERE = pathlib.Path(__file__).parent


class BlockpathTempestPlugin(plugins.TempestPlugin):

    def load_tests(self) -> tuple[str, str]:
        """:returns: the tests' folder, and the one that their names count
            from
        """
        return str(_HERE / 'tests'), str(_HERE.parent.parent)

    def register_opts(self, conf: cfg.ConfigOpts) -> None:
        config.register_opt_group(conf, ours.GROUP, ours.OPTS)

    def get_opt_lists(self) -> list[tuple[str, list[cfg.Opt]]]:
        return [(ours.GROUP.name, ours.OPTS)]
