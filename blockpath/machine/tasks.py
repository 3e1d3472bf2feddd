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
"""Steps that wait for each other, run side by side."""

from collections.abc import Callable
from collections.abc import Iterable
import concurrent.futures
import dataclasses
import time
from typing import Protocol

from blockpath.machine import wait


@dataclasses.dataclass(frozen=True)
class Task:
    """A step.

    :ivar needs: names of the steps that must be done before.
    """

    name: str
    run: Callable[[], None]
    needs: tuple[str, ...] = ()


class Report(Protocol):
    """Shows which steps begin and end."""

    def started(self, name: str) -> None:
        ...

    def done(self, name: str, seconds: float) -> None:
        ...

    def failed(self, name: str, seconds: float) -> None:
        ...


def run_all(tasks: Iterable[Task], report: Report) -> None:
    """Run each task as soon as what it needs is done.

    When one fails, those that run are told to give up, no other is started,
    and its exception is raised after the last has ended.
    """
    waiting = {task.name: task for task in tasks}
    unknown = {need for task in waiting.values()
               for need in task.needs if need not in waiting}
    if unknown:
        raise ValueError(f'no such tasks: {", ".join(sorted(unknown))}')
    done: set[str] = set()
    running: dict[concurrent.futures.Future[float], tuple[str, float]] = {}
    wait.cancelled.clear()
    with concurrent.futures.ThreadPoolExecutor(len(waiting)) as executor:
        try:
            while waiting or running:
                for name in [name for name, task in waiting.items()
                             if done.issuperset(task.needs)]:
                    report.started(name)
                    task = waiting.pop(name)
                    running[executor.submit(_timed, task)] = (
                        name, time.monotonic())
                if not running:
                    raise ValueError('tasks wait for each other: '
                                     f'{", ".join(sorted(waiting))}')
                for future in concurrent.futures.wait(
                        running, return_when='FIRST_COMPLETED').done:
                    name, began = running.pop(future)
                    if future.exception():
                        report.failed(name, time.monotonic() - began)
                    report.done(name, future.result())
                    done.add(name)
        except BaseException:
            wait.cancelled.set()
            raise


def _timed(task: Task) -> float:
    started = time.monotonic()
    task.run()
    return time.monotonic() - started
