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
"""Sphinx's configuration; ./run docs builds."""

project = 'blockpath'
copyright = 'the authors of blockpath'

extensions = [
    'blockpath.docs.sphinxext',
    'openstackdocstheme',
    'oslo_config.sphinxext',
    'sphinx.ext.graphviz',
    'sphinx_click',
]

nitpicky = True
exclude_patterns: list[str] = []
# A literal in a sentence is text, not a reference to be guessed.
default_role = None
pygments_style = 'native'

graphviz_output_format = 'svg'
# One look for all diagrams: a .dot file says only what there is.
graphviz_dot_args = [
    '-Nfontname=Helvetica', '-Nfontsize=11', '-Nshape=box',
    '-Nstyle=rounded,filled', '-Nfillcolor=white', '-Ncolor=#4a5568',
    '-Nheight=0.35', '-Efontname=Helvetica', '-Efontsize=10',
    '-Ecolor=#4a5568', '-Earrowsize=0.7', '-Gfontname=Helvetica',
    '-Gfontsize=11', '-Gbgcolor=transparent',
    # Inches: the width of a page's text.
    '-Gsize=8.8,12',
]

templates_path = ['_templates']
html_theme = 'openstackdocs'
html_theme_options = {
    # No call to anybody when the pages are read.
    'analytics_tracking_code': '',
    'display_badge': False,
    'root_title': 'blockpath',
    'sidebar_mode': 'toctree',
    'sidebar_search': True,
}
# Which version of the project this is, the page's foot tells by git.
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_repo_name = ''
openstackdocs_pdf_link = False
