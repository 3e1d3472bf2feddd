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
"""``python -m blockpath.docs.listing MODULE``: pickle a tree's options.

A process of its own for each tree: the trees' modules register options of the
same names, and a release's modules have the names of the patched ones.
"""

import importlib
import io
import pickle
import sys
from typing import Any

from oslo_config import cfg

#: What an option may refer to, so that no module of the tree is needed again.
_PORTABLE = ('builtins', 'collections', 'copyreg', 'oslo_config', 're')


class _Portable(pickle.Unpickler):

    def find_class(self, module: str, name: str) -> Any:
        if module.partition('.')[0] not in _PORTABLE:
            raise pickle.UnpicklingError(module)
        return super().find_class(module, name)


def portable(option: cfg.Opt) -> cfg.Opt:
    """The option, or its name alone where its type is a tree's own."""
    try:
        _Portable(io.BytesIO(pickle.dumps(option))).load()
    except Exception:
        return cfg.StrOpt(option.name, dest=option.dest)
    return option


def main(name: str) -> None:
    """Write the module's file and its (group, options) to stdout."""
    module = importlib.import_module(name)
    pickle.dump((module.__file__, [
        (getattr(group, 'name', group) or 'DEFAULT',
         [portable(option) for option in options])
        for group, options in module.list_opts()]), sys.stdout.buffer)


if __name__ == '__main__':
    main(sys.argv[1])
