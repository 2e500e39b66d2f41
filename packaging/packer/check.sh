#!/bin/bash
# Run as root, last: fails the bake where an instance made from the image would not boot its release as a new one.
set -uo pipefail

failed=0
holds() {
    if "${@:2}" >/dev/null 2>&1; then echo "✓ $1"; else echo "✗ $1" && failed=1; fi
}
without() { ! "$@"; }
empty() { [[ -z $(find "$@" -mindepth 1 -print -quit) ]]; }
none() { [[ -z $(compgen -G "$1") ]]; }
in_group() { [[ " $(id -nG adf-agent) " == *" $1 "* ]]; }
has_buildkit() { docker buildx version || [[ $(docker --version) =~ version\ (1[89]|2[012])\. ]]; }

holds "the agent runs" adf-agent --version
holds "its unit is enabled" systemctl is-enabled adf-agent
holds "it was not started" without systemctl is-active adf-agent
holds "it may use Docker" in_group docker
holds "it has no state" empty /var/lib/adf-agent
holds "it can read Docker's logins" setpriv --reuid=adf-agent --regid=adf-agent --clear-groups cat /etc/adf-agent/docker/config.json
holds "logins to ECR can be had" docker-credential-ecr-login version
holds "Docker is enabled" systemctl is-enabled docker
holds "Docker's configuration is JSON" python3 -m json.tool /etc/docker/daemon.json
holds "Docker builds with BuildKit" has_buildkit
holds "Docker has no id" without test -e /etc/docker/key.json -o -e /var/lib/docker/engine-id
holds "the machine has no id" test -e /etc/machine-id -a ! -s /etc/machine-id
holds "the host has no keys" none '/etc/ssh/ssh_host_*'
holds "nobody has a key" none '/home/*/.ssh/authorized_keys'
holds "cloud-init has not run" without test -e /var/lib/cloud/instance
exit "$failed"
