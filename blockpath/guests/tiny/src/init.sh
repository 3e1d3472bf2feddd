#!/bin/busybox sh
# shellcheck shell=dash
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
#
# The guest's /init: loads the drivers, then hands over to the keeper.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo 'blockpath guest: up'
while read -r module; do
    busybox insmod "/modules/$module" || echo "no $module"
done </modules/order
busybox ip link set lo up
busybox ip link set eth0 up 2>/dev/null

# blockpath.NAME=VALUE on the kernel's command line
interval_us=5000
others_us=100000
# shellcheck disable=SC2013
for word in $(busybox cat /proc/cmdline); do
    case $word in
    blockpath.interval_us=*) interval_us=${word#*=} ;;
    blockpath.others_us=*) others_us=${word#*=} ;;
    # Users' disks are theirs: nothing is written to them.
    blockpath.logins=*)
        serve &
        exec keeper
        ;;
    esac
done
exec keeper "$interval_us" "$others_us"
