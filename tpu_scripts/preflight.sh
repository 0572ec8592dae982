#!/usr/bin/env bash
# Looks whether a run can work before it starts: number of workers, versions, the coordinator's port,
# the bucket, in which each worker saves and restores a small checkpoint, and the memory of the chips.
# Needs setup.sh to have run. Ends with 2 for what no restart mends (a role, a package or the bucket
# is missing), and else with 1.
#
#   preflight.sh --name=NAME --zone=ZONE --bucket=gs://BUCKET/DIR
#
#   --name=NAME, --zone=ZONE  of an ACTIVE queued resource
#   --bucket=gs://BUCKET/DIR  that all workers must be able to write to
#   --num_workers=N           that there must be (default: as many as Google Cloud lists)
#   --coordinator_port=PORT   (default 8476, which Google Cloud's own firewall rule opens; JAX from
#                             0.8.1 on would take 8482, which it leaves closed)
#   --timeout=SECONDS         for workers to find each other (default 120)
#   --log_dir=DIR             for the workers' logs (default runs/tpu/NAME/preflight)
#   --iap                     reach workers without external addresses through a tunnel
#   --project=PROJECT         (default: gcloud's)
#   --dry_run                 print what would run, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" zone="" project="" bucket="" num_workers="" coordinator_port=8476 timeout=120 log_dir="" iap=""
parse_flags "name zone project bucket num_workers coordinator_port timeout log_dir" "iap" "$@"
require name zone bucket
require_number coordinator_port timeout
[ -z "$num_workers" ] || require_number num_workers
set_location "$zone" "$project"
log_dir=${log_dir:-runs/tpu/$name/preflight}

find_workers "$name"
[ -n "$dry_run" ] || [ "${#workers[@]}" = "${num_workers:-${#workers[@]}}" ] ||
  fail "$name has ${#workers[@]} workers, not $num_workers"
command=$(quote "JAX_COORDINATOR_PORT=$coordinator_port" \
  bash detox_jax/tpu_scripts/worker/run.sh "preflight-$(date +%Y%m%dT%H%M%S)-$$" \
  python tpu_scripts/worker/preflight.py "--bucket=$bucket" "--port=$coordinator_port" "--timeout=$timeout")
status=0
on_workers "$name" "$log_dir" 30 "$command" || status=$?
[ "$status" = 0 ] || { say "error: not ready; the logs are in $log_dir" && exit "$status"; }
[ -z "$dry_run" ] || exit 0

for check in port bucket devices; do
  for index in "${!workers[@]}"; do
    found=$(sed -n "s/^$check: //p" "$log_dir/worker-$index.log")
    [ -n "$found" ] || fail "worker $index did not report its $check; see $log_dir/worker-$index.log"
    [ "$check" = port ] && continue
    first=${first:-$found}
    [ "$found" = "$first" ] || fail "worker $index differs from worker 0: $check '$found' is not '$first'"
  done
  say "$check: ${first:-$found}"
  first=""
done
say "${#workers[@]} workers are ready"
