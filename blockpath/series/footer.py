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
"""What a commit's message ends with when it goes to review.

Gerrit tells a change by its Change-Id, so that is made of the tree and the
patch's name and not of chance. Zuul takes what to build a change with from
``Depends-On: <the other change's URL>``, which exists only once that one was
pushed; until then a line that Zuul does not read says what is missing.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import hashlib
import re

from blockpath import errors
from blockpath.series import git
from blockpath.series import git_target
from blockpath.series import model
from blockpath.series import plan

#: A change as review.opendev.org shows it: with or without its project.
_URL = re.compile(r'https?://[^/\s]+/(?:c/[^\s+]+/\+/|#/c/)?\d+/?')

#: ``<tree>/<patch>`` -> the URL of its change.
Urls = Mapping[str, str]


class FooterError(errors.BlockpathError):
    """What was given for the footer is no such thing."""


def change_id(patch: model.Patch) -> str:
    """Gerrit's id of a change: the same at each export."""
    if patch.change_id:
        return patch.change_id
    digest = hashlib.sha1(f'blockpath {patch.tree} {patch.name}'.encode())
    return f'I{digest.hexdigest()}'


def signer(repository: git.Git) -> str:
    """Name and address for Signed-off-by, from git's configuration.

    :raises TargetError: git knows no committer
    """
    git_target.refuse_anonymous(repository)
    who = repository.run('var', 'GIT_COMMITTER_IDENT', isolated=False)
    return who.decode().rpartition('>')[0] + '>'


def parse_urls(series: model.Series, given: Iterable[str]) -> Urls:
    """Read ``<tree>/<patch>=<URL>`` as given on a command line.

    :raises FooterError: no such patch, or no URL of a change
    """
    known = {f'{patch.tree}/{patch.name}' for tree in series.trees()
             for patch in series.patches[tree]}
    urls = {}
    for each in given:
        name, _, url = each.partition('=')
        if name not in known:
            raise FooterError(f'{name} is no patch of the series; give '
                              f'TREE/PATCH=URL as in patches/series.toml')
        if not _URL.fullmatch(url):
            raise FooterError(f'{url or each} is no URL of a change, such as '
                              f'https://review.opendev.org/c/openstack/'
                              f'os-brick/+/123456')
        urls[name] = url
    return urls


def signed(series: model.Series, repository: git.Git, step: plan.Step,
           who: str, urls: Urls) -> plan.Step:
    """The step with the trailers that Gerrit and Zuul read.

    :param who: ``Name <address>`` of the one who sends it
    """
    patch = step.patch
    trailers = [_dependency(series, other, urls) for other in patch.depends]
    trailers += [f'Change-Id: {change_id(patch)}', f'Signed-off-by: {who}']
    message = repository.run(
        'interpret-trailers', '--if-exists=addIfDifferent',
        *(part for each in trailers for part in ('--trailer', each)),
        data=step.mail.message.encode()).decode()
    return dataclasses.replace(
        step, mail=dataclasses.replace(step.mail, message=message))


def _dependency(series: model.Series, name: str, urls: Urls) -> str:
    if name in urls:
        return f'Depends-On: {urls[name]}'
    # Gerrit links a Change-Id wherever it stands, so this still leads there.
    tree, _, short = name.partition('/')
    other = next((patch for patch in series.patches.get(tree, ())
                  if patch.name == short), model.Patch(tree, short))
    return f'Needs: {tree} {change_id(other)}'


def missing(patches: Iterable[model.Patch], urls: Urls) -> list[str]:
    """A line for each dependency that has no URL yet."""
    return [f'{patch.tree}/{patch.name} needs {other}, and Zuul is not told '
            f'so: push that one first, then give --depends-on {other}=URL'
            for patch in patches for other in patch.depends
            if other not in urls]
