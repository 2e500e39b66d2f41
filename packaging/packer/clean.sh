#!/bin/bash
# Run as root at the end of a bake: leaves nothing that instances made from the image must not share.
set -euo pipefail

rm -f /tmp/adf-agent.deb /tmp/adf-agent.rpm

# By its id a registry and whoever collects logs tell one engine from another; it is written at a start.
[[ ! -d /run/systemd/system ]] || systemctl stop docker.socket docker
rm -f /etc/docker/key.json /var/lib/docker/engine-id

# The agent throws away state of another instance's id by itself; that of a bake has no reason to be there at all.
rm -rf /var/lib/adf-agent/* /run/adf-agent/*

# Empty, not missing and not "uninitialized": systemd would take the next boot for the first one and reset, by its
# presets, which units are enabled.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed

# So that the next boot is a new instance's for cloud-init: keys of the host, users, user-data.
if command -v cloud-init >/dev/null; then cloud-init clean --logs; fi
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f ~root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
rm -rf ~root/.bash_history /home/*/.bash_history ~root/.ecr ~root/.docker

if command -v apt-get >/dev/null; then
    apt-get clean
    rm -rf /var/lib/apt/lists/*
else
    dnf --quiet clean all
fi
rm -rf /var/log/journal/*
find /var/log -type f -exec truncate --size 0 {} +
