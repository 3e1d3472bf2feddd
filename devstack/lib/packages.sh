#!/bin/bash
#
# What the capabilities need beside devstack's own packages, and files/ here.
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

_XTRACE_BLOCKPATH_PACKAGES=$(set +o | grep xtrace)
set +o xtrace

# install_blockpath_packages() - What is not to be had on all distributions
function install_blockpath_packages {
    # Debian's and Ubuntu's qemu-block-extra is in files/debs. EL 9 and later
    # have no such block driver.
    if is_fedora && _blockpath_uses_qemu; then
        # It succeeds whatever dnf does.
        install_package qemu-block-iscsi || true
        is_package_installed qemu-block-iscsi || die $LINENO \
            "$DISTRO has no package qemu-block-iscsi; set" \
            "BLOCKPATH_ISCSI_INITIATOR=host and" \
            "BLOCKPATH_COPY_ISCSI_INITIATOR=host"
    fi
}

function _blockpath_uses_qemu {
    [[ $BLOCKPATH_ISCSI_INITIATOR == qemu || \
        $BLOCKPATH_COPY_ISCSI_INITIATOR == qemu ]]
}

# start_blockpath_initiators() - The daemons behind the host's initiator
function start_blockpath_initiators {
    local conf=${BLOCKPATH_MULTIPATH_CONF:-/etc/multipath.conf}
    if ! is_service_enabled n-cpu c-vol; then
        return
    fi
    start_service iscsid
    if [[ $BLOCKPATH_MULTIPATH == True ]]; then
        # Without its configuration multipathd does not start there.
        if is_fedora && [[ ! -e $conf ]]; then
            sudo mpathconf --enable --user_friendly_names n --outfile "$conf"
            echo "$conf" >"$BLOCKPATH_STATE/multipath"
        fi
        start_service multipathd
    fi
}

# remove_blockpath_multipath_conf() - If it was made here
function remove_blockpath_multipath_conf {
    local notes=$BLOCKPATH_STATE/multipath
    if [[ -e $notes ]]; then
        sudo rm -f "$(<"$notes")"
        rm "$notes"
    fi
}

$_XTRACE_BLOCKPATH_PACKAGES
