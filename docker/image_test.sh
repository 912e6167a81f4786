#!/bin/sh
# Builds the CPU image with buildah and has it draw a picture, as a user id that the image does not know.
# BASE: another base image; WHEELS: a directory of wheels to install from instead of the registries.
set -eu
cd "$(dirname "$0")/.."
BASE=${BASE:-docker.io/library/python:3.11-slim-bookworm}
PORT=${PORT:-8765}
WHEELS=${WHEELS:+$(realpath "$WHEELS")}

if ! command -v buildah >/dev/null; then
    echo "image-test skipped: there is no buildah; sudo apt-get install buildah"
    exit 0
fi

export STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot

buildah build --network host --format docker --tag unmask:cpu \
    --build-arg VARIANT=cpu --build-arg BASE="$BASE" \
    ${WHEELS:+--volume "$WHEELS:/wheels:ro" --build-arg PIP_FIND_LINKS=/wheels --build-arg PIP_NO_INDEX=1} .

container=$(buildah from unmask:cpu)
run="buildah run --network host --user 12345:0 $container --"
setsid $run unmask serve --port "$PORT" &
server=$!
answer=$(mktemp)
trap 'kill -- -"$server"; wait "$server" || true; buildah rm "$container"; rm "$answer"' EXIT

tries=0
until $run unmask health --port "$PORT"; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { echo "image-test failed: the server did not become ready" >&2; exit 1; }
    sleep 2
done
curl -fsS "http://127.0.0.1:$PORT/v1/generate" -H 'Accept: image/*' -o "$answer" \
    -d '{"input": "a red circle", "output": ["image"]}'
head -c 4 "$answer" | grep -q PNG
echo "image-test passed: the image serves"
