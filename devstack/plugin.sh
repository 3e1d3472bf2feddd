#!/bin/bash
#
# Called by stack.sh, unstack.sh and clean.sh: plugin.sh MODE [PHASE]. What is
# done is in lib/.
#
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

# devstack's variables are assigned elsewhere.
# shellcheck disable=SC2154

_XTRACE_BLOCKPATH=$(set +o | grep xtrace)
set +o xtrace

if [[ -z ${BLOCKPATH_DIR:-} ]]; then
    # clean.sh reads no plugin's settings in all releases of devstack.
    # shellcheck source=devstack/settings
    source "$(dirname "${BASH_SOURCE[0]}")/settings"
fi
for _blockpath_lib in "$BLOCKPATH_DIR"/devstack/lib/*.sh; do
    # shellcheck source=/dev/null
    source "$_blockpath_lib"
done

case "$1 ${2:-}" in
    'stack pre-install')
        echo_summary 'Applying the blockpath series'
        # What this run has applied, to be taken back where it fails.
        _blockpath_applied=()
        check_blockpath_settings
        install_blockpath_packages
        install_blockpath_tool
        clone_blockpath_trees
        apply_blockpath_series
        ;;
    'stack install')
        apply_blockpath_series
        apply_blockpath_series_to_installed_os_brick
        start_blockpath_initiators
        ;;
    'stack post-config')
        echo_summary 'Configuring blockpath'
        # With DEVSTACK_PARALLEL it writes the files that are written here.
        if declare -F async_wait >/dev/null; then
            async_wait configure_neutron_nova
        fi
        add_blockpath_address
        configure_blockpath_nova
        configure_blockpath_cinder
        ;;
    'stack test-config')
        configure_blockpath_tempest
        ;;
    'unstack ' | 'clean ')
        echo 'Undoing what blockpath changed'
        restore_blockpath_options
        remove_blockpath_address
        remove_blockpath_multipath_conf
        reverse_blockpath_series
        if [[ $1 == clean ]]; then
            remove_blockpath_state
        fi
        ;;
esac

unset _blockpath_lib
$_XTRACE_BLOCKPATH
