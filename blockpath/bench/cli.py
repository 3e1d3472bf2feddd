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

from blockpath.lab import stage
from blockpath import paths

FOLDER = paths.BUILD / 'bench'


@click.group(short_help='Measurements and their plots.')
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
    a volume, and how long a server with many takes to migrate.
    """
    from blockpath.bench import migrate as bench
    stage.perform(functools.partial(bench.run, rounds=rounds,
                                    volumes=volumes),
                  FOLDER / 'migrate', keep)
