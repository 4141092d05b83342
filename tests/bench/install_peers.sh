#!/bin/sh
# Installs the gateways that `python -m tests.bench requests --peers DIR` measures beside ours, into DIR and nowhere else.
# Needs npm and a Python with venv; fetches some hundred megabytes.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)

npm install --prefix "$directory/portkey" --no-audit --no-fund --omit=dev @portkey-ai/gateway

"${PYTHON:-python3}" -m venv "$directory/litellm"
"$directory/litellm/bin/pip" install --quiet --disable-pip-version-check 'litellm[proxy]'
