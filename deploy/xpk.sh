#!/usr/bin/env bash
# The whole method on a v5e-8 of a GKE cluster: deploy/xpk.sh CLUSTER ZONE IMAGE BUCKET GIN_FILE
#
# IMAGE is deploy/Dockerfile.tpu's, with GIN_FILE in it: section 4 of docs/TPU.md makes one, and says
# what the cluster needs.
set -euo pipefail
[ $# -eq 5 ] || { echo "usage: deploy/xpk.sh CLUSTER ZONE IMAGE BUCKET GIN_FILE" >&2; exit 2; }
exec "$(dirname "$0")/../tpu_scripts/run_xpk.sh" --cluster="$1" --zone="$2" --docker_image="$3" \
  --workload=detox --type=v5litepod-8 \
  -- detox-jax sgeat --gin_file="$5" --gin.OUTPUT_DIR="$4/runs/detox"
