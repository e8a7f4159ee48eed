#!/usr/bin/env bash
# Have debian:trixie-slim in buildah's store: from a registry when one answers, else made by debootstrap and kept as a
# tar in the user's cache folder.
set -euo pipefail
buildah inspect --type image debian:trixie-slim >/dev/null 2>&1 && exit 0
if timeout 20 buildah pull --quiet docker.io/library/debian:trixie-slim >/dev/null 2>&1; then exit 0; fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/claude-code-api
tar=$cache/debian-trixie-minbase.tar
if [ ! -f "$tar" ]; then
  mkdir -p "$cache"
  root=$(mktemp -d)
  trap 'rm -rf "$root" "$tar.part"' EXIT
  debootstrap --variant=minbase trixie "$root" >/dev/null
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" -cf "$tar.part" .
  mv "$tar.part" "$tar"
fi
container=$(buildah from scratch)
buildah add --quiet "$container" "$tar" / >/dev/null
buildah config --cmd bash "$container"
buildah commit --quiet "$container" docker.io/library/debian:trixie-slim >/dev/null
buildah rm "$container" >/dev/null
