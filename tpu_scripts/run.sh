#!/usr/bin/env bash
# Runs one command on all workers at once, and gathers their logs and exit codes.
#
#   run.sh --name=NAME --zone=ZONE [...] -- detox-jax VERB ...
#
# The workers work together: verbs start jax.distributed (DETOX_JAX_MULTIHOST=1 is --multihost).
# Exits with 0 if all workers did; 2 if all that failed did (a mistake in the command: a log says
# which), or with 3 (`plan`: the model does not fit); 75 if all that failed did (stopped, to be run
# again); else 1.
# What an earlier run left on the workers is ended first; verbs continue where they were.
#
#   --name=NAME, --zone=ZONE  of an ACTIVE queued resource that setup.sh has prepared
#   --log_dir=DIR             for worker-I.log and exit_codes.txt (default runs/tpu/NAME/TIME)
#   --grace=SECONDS           for the other workers to end once one has failed (default 180)
#   --coordinator_port=PORT   where JAX's processes meet (default 8476; see preflight.sh)
#   --iap                     reach workers without external addresses through a tunnel
#   --project=PROJECT         (default: gcloud's)
#   --dry_run                 print what would run, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" zone="" project="" log_dir="" grace=180 coordinator_port=8476 iap=""
parse_flags "name zone project log_dir grace coordinator_port" "iap" "$@"
require name zone
require_number grace coordinator_port
[ ${#rest[@]} -gt 0 ] || usage_error "no command: end with -- detox-jax VERB ..."
set_location "$zone" "$project"
run_id=$(date +%Y%m%dT%H%M%S)-$$
log_dir=${log_dir:-runs/tpu/$name/$run_id}

find_workers "$name"
command=$(quote DETOX_JAX_MULTIHOST=1 "JAX_COORDINATOR_PORT=$coordinator_port" \
  bash detox_jax/tpu_scripts/worker/run.sh "$run_id" "${rest[@]}")
status=0
on_workers "$name" "$log_dir" "$grace" "$command" || status=$?
[ -n "$dry_run" ] || say "logs and exit codes of ${#workers[@]} workers are in $log_dir"
exit "$status"
