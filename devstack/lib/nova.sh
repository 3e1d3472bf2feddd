#!/bin/bash
#
# The series' options of nova-compute, and those of os-brick within it.
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

_XTRACE_BLOCKPATH_NOVA=$(set +o | grep xtrace)
set +o xtrace

# configure_blockpath_nova() - In nova.conf and nova-cpu.conf
function configure_blockpath_nova {
    local conf
    if ! is_service_enabled n-cpu; then
        return
    fi
    # nova-compute reads the second, which is made of the first.
    for conf in "$NOVA_CONF" "${NOVA_CPU_CONF:-$NOVA_CONF}"; do
        if [[ ! -e $conf ]]; then
            continue
        fi
        blockpath_iniset "$conf" libvirt iscsi_initiator \
            "$BLOCKPATH_ISCSI_INITIATOR"
        blockpath_iniset "$conf" libvirt iscsi_probe_timeout \
            "$BLOCKPATH_ISCSI_PROBE_TIMEOUT"
        blockpath_iniset "$conf" libvirt iscsi_check_identity \
            "$BLOCKPATH_ISCSI_CHECK_IDENTITY"
        if [[ $BLOCKPATH_MULTIPATH == True ]]; then
            blockpath_iniset "$conf" libvirt volume_use_multipath True
        fi
        configure_blockpath_os_brick "$conf"
    done
}

# configure_blockpath_os_brick CONF - In a service that uses it
function configure_blockpath_os_brick {
    blockpath_iniset "$1" os_brick iscsi_ifaces "$BLOCKPATH_ISCSI_IFACES"
    blockpath_iniset "$1" os_brick iscsi_iface_fallback \
        "$BLOCKPATH_ISCSI_IFACE_FALLBACK"
}

$_XTRACE_BLOCKPATH_NOVA
