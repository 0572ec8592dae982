#!/usr/bin/env bash
# Runs a command on TPUs to its end: asks for them, waits for capacity, sets up, looks, runs, and
# begins again after preemption or a crash. Verbs continue from their last checkpoint. A command that
# ends with 75 asks to be run again, which is no failure and not counted. The TPUs are
# deleted when it ends, however it ends, Ctrl-C included, unless --keep; only SIGKILL, or the loss of
# this machine, can leave them behind, so run it where nothing switches off.
#
#   watch.sh --name=NAME --zone=ZONE --type=TYPE --bucket=gs://BUCKET/DIR [...] -- detox-jax VERB ...
#
#   --name, --zone, --type    of the queued resource; one of that name that exists is used, and deleted.
#                             --type=A,B asks for B where there is no capacity for A, each time anew;
#                             a run goes on with another number of chips
#   --bucket=gs://BUCKET/DIR  that outlives the TPUs; the command's outputs belong there
#   --max_restarts=N          give up after so many (default 20)
#   --wait_timeout=SECONDS    give up when there is no capacity for so long, for each type (default 86400)
#   --poll=SECONDS            between two looks at the queue (default 30)
#   --keep                    leave the TPUs running at the end: they cost money until delete.sh
#   --log_dir=DIR             for the logs (default runs/tpu/NAME), a directory for each attempt
#   --spot, --reserved, --node_count, --runtime_version, --valid_until, --service_account,
#   --network, --subnetwork, --internal_ips                as for create.sh
#   --num_workers, --coordinator_port, --timeout           as for preflight.sh
#   --grace, --iap, --project                              as for run.sh
#   --dry_run                 print what would run if all went well, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

# shellcheck disable=SC2034  # flags() reads them by their names
{
  name="" zone="" project="" type="" bucket="" log_dir="" keep="" iap=""
  max_restarts=20 wait_timeout=86400 poll=30
  node_count="" runtime_version="" valid_until="" service_account="" network="" subnetwork=""
  spot="" reserved="" internal_ips="" num_workers="" coordinator_port="" timeout="" grace=""
}
parse_flags "name zone project type bucket log_dir max_restarts wait_timeout poll node_count \
  runtime_version valid_until service_account network subnetwork num_workers coordinator_port \
  timeout grace" "keep iap spot reserved internal_ips" "$@"
require name zone type bucket
require_number max_restarts wait_timeout
require_seconds poll
[[ $type =~ ^[^,\ ]+(,[^,\ ]+)*$ ]] || usage_error "--type=$type: expected TYPE or TYPE,TYPE"
types=$type
[ ${#rest[@]} -gt 0 ] || usage_error "no command: end with -- detox-jax VERB ..."
set_location "$zone" "$project"
log_dir=${log_dir:-runs/tpu/$name}

# flags FLAG...: those that were given, as another script's arguments.
flags() {
  local flag
  passed=()
  for flag in name zone project dry_run "$@"; do
    case ${!flag} in
      "") ;;
      true) passed+=("--$flag") ;;
      *) passed+=("--$flag=${!flag}") ;;
    esac
  done
}
flags
delete=("$scripts/delete.sh" "${passed[@]}" "--pause=$poll")

# ask_for TYPE: sets `create`, the request.
ask_for() {
  # shellcheck disable=SC2034  # flags() reads it by its name
  local type=$1
  flags type node_count runtime_version valid_until service_account network subnetwork \
    spot reserved internal_ips
  create=("$scripts/create.sh" "${passed[@]}")
}

# --- nothing paid for is left behind -----------------------------------------------------------

child=""
# finish [STATUS]: a signal's trap calls it too, for bash 5.2 now and then ends at an `exit` there
# without the trap of EXIT, where the signal comes between two commands.
# shellcheck disable=SC2329  # the traps call it
finish() {
  local status=${1:-$?}
  trap '' INT TERM HUP # a second Ctrl-C must not stop the deletion
  trap - EXIT
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$keep" ]; then
    say "kept, at its price: $name; to delete it: ${delete[*]}"
  else
    "${delete[@]}" || status=1
  fi
  exit "$status"
}

