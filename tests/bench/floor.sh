#!/bin/bash
# What a boot costs with no agent: its steps as one shell pipeline, each after the other, with curl and docker alone.
# Nothing is verified, retried, recorded or cleaned up. The benchmark divides the agent's time by this one's.
#
# usage: floor.sh NAME HOST_PORT CONTAINER_PORT PATH    (NAME: of image and container; PATH: where the app answers)
# environment: AWS_EC2_METADATA_SERVICE_ENDPOINT, the metadata service, with RELEASE_URL=… in its user-data;
#   FLOOR_CONFIG, a command that prints KEY=VALUE lines (none: no config); DOCKER_BUILDKIT=1 for a client before 23.
#   FLOOR_FIRST, a command to start with. FLOOR_TAR=1: as the agent does, it downloads to a file, hashes that, and gives
#   the builder the archive itself (which must have no folder on top)
# prints a line a step, its name and seconds, and at the end `total`; ends with 1 where nothing answers within 300 s
set -euo pipefail

app=$1 published=$2 inside=$3 page=$4
folder=$(mktemp -d -t adf-floor.XXXXXX)
trap 'rm -rf "$folder"' EXIT

began=$EPOCHREALTIME last=$EPOCHREALTIME report=''
lap() { # the seconds since the lap before, kept for the end: printing costs the first steps nothing
    local now=$EPOCHREALTIME
    report+="$1 $last $now"$'\n' last=$now
}

if [[ ${FLOOR_FIRST:-} ]]; then bash -c "$FLOOR_FIRST"; fi
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT%/}/latest
token=$(curl -sSf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token")
curl -sSf -H "X-aws-ec2-metadata-token: $token" "$metadata/user-data" >"$folder/user-data"
release=$(sed -nE 's/^(export )?RELEASE_URL=([^#]*).*/\2/p' "$folder/user-data" | tail -n 1)
lap settings

: >"$folder/environment"
if [[ ${FLOOR_CONFIG:-} ]]; then bash -c "$FLOOR_CONFIG" >"$folder/environment"; fi
lap config

if [[ ${FLOOR_TAR:-} ]]; then
    curl -sSfL "$release" | tee "$folder/release" | sha256sum >/dev/null
    lap release
    docker build --quiet --tag "$app" - <"$folder/release" >/dev/null
    rm "$folder/release"
else
    mkdir "$folder/context"
    curl -sSfL "$release" | tar -xz -C "$folder/context"
    context=$folder/context
    if [[ ! -e $context/Dockerfile ]]; then context=$(echo "$context"/*/); fi # GitHub's archives have one folder on top
    lap release
    docker build --quiet --tag "$app" "$context" >/dev/null
fi
lap image

docker run --detach --name "$app" --env-file "$folder/environment" --publish "127.0.0.1:$published:$inside" "$app" >/dev/null
lap container

tries=0
until curl -sf -o /dev/null "http://127.0.0.1:$published$page"; do
    if ((++tries == 3000)); then
        echo "floor: nothing answers on port $published" >&2
        exit 1
    fi
    sleep 0.1
done
lap health

awk '{ printf "%s %.3f\n", $1, $3 - $2 }' <<<"${report%$'\n'}"
awk -v from="$began" -v to="$last" 'BEGIN { printf "total %.3f\n", to - from }'
