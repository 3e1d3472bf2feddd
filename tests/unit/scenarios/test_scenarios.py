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
"""The checks that scenarios and benches list before they run."""

import ast
import itertools
import pathlib
import re
import types

import testtools

from blockpath.bench import attach
from blockpath.bench import migrate
from blockpath.bench import targets
from blockpath.observe import leak_watch
from blockpath import scenarios
from blockpath.scenarios import copying
from blockpath.scenarios import demo
from blockpath.scenarios import lifecycle
from blockpath.scenarios import smoke
from blockpath.scenarios import volumes

#: Of each run: its list, and the modules that make its checks.
RUNS = {
    'attach': (attach.expected(rounds=3, cycles=100), [attach]),
    'migrate': (migrate.expected(rounds=6, volumes=24), [migrate]),
    'targets': (targets.expected(volumes=200), [targets]),
    'smoke': (smoke.expected(), [smoke]),
    'lifecycle': (lifecycle.expected(), [lifecycle]),
    'volumes': (volumes.expected(), [volumes, leak_watch]),
    'copying': (copying.expected(), [copying, volumes, leak_watch]),
    'demo': (demo.expected(), [demo, copying, volumes, leak_watch]),
}


def patterns(module: types.ModuleType) -> list[str]:
    """A regular expression for the name in each call of ``check``."""
    tree = ast.parse(pathlib.Path(module.__file__ or '').read_text())
    return [pattern(call.args[0]) for call in ast.walk(tree)
            if isinstance(call, ast.Call) and call.args and
            isinstance(call.func, ast.Attribute) and
            call.func.attr == 'check' and
            ast.unparse(call.func.value).endswith('report')]


def pattern(name: ast.expr) -> str:
    match name:
        case ast.Constant():
            return re.escape(str(name.value))
        case ast.JoinedStr():
            return ''.join(pattern(part) for part in name.values)
    return '.+'


class ExpectedTest(testtools.TestCase):

    def test_every_scenario_has_a_list(self):
        for name in scenarios.names():
            self.assertTrue(RUNS[name][0], name)
            self.assertEqual(RUNS[name][0],
                             scenarios.load(name).expected())

    def test_no_name_twice(self):
        for name, (expected, _) in RUNS.items():
            self.assertEqual(len(set(expected)), len(expected), name)

    def test_every_name_is_made_by_a_call(self):
        for name, (expected, modules) in RUNS.items():
            found = list(itertools.chain.from_iterable(
                map(patterns, modules)))
            for check in expected:
                self.assertTrue(any(re.fullmatch(one, check)
                                    for one in found), f'{name}: {check}')

    def test_every_call_is_listed(self):
        # The scenario 'copying' makes some of the checks of 'volumes' only.
        for name in set(RUNS) - {'copying'}:
            expected, modules = RUNS[name]
            for one in itertools.chain.from_iterable(map(patterns, modules)):
                self.assertTrue(any(re.fullmatch(one, check)
                                    for check in expected),
                                f'{name}: {one}')

    def test_options(self):
        self.assertIn('migrated to rbd: the volume arrives',
                      volumes.expected())
        only_ceph = volumes.expected(only_ceph=True)
        self.assertFalse([name for name in only_ceph if 'files' in name or
                          name.startswith('migrated')])
        self.assertIn('retyped to rbd: the volume arrives', only_ceph)
        self.assertFalse([name for name in attach.expected(3, cycles=0)
                          if 'times 4 volumes' in name])

    def test_the_guest_is_where_the_plan_has_brought_it(self):
        names = demo.guest_checks()
        for title, host in ((demo.BEFORE, 'cmp1'), ('A to B', 'cmp2'),
                            ('wrong CHAP password at cmp2', 'cmp1'),
                            ('hung portal at cmp1', 'cmp2')):
            self.assertIn(f'{title}: the guest runs on {host}', names)
