#!/bin/bash
# Run as root on a stock image of Ubuntu 24.04, Debian 12 or Amazon Linux 2023: Docker with BuildKit, the credential helper
# for ECR and the agent from /tmp/adf-agent.deb or .rpm, and the images in BASE_IMAGES. What is there is not fetched again.
set -euo pipefail

. /etc/os-release
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null; }

# On its first boot a stock image is still being set up by cloud-init, which ends with 2 where it only has warnings.
[[ ! -e /run/cloud-init ]] || cloud-init status --wait || [[ $? -eq 2 ]]

# A first boot is when apt's own timers fire. They are back at the next one.
if [[ $ID != amzn && -d /run/systemd/system ]]; then
    systemctl stop apt-daily{,-upgrade}.{timer,service}
fi

# No option has `update` wait for somebody else who is at the lists; and only Error-Mode tells a mirror that is out.
update() {
    local pause
    for pause in 1 2 4 8 16 32 64; do
        if apt -o APT::Update::Error-Mode=any update; then return 0; fi
        sleep "$pause"
    done
    return 1
}

# Before Docker starts for the first time. An upgrade of Docker then leaves containers alone, and no log fills the disk.
# Containers can't reach one another, as there is one app. Not no-new-privileges: an app may have its reasons for sudo.
install -d /etc/docker
cat >/etc/docker/daemon.json <<'JSON'
{
  "icc": false,
  "live-restore": true,
  "log-driver": "local",
  "log-opts": { "max-size": "20m", "max-file": "5" }
}
JSON

packages=(docker.io amazon-ecr-credential-helper)
case $ID in
    ubuntu) packages+=(docker-buildx) ;;
    debian) ;; # docker.io is 20.10 in Debian 12, whose client has BuildKit inside
    amzn) packages=(docker amazon-ecr-credential-helper) ;; # docker has buildx inside
    *) echo "install.sh: $PRETTY_NAME is not known here" >&2 && exit 1 ;;
esac

if [[ $ID == amzn ]]; then
    dnf --assumeyes --quiet install "${packages[@]}" /tmp/adf-agent.rpm
    systemctl enable docker
else
    missing=()
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then
        update
        apt install --no-install-recommends "${missing[@]}"
    fi
    apt install --no-install-recommends /tmp/adf-agent.deb
fi

# For every account and region of ECR; to other registries the helper has no login, and none is used.
echo '{ "credsStore": "ecr-login" }' >/etc/adf-agent/docker/config.json

for image in ${BASE_IMAGES:-}; do
    systemctl start docker
    DOCKER_CONFIG=/etc/adf-agent/docker docker pull --quiet "$image"
done
