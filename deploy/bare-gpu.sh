#!/usr/bin/env bash
# Packs what `longtake bench gpu` needs on a Linux machine that has PyTorch for CUDA and transformers, but no network:
#
#   deploy/bare-gpu.sh FOLDER [PYTHON_VERSION]        # writes FOLDER/site.tar.xz
#
# There, in a copy of this repository:
#
#   mkdir -p /tmp/site && tar -xJf FOLDER/site.tar.xz -C /tmp/site
#   PYTHONPATH=.:/tmp/site python3 -m longtake.jobs bench gpu --json
set -euo pipefail
folder=${1:?usage: deploy/bare-gpu.sh FOLDER [PYTHON_VERSION]} version=${2:-3.12}
lock=$(dirname "$0")/../requirements.lock
packages='annotated-types|diffusers|importlib_metadata|pydantic|pydantic_core|typing-inspection|zipp'
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
grep -E "^($packages)==" "$lock" | sed 's/ .*//' > "$site.txt"
python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --python-version "$version" \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --target "$site" --requirement "$site.txt"
rm "$site.txt"
mkdir -p "$folder"
tar -cJf "$folder/site.tar.xz" -C "$site" .
