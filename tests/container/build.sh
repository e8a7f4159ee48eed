#!/usr/bin/env bash
# Build an image with buildah, from the same Dockerfile that Docker would use.
# usage: build.sh TAG DOCKERFILE CONTEXT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/base_image.sh"
options=()
# A network that inspects TLS needs its CA during the build; the image itself gets none of it.
bundle=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$bundle" ] && [ -f "$bundle" ]; then
  options+=(--volume "$bundle:/run/build-ca.pem:ro" --build-arg PIP_CERT=/run/build-ca.pem)
fi
exec buildah build --quiet --format docker --layers --network host --isolation chroot "${options[@]}" --tag "$1" --file "$2" "$3"
