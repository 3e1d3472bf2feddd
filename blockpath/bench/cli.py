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
"""``blockpath bench``."""

import functools

import click

from blockpath.bench import copy_tools
from blockpath.cloud import session
from blockpath import paths

FOLDER = paths.BUILD / 'bench'


@click.group('bench', short_help='Measurements and their plots.')
def group() -> None:
    """Measure, in the lab, what the README and the docs claim.

    Each measurement writes build/bench/NAME.json and a page beside it. The
    tools that are compared take turns in one run: machines differ, and one
    machine differs from minute to minute, so compare the ratios.
    """


@group.command()
@click.option('--rounds', default=6, show_default=True,
              type=click.IntRange(1),
              help='Migrations each way, to the same and to another target.')
@click.option('--volumes', default=24, show_default=True,
              type=click.IntRange(2), help='Volumes of the large server.')
@click.option('--keep', is_flag=True,
              help='Leave a lab up that was started for this.')
def migrate(rounds: int, volumes: int, keep: bool) -> None:
    """Live migration to the same and to another target, and with volumes.

    How long the writes of a guest stand still when both hosts reach its
    volumes by one target, and by one each; how long libvirt takes to attach
    a volume, and how long a server with many takes to migrate. First with
    the hosts' initiators, then with QEMU's.
    """
    from blockpath.bench import migrate as bench
    session.perform(functools.partial(bench.run, rounds=rounds,
                                      volumes=volumes),
                    FOLDER / 'migrate', bench.expected(rounds, volumes), keep)


@group.command()
@click.option('--size', default=1024, show_default=True,
              type=click.IntRange(64), help='MiB of each volume.')
@click.option('--rounds', default=5, show_default=True,
              type=click.IntRange(1), help='Copies by each tool in each case.')
@click.option('--only', multiple=True, metavar='PATTERN',
              help='Cases to run, as DIRECTION/FILL/DELAY; may be repeated. '
                   'Directions: rbd-file, file-rbd, iscsi-rbd, rbd-iscsi, '
                   'rbd-rbd; fills: random, tenth, zeros; delays: 0, 2. Such '
                   "as 'rbd-file', '*/tenth', '*/random/2'.")
@click.option('--tool', 'tools', multiple=True,
              type=click.Choice(copy_tools.TOOLS), default=copy_tools.TOOLS,
              help='Only this one; may be repeated.')
def copy(size: int, rounds: int, only: tuple[str, ...],
         tools: tuple[str, ...]) -> None:
    """Copies of volumes, by the series, by Cinder, by other tools.

    Between RBD images, iSCSI LUNs and files, with a Ceph and a target of its
    own in memory. A trial, before the rounds that are timed, compares the
    copies with their sources. All cases take half an hour; "--size 256
    --rounds 1" a few minutes.
    """
    from blockpath.bench import copy as bench
    bench.perform(FOLDER / 'copy', size << 20, rounds, only,
                  tuple(dict.fromkeys(tools)))


@group.command()
@click.option('--rounds', default=3, show_default=True,
              type=click.IntRange(1), help='Attachments in each case.')
@click.option('--cycles', default=100, show_default=True,
              type=click.IntRange(0),
              help='Times that four volumes are attached and detached while '
                   'a portal flaps.')
def attach(rounds: int, cycles: int) -> None:
    """Volumes over two iSCSI portals, by the series and by os-brick.

    With a real kernel's initiator, multipathd and LIO, on two hosts of
    user-mode Linux: the time of an attach while a portal is dead, the calls
    of iscsiadm, and the leftovers of many attaches.
    """
    from blockpath.bench import attach as bench
    session.conduct(functools.partial(bench.run, rounds=rounds,
                                      cycles=cycles),
                    FOLDER / 'attach', bench.expected(rounds, cycles))


@group.command()
@click.option('--volumes', default=200, show_default=True,
              type=click.IntRange(20), help='Volumes attached to two hosts.')
def targets(volumes: int) -> None:
    """Volumes attached by a target for each host.

    By Cinder's own manager and a tgtd beside those that are running: how long
    it takes when there are many already. Half a minute.
    """
    from blockpath.bench import targets as bench
    session.conduct(functools.partial(bench.run, volumes=volumes),
                    FOLDER / 'targets', bench.expected(volumes))
