#!/usr/bin/env bash
# Deploys the packaged component to the nucleus on this machine: nucleus lite, the Java nucleus, or the one that
# compose.yaml started.
# Usage: deploy-local.sh COMPONENT VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
component=$1 version=$2
build=greengrass-build
stage=target/deploy-local

# Both command lines take a folder of recipes and a folder of artifacts; nucleus lite wants <name>-<version>.yaml.
rm -rf "$stage"
mkdir -p "$stage/recipes" "$stage/artifacts"
sed "s/^ComponentVersion:.*/ComponentVersion: '$version'/" "$build/recipes/recipe.yaml" \
    > "$stage/recipes/$component-$version.yaml"
cp -r "$build/artifacts/$component" "$stage/artifacts/"

find_cli() { command -v "$1" 2>/dev/null || { [ -x "$2" ] && echo "$2"; } || true; }
classic=$(find_cli greengrass-cli /greengrass/v2/bin/greengrass-cli)
lite=$(find_cli ggl-cli /usr/bin/ggl-cli)

if [ -n "$lite" ]; then
    exec scripts/as-root.sh "$lite" deploy --recipe-dir "$stage/recipes" --artifacts-dir "$stage/artifacts" \
        --add-component "$component=$version"
elif [ -n "$classic" ]; then
    exec scripts/as-root.sh "$classic" deployment create --recipeDir "$stage/recipes" \
        --artifactDir "$stage/artifacts" --merge "$component=$version"
elif command -v docker >/dev/null && [ -n "$(docker compose ps --quiet greengrass 2>/dev/null)" ]; then
    # the container sees greengrass-build as /edge-warden
    exec docker compose exec -T greengrass /greengrass/v2/bin/greengrass-cli deployment create \
        --recipeDir /edge-warden/recipes --artifactDir /edge-warden/artifacts --merge "$component=$version"
else
    echo "deploy-local: neither greengrass-cli nor ggl-cli found on this machine, and no container of compose.yaml." >&2
    echo "Install a nucleus first; recipe and artifacts are ready in $stage." >&2
    exit 1
fi
