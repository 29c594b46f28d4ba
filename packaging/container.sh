#!/usr/bin/env bash
# Builds the image from packaging/Dockerfile as it is and runs it, where that can be done: as root, with apt. No Docker and
# no registry is needed: buildah builds in a chroot, from a Debian that mmdebstrap makes. Elsewhere the Dockerfile is only
# linted. The last line says which of the two it was. The image is thrown away.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
PYTHON=${PYTHON:-python3}
[ -x .venv/bin/python ] && PYTHON=$PWD/.venv/bin/python
BASE=debian:bookworm-slim  # by the name that the Dockerfile calls it

say() { printf 'container: %s\n' "$*"; }

lint=$(PATH="$(dirname "$PYTHON"):$PATH" command -v hadolint || true)
if [ -n "$lint" ]; then
    "$lint" packaging/Dockerfile
    say "hadolint finds nothing in packaging/Dockerfile"
else
    say "no hadolint here: not linted"
fi

only_linted() {
    say "NOT BUILT AND NOT RUN: $1"
    [ -n "$lint" ] || { say "and not even linted"; exit 1; }
    say "the Dockerfile was only linted"
    exit 0
}

[ "$(uname -s)" = Linux ] || only_linted "this is no Linux"
[ "$(id -u)" = 0 ] || only_linted "it takes root to make a Debian without Docker"
missing=()
for program in buildah mmdebstrap; do command -v $program >/dev/null || missing+=($program); done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || only_linted "no ${missing[*]} here, and no apt to get it"
    say "installing ${missing[*]}"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } \
        >/dev/null || only_linted "${missing[*]} could not be installed"
fi
unshare --mount --pid --net --fork true 2>/dev/null || only_linted "no namespaces may be made here"

work=$(mktemp -d)
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
cleanup() {
    buildah umount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT
size() { buildah images --format '{{.Size}}' "$1"; }

# How this machine reaches archives and index, see settings.py.
mapfile -t volumes < <("$PYTHON" packaging/container/settings.py "$work")

start=$SECONDS
# What Debian's own slim image leaves out.
mmdebstrap --quiet --variant=minbase --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm "$work/base.tar"
from=$(buildah from scratch)
buildah add --quiet "$from" "$work/base.tar" / >/dev/null
buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$from"
buildah commit --quiet --rm "$from" "$BASE" >/dev/null
rm "$work/base.tar"
say "a Debian to build on, in $((SECONDS - start)) s: $(size "$BASE")"

start=$SECONDS
buildah build --isolation chroot --pull-never --format docker --file packaging/Dockerfile --tag fluxen \
    "${volumes[@]}" . >"$work/build.log" 2>&1 || { tail -n 60 "$work/build.log"; say "the build failed"; exit 1; }
say "packaging/Dockerfile built in $((SECONDS - start)) s: $(size fluxen), base included"

buildah inspect --type image fluxen >"$work/config.json"
container=$(buildah from --pull-never fluxen)
root=$(buildah mount "$container")
say "the image's files beyond its base: $(du -sh "$root/usr/lib/fluxen" | cut -f1) in /usr/lib/fluxen"
unshare --net "$PYTHON" packaging/container/check.py "$root" "$work/config.json"
say "BUILT AND RUN"
