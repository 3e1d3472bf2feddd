#!/bin/bash
#
# This node's address in the second storage network.
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

_XTRACE_BLOCKPATH_ADDRESS=$(set +o | grep xtrace)
set +o xtrace

# add_blockpath_address() - Unless the node has it
function add_blockpath_address {
    local address=$BLOCKPATH_SECOND_ADDRESS device=$BLOCKPATH_SECOND_DEVICE
    if [[ -z $address || -n $(ip -o address show to "${address%/*}") ]]; then
        return
    fi
    sudo ip address add "$address" dev "$device" || die $LINENO \
        "cannot add $address to $device; is BLOCKPATH_SECOND_DEVICE right?"
    echo "$address $device" >>"$BLOCKPATH_STATE/addresses"
}

# remove_blockpath_address() - What was added, and nothing else
function remove_blockpath_address {
    local address device notes=$BLOCKPATH_STATE/addresses
    if [[ ! -e $notes ]]; then
        return
    fi
    while read -r address device; do
        # After a reboot it is gone already.
        if [[ -n $(ip -o address show dev "$device" to "${address%/*}") ]]; then
            sudo ip address del "$address" dev "$device"
        fi
    done <"$notes"
    rm "$notes"
}

$_XTRACE_BLOCKPATH_ADDRESS