# In the background, because bash handles a signal only between commands, and while it waits.
interruptible() {
  local status=0
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=""
  return "$status"
}

# To its end whatever comes: a request that was cut off could still be granted after the deletion.
uninterruptible() { (
  trap '' INT TERM HUP
  "$@"
); }

# --- one attempt ---------------------------------------------------------------------------------

# Returns once the resource is ACTIVE, of the first type that Google Cloud grants.
become_active() {
  local candidate
  for candidate in ${types//,/ }; do
    ask_for "$candidate"
    be_granted && return 0
    [ "$candidate" = "$types" ] || uninterruptible "${delete[@]}" || return 1 # its request would stay
  done
  return 1
}

# Returns once the resource is ACTIVE: creates it where there is none, and anew where it is lost.
# Fails if Google Cloud refuses it, or has no capacity for too long.
be_granted() {
  local state last="" unknown=0 asked="" since=$SECONDS
  while [ $((SECONDS - since)) -le "$wait_timeout" ]; do
    state=$(tpu_state "$name")
    [ "$state" = "$last" ] || say "$name is $state"
    last=$state
    if [ "$state" = UNKNOWN ]; then unknown=$((unknown + 1)); else unknown=0; fi
    [ "$unknown" -lt 10 ] || { say "Google Cloud gave no answer 10 times" && return 1; }
    case $state in
      ACTIVE) return 0 ;;
      ABSENT)
        uninterruptible "${create[@]}" || return 1
        since=${asked:-$SECONDS} # to ask takes time too, and is no waiting
        asked=$since
        ;;
      SUSPENDED) # preempted, and never given back
        uninterruptible "${delete[@]}" || return 1
        since=${asked:-$SECONDS}
        ;;
      FAILED)
        gcloud compute tpus queued-resources describe "$name" "${location[@]}" \
          --format='value(state.failedData.error.message)' >&2 || true
        uninterruptible "${delete[@]}" || true
        return 1
        ;;
    esac
    [ "$state" = ABSENT ] || interruptible sleep "$poll"
  done
  say "no capacity for $wait_timeout s"
  return 1
}

attempt_once() {
  local logs=$1
  flags iap
  interruptible "$scripts/setup.sh" "${passed[@]}" "--log_dir=$logs/setup" || return 1
  flags iap bucket num_workers coordinator_port timeout
  interruptible "$scripts/preflight.sh" "${passed[@]}" "--log_dir=$logs/preflight" || return
  flags iap coordinator_port grace
  interruptible "$scripts/run.sh" "${passed[@]}" "--log_dir=$logs/run" -- "${rest[@]}"
}

if [ -n "$dry_run" ]; then
  ask_for "${types%%,*}"
  "${create[@]}"
  attempt_once "$log_dir/1"
  [ -n "$keep" ] || "${delete[@]}"
  exit 0
fi

trap finish EXIT
trap 'finish 130' INT
trap 'finish 143' TERM
trap 'finish 129' HUP
started=$(date +%Y%m%dT%H%M%S)
runs=0
for ((attempt = 0; attempt <= max_restarts; attempt++)); do
  if become_active; then
    status=0
    attempt_once "$log_dir/$started-$runs" || status=$?
    runs=$((runs + 1))
    [ "$status" != 0 ] || { say "done after $((runs - 1)) restarts" && exit 0; }
    # A mistake of the user's is not mended by running it again.
    [ "$status" != 2 ] || exit 2
    if [ "$status" = 75 ]; then
      say "stopped, and asks to be run again; $((max_restarts - attempt)) restarts are left"
      attempt=$((attempt - 1))
      interruptible sleep "$poll"
      continue
    fi
  elif [ "$runs" = 0 ]; then # nor is a request that was refused from the start
    exit 1
  fi
  say "attempt $attempt failed; $((max_restarts - attempt)) restarts are left"
  interruptible sleep "$poll"
done
fail "gave up after $max_restarts restarts; the logs are in $log_dir"
