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
# Lets users log in: takes the address that DHCP gives, and the key that the
# metadata service has for this server, and listens for ssh.
export PATH=/bin:/sbin
# udhcpc calls this script by itself when it has a lease.
case ${1-} in
bound | renew)
    # shellcheck disable=SC2154
    ifconfig "$interface" "$ip" netmask "$subnet"
    # shellcheck disable=SC2154
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    exit
    ;;
deconfig | leasefail | nak) exit ;;
esac

METADATA=http://169.254.169.254/latest/meta-data
busybox --install -s /bin
mkdir -p /dev/pts /root/.ssh
mount -t devpts devpts /dev/pts
chmod 700 /root/.ssh
while read -r module; do
    insmod "/modules/$module" || echo "no $module"
done </modules/for-users

# What is in /tmp is on the disk; all else is in memory, gone at a reboot.
for disk in /dev/vda1 /dev/sda1; do
    [ ! -b "$disk" ] || mount -t vfat -o sync "$disk" /tmp
done
for folder in /sys/class/net/eth*; do
    ip link set "${folder##*/}" up
    # It stays, in the background, and renews.
    udhcpc -i "${folder##*/}" -s /bin/serve -b -t 10 -T 1 -S \
        -p "/var/run/udhcpc.${folder##*/}.pid"
done
hostname "$(wget -q -O - "$METADATA/local-hostname" || echo guest)"
tries=0
until wget -q -O /root/.ssh/authorized_keys \
        "$METADATA/public-keys/0/openssh-key"; do
    tries=$((tries + 1))
    # A server that was made with no key has none to wait for.
    [ "$tries" -lt 20 ] || break
    sleep 1
done
dropbear -R -s -E && echo 'blockpath guest: takes logins'
