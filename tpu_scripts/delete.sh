#!/usr/bin/env bash
# Deletes a queued resource with its TPUs, and asks until Google Cloud says that it is gone.
#
#   delete.sh --name=NAME --zone=ZONE
#
#   --name=NAME, --zone=ZONE  of the queued resource; one that does not exist counts as deleted
#   --attempts=N              tries before giving up (default 10)
#   --pause=SECONDS           between two tries (default 30)
#   --project=PROJECT         (default: gcloud's)
#   --dry_run                 print what would run, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" zone="" project="" attempts=10 pause=30
parse_flags "name zone project attempts pause" "" "$@"
require name zone
require_number attempts
require_seconds pause
set_location "$zone" "$project"

delete=(gcloud compute tpus queued-resources delete "$name" "${location[@]}" --force --quiet)
[ -n "$dry_run" ] || [ "$(tpu_state "$name")" != ABSENT ] || {
  say "there is no $name"
  exit 0
}
for ((attempt = 1; attempt <= attempts; attempt++)); do
  # A resource that is still being provisioned can refuse; hence the tries.
  run "${delete[@]}" || true
  [ -z "$dry_run" ] || exit 0
  state=$(tpu_state "$name")
  if [ "$state" = ABSENT ]; then
    say "$name is gone"
    exit 0
  fi
  say "$name is $state after try $attempt of $attempts"
  [ "$attempt" = "$attempts" ] || pause "$pause"
done
fail "$name IS NOT DELETED AND MAY COST MONEY; run: ${delete[*]}"
