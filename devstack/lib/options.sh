#!/bin/bash
#
# Options in the services' configuration, each with what was there before.
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

_XTRACE_BLOCKPATH_OPTIONS=$(set +o | grep xtrace)
set +o xtrace

# blockpath_iniset FILE SECTION OPTION VALUE - As iniset, to be undone; with
# no value nothing is set
function blockpath_iniset {
    local file=$1 section=$2 option=$3 value=$4
    local notes=$BLOCKPATH_STATE/options key before=absent
    if [[ -z $value ]]; then
        return
    fi
    key=$file$'\t'$section$'\t'$option$'\t'
    # What was there before a first run is what a second one has to restore.
    if ! grep -qsF -- "$key" "$notes"; then
        if ini_has_option "$file" "$section" "$option"; then
            before=was$'\t'$(iniget "$file" "$section" "$option")
        fi
        printf '%s%s\n' "$key" "$before" >>"$notes"
    fi
    iniset "$file" "$section" "$option" "$value"
}

# restore_blockpath_options() - As they were
function restore_blockpath_options {
    local file section option state before notes=$BLOCKPATH_STATE/options
    if [[ ! -e $notes ]]; then
        return
    fi
    while IFS=$'\t' read -r file section option state before; do
        if [[ ! -e $file ]]; then
            continue
        elif [[ $state == was ]]; then
            iniset "$file" "$section" "$option" "$before"
        else
            inidelete "$file" "$section" "$option"
        fi
    done <"$notes"
    rm "$notes"
}

# blockpath_backends TYPE... - The names of Cinder's backends of these types
function blockpath_backends {
    local backend type
    for backend in ${CINDER_ENABLED_BACKENDS//,/ }; do
        for type in "$@"; do
            if [[ ${backend%%:*} == "$type" ]]; then
                echo "${backend##*:}"
            fi
        done
    done
}

$_XTRACE_BLOCKPATH_OPTIONS
