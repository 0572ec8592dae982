#!/usr/bin/env bash
# Runs one command on TPUs of a GKE cluster through xpk, which queues and restarts it, and gathers
# the logs. The cluster exists already (xpk cluster create), and so does the image (docs/TPU.md).
#
#   run_xpk.sh --cluster=CLUSTER --workload=NAME --zone=ZONE --type=TYPE --docker_image=IMAGE [...]
#              -- detox-jax VERB ...
#
# The workers work together: verbs start jax.distributed (DETOX_JAX_MULTIHOST=1 is --multihost).
#
#   --cluster, --workload     of xpk; the workload's name is free
#   --zone=ZONE               of the cluster
#   --type=TYPE               TPU type, such as v5litepod-16 or v6e-64
#   --node_count=SLICES       slices of that type (default 1)
#   --docker_image=IMAGE      with detox_jax installed, and with the command's gin files in it
#   --max_restarts=N          by JobSet, after preemption or a crash (default 20)
#   --timeout=SECONDS         to wait for the end (default 604800, a week)
#   --poll=SECONDS            between two tries to wait, where xpk cannot (default 30); ten in a row
#                             are as being out of time
#   --priority=LEVEL          very-low, low, medium, high or very-high (default medium)
#   --keep                    leave the workload in the cluster when interrupted or out of time: it costs
#                             money until it ends or is deleted
#   --log_dir=DIR             (default runs/tpu/WORKLOAD)
#   --project=PROJECT         (default: gcloud's)
#   --dry_run                 print what would run, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

cluster="" workload="" zone="" project="" type="" node_count=1 docker_image="" max_restarts=20
timeout=604800 poll=30 priority=medium log_dir="" keep=""
parse_flags "cluster workload zone project type node_count docker_image max_restarts timeout \
  poll priority log_dir" "keep" "$@"
require cluster workload zone type docker_image
require_number node_count max_restarts timeout
require_seconds poll
[ ${#rest[@]} -gt 0 ] || usage_error "no command: end with -- detox-jax VERB ..."
set_location "$zone" "$project"
log_dir=${log_dir:-runs/tpu/$workload}
at=("--cluster=$cluster" "${location[@]}")

# A workload that was given up would go on, and its node pool could grow for it.
give_up() {
  trap '' INT TERM HUP
  close_connections
  local delete=(xpk workload delete "--workload=$workload" "${at[@]}" --force)
  if [ -n "$keep" ]; then
    say "kept, at its price: $workload; to delete it: ${delete[*]}"
  else
    run "${delete[@]}" || say "NOT DELETED: $workload may go on, at its price; try ${delete[*]}"
  fi
  exit "$1"
}
trap 'give_up 130' INT
trap 'give_up 143' TERM HUP

# Status 1 is a crash and worth a restart, as xpk's own 42 and 127-255 are; 75 asks for one; 2 is a
# mistake and is not.
run xpk workload create "--workload=$workload" "${at[@]}" "--tpu-type=$type" \
  "--num-slices=$node_count" "--docker-image=$docker_image" "--max-restarts=$max_restarts" \
  --restart-on-exit-codes=1,75 "--priority=$priority" "--command=$(quote env DETOX_JAX_MULTIHOST=1 "${rest[@]}")" ||
  fail "xpk refused the workload; the lines above say why"

# A group of its own, and in the background, so that a signal is handled at once and ends it.
wait_for_end() {
  set -m
  run xpk workload list "${at[@]}" "--wait-for-job-completion=$workload" "--timeout=$left" &
  set +m
  connections=($!)
  wait $!
}

# xpk says 0 or 125 of a workload that has ended, and 124 of one that goes on. Of anything else, such
# as a cluster that cannot be reached, it says kubectl's status, often 1, and the workload may go on.
failures=0 left=$timeout since=$SECONDS
while :; do
  status=0
  began=$SECONDS
  wait_for_end || status=$?
  case $status in 0 | 124 | 125) break ;; esac
  # A try that long could wait until now; to find no cluster takes kubectl minutes too.
  [ $((SECONDS - began)) -lt 600 ] || failures=0
  failures=$((failures + 1))
  [ "$failures" -lt 10 ] || break
  left=$((timeout - SECONDS + since))
  [ "$left" -gt 0 ] || { status=124 && break; }
  say "xpk cannot wait for $workload ($status); trying again"
  pause "$poll" || give_up 1
done
gather_logs() {
  mkdir -p "$log_dir" &&
    kubectl logs "--selector=jobset.sigs.k8s.io/jobset-name=$workload" --all-containers --prefix \
      --tail=-1 --max-log-requests=1000 >"$log_dir/workers.log"
}
run gather_logs || say "no logs gathered; xpk printed where the console has them"
case $status in
  0) say "$workload succeeded; logs: $log_dir/workers.log" ;;
  124) say "$workload is not finished after $timeout s" && give_up 1 ;;
  125) fail "$workload failed; logs: $log_dir/workers.log" ;;
  *) say "xpk could not wait for $workload $failures times ($status); it may go on" && give_up 1 ;;
esac
