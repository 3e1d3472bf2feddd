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
"""What can be run on a lab: ``blockpath lab run SCENARIO``.

A scenario is a module of this package. It has

- a docstring, whose first line the command's help shows;
- ``expected(**options)``, which returns the names of the checks that a run
  with these options must make, each of them once: a run that makes fewer, or
  others, has failed;
- ``run(lab, report, **options)``, which is called in the control host's
  network namespace, with a :class:`blockpath.cloud.cloud.Lab` and a
  :class:`blockpath.console.report.Report`. It makes what it needs and removes
  it again; what it finds goes into the report;
- optionally ``OPTIONS``, click's options of its own.
"""

import ast
import importlib
import pathlib
import pkgutil
import types

#: ./run tests leaves this out: it is as long as its user wants.
LEFT_OUT = ('endurance',)
_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Every scenario's name."""
    return sorted(module.name for module in pkgutil.iter_modules(
        [str(_FOLDER)]) if not module.name.startswith('_'))


def whole() -> list[str]:
    """Name the scenarios that together play everything once."""
    return sorted(set(names()).difference(LEFT_OUT))


def summary(name: str) -> str:
    """A scenario's first line, without importing what it imports."""
    text = (_FOLDER / f'{name}.py').read_text()
    return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]


def load(name: str) -> types.ModuleType:
    return importlib.import_module(f'{__name__}.{name}')
