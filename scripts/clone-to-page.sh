#!/usr/bin/env bash
# How long it takes from a clone to the demo's page: clones this repository into a folder of its own and makes the demo
# there, with no crate downloaded before. As root, on a machine with nothing else to do. README.md states the time.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# where crates come from is the person's own setting; what was downloaded before does not count
mkdir "$folder/cargo"
settings=${CARGO_HOME:-$HOME/.cargo}/config.toml
if [ -e "$settings" ]; then cp "$settings" "$folder/cargo/"; fi

start=$SECONDS
git clone --quiet "$repository" "$folder/clone"
CARGO_HOME=$folder/cargo make --directory "$folder/clone" demo
echo "clone-to-page.sh: $((SECONDS - start)) s from the clone to a page of $(stat -c %s "$folder/clone/target/demo/index.html") bytes"
