#!/bin/bash
#
# The series' options of cinder-volume.
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

_XTRACE_BLOCKPATH_CINDER=$(set +o | grep xtrace)
set +o xtrace

# configure_blockpath_cinder() - In the sections of cinder.conf's backends
function configure_blockpath_cinder {
    local backend
    if ! is_service_enabled c-vol; then
        return
    fi
    configure_blockpath_os_brick "$CINDER_CONF"
    for backend in $(blockpath_backends lvm); do
        _configure_blockpath_target "$backend"
    done
    for backend in ${CINDER_ENABLED_BACKENDS//,/ }; do
        _configure_blockpath_copier "${backend##*:}"
    done
}

# _configure_blockpath_target BACKEND - What an LVM backend shows to hosts
function _configure_blockpath_target {
    blockpath_iniset "$CINDER_CONF" "$1" target_scope "$BLOCKPATH_TARGET_SCOPE"
    if [[ -n $BLOCKPATH_SECOND_ADDRESS ]]; then
        # The first is target_ip_address, which is HOST_IP by default.
        blockpath_iniset "$CINDER_CONF" "$1" target_secondary_ip_addresses \
            "${BLOCKPATH_SECOND_ADDRESS%/*}"
    fi
}

# _configure_blockpath_copier BACKEND - How the data of its volumes is copied
function _configure_blockpath_copier {
    blockpath_iniset "$CINDER_CONF" "$1" volume_copy_verify \
        "$BLOCKPATH_COPY_VERIFY"
    blockpath_iniset "$CINDER_CONF" "$1" volume_copy_resume \
        "$BLOCKPATH_COPY_RESUME"
    blockpath_iniset "$CINDER_CONF" "$1" volume_copy_in_flight \
        "$BLOCKPATH_COPY_IN_FLIGHT"
    blockpath_iniset "$CINDER_CONF" "$1" volume_copy_timeout \
        "$BLOCKPATH_COPY_TIMEOUT"
    blockpath_iniset "$CINDER_CONF" "$1" volume_copy_iscsi_initiator \
        "$BLOCKPATH_COPY_ISCSI_INITIATOR"
    if [[ $BLOCKPATH_MULTIPATH == True ]]; then
        blockpath_iniset "$CINDER_CONF" "$1" use_multipath_for_image_xfer True
    fi
}

$_XTRACE_BLOCKPATH_CINDER
