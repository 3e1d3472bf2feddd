#!/bin/bash
#
# The blockpath command, in a small venv of the plugin's own: the series needs
# few libraries, and none of what OpenStack runs with.
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

_XTRACE_BLOCKPATH_TOOL=$(set +o | grep xtrace)
set +o xtrace

# install_blockpath_tool() - Make the venv, again when its requirements change
function install_blockpath_tool {
    local venv=$BLOCKPATH_STATE/venv
    local requirements=$BLOCKPATH_DIR/requirements.txt
    local wanted python
    wanted=$(cat "$requirements" "$BLOCKPATH_DIR/constraints.txt" | sha256sum)
    if [[ -x $venv/bin/python && -r $venv/requirements.sha256 && \
            $(<"$venv/requirements.sha256") == "$wanted" ]]; then
        return
    fi
    # It has said why.
    python=$(_blockpath_python) || exit 1
    rm -rf "$venv"
    "$python" -m venv "$venv" || die $LINENO \
        "cannot make $venv; install python3-venv"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install \
        -c "$BLOCKPATH_DIR/constraints.txt" -r "$requirements" || die $LINENO \
        "pip cannot install what $requirements names into $venv"
    echo "$wanted" >"$venv/requirements.sha256"
}

# _blockpath_python() - A Python that is new enough, as a path
function _blockpath_python {
    local python
    python=$(command -v "python${PYTHON3_VERSION:-3}" || command -v python3)
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        die $LINENO "$python is older than 3.11; set PYTHON3_VERSION"
    fi
    echo "$python"
}

# blockpath_series() - "blockpath series ARGUMENTS", as ${BLOCKPATH_AS[@]}; what
# is wrong is in BLOCKPATH_ERROR, in one line
function blockpath_series {
    local status said=$BLOCKPATH_STATE/last.log
    local -a who=()
    # The stack user need not have told git its name.
    if ! git var GIT_COMMITTER_IDENT >/dev/null 2>&1; then
        who=(env GIT_COMMITTER_NAME=blockpath
            GIT_COMMITTER_EMAIL=blockpath@localhost)
    fi
    (
        cd "$BLOCKPATH_DIR" && exec "${BLOCKPATH_AS[@]}" "${who[@]}" \
            "$BLOCKPATH_STATE/venv/bin/python" -B -m blockpath series "$@"
    ) 2>&1 | tee "$said"
    status=${PIPESTATUS[0]}
    BLOCKPATH_ERROR=$(tail -n 1 "$said")
    BLOCKPATH_ERROR=${BLOCKPATH_ERROR#Error: }
    return "$status"
}

# remove_blockpath_state() - The venv, and the notes of what there is to undo
function remove_blockpath_state {
    # What could not be undone is still noted there; but clean.sh goes on to
    # remove $DATA_DIR, where that is unless it was put elsewhere.
    if [[ -s $BLOCKPATH_STATE/applied ]]; then
        rm -rf "$BLOCKPATH_STATE/venv"
        warn $LINENO "the series stays in \
$(cut -d ' ' -f 3- "$BLOCKPATH_STATE/applied" | paste -s -d ' '); remove or \
reset what you do not want to keep"
        return
    fi
    rm -rf "$BLOCKPATH_STATE"
}

$_XTRACE_BLOCKPATH_TOOL
