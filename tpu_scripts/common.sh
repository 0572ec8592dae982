# Sourced by every script here: flags, printing what runs, the state of the TPU, work on all workers.
# Runs on bash 3.2 too, which macOS still ships: no associative arrays, no `wait -n`.
# shellcheck shell=bash

# shellcheck disable=SC2034  # for the scripts that source this
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=${0##*/}
poll_seconds=${TPU_SCRIPTS_POLL_SECONDS:-2} # between two looks at the connections to the workers
dry_run=""
rest=()    # what follows `--`
location=() # --zone and --project, for gcloud

# A mistake in the command line: one line, exit 2.
usage_error() {
  echo "$script: error: $1; see $script --help" >&2
  exit 2
}

# Something that went wrong elsewhere: one line, exit 1.
fail() {
  echo "$script: error: $1" >&2
  exit 1
}

say() { echo "$script: $*" >&2; }

# The script's leading comment is its help text.
show_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# parse_flags "VALUE FLAGS" "SWITCHES" "$@": sets the variable of each flag's name; `--a-b` is `--a_b`.
parse_flags() {
  local values=" $1 " switches=" $2 dry_run " flag key
  shift 2
  while [ $# -gt 0 ]; do
    flag=${1%%=*}
    key=${flag#--}
    key=${key//-/_}
    case $1 in
      --help | -h) show_help && exit 0 ;;
      --) shift && rest=("$@") && break ;;
      --*) ;;
      *) usage_error "unexpected argument '$1' (a command goes after --)" ;;
    esac
    if [[ $switches == *" $key "* ]]; then
      [ "$1" = "$flag" ] || usage_error "$flag takes no value"
      printf -v "$key" true
    elif [[ $values == *" $key "* ]]; then
      if [ "$1" = "$flag" ]; then
        [ $# -gt 1 ] && [[ $2 != --* ]] || usage_error "$flag needs a value: $flag=VALUE"
        printf -v "$key" '%s' "$2"
        shift
      else
        printf -v "$key" '%s' "${1#*=}"
      fi
    else
      usage_error "unknown flag $flag"
    fi
    shift
  done
}

# require FLAG...: each must have a value.
require() {
  local flag missing=""
  for flag in "$@"; do
    [ -n "${!flag}" ] || missing="$missing --$flag"
  done
  [ -z "$missing" ] || usage_error "required and not given:$missing"
}

# require_number FLAG...: each must be a whole number, without zeros before it: bash reads 010 as 8.
require_number() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^(0|[1-9][0-9]*)$ ]] || usage_error "--$flag=${!flag} is not a whole number"
  done
}

# require_seconds FLAG...: each must be a number, such as 30 or 0.5.
require_seconds() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage_error "--$flag=${!flag} is not a number of seconds"
  done
}

# set_location ZONE PROJECT: where gcloud looks; without a project it takes that of its configuration.
set_location() {
  location=("--zone=$1")
  [ -z "$2" ] || location+=("--project=$2")
}

show() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  echo >&2
}

# run COMMAND...: prints it, and runs it unless --dry_run.
run() {
  show "$@"
  [ -n "$dry_run" ] || "$@"
}

pause() {
  sleep "$1" &
  wait $!
}

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# The queued resource's state: what Google Cloud says, ABSENT, or UNKNOWN where it cannot be asked.
tpu_state() {
  local answer
  if answer=$(gcloud compute tpus queued-resources describe "$1" "${location[@]}" \
    --format='value(state.state)' 2>&1); then
    printf '%s\n' "$answer" | tail -n 1
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    printf '%s\n' "$answer" >&2
    echo UNKNOWN
  fi
}

# One line "NODE WORKER IP" for each worker of each slice, in JAX's order of processes.
tpu_workers() {
  local nodes addresses node=0 worker address id
  nodes=$(gcloud compute tpus queued-resources describe "$1" "${location[@]}" \
    --format='value(tpu.nodeSpec[].nodeId)') || return 1
  for id in ${nodes//;/ }; do
    addresses=$(gcloud compute tpus tpu-vm describe "$id" "${location[@]}" \
      --format='value(networkEndpoints[].ipAddress)') || return 1
    worker=0
    for address in ${addresses//;/ }; do
      echo "$node $worker $address"
      worker=$((worker + 1))
    done
    node=$((node + 1))
  done
}

# --- the same command on all workers ------------------------------------------------------------
# One connection a worker, because gcloud's own --worker=all returns a single exit code, and its
# --output-directory gives workers of the same number in different slices the same file.

connections=() # process groups of the open connections

# quote WORD...: as one string that a remote shell takes apart into the same words.
quote() {
  local quoted
  printf -v quoted '%q ' "$@"
  printf '%s' "${quoted% }"
}

# find_workers NAME: fills `workers`. A dry run asks nobody, and shows one worker for all.
find_workers() {
  workers=()
  local line lines="NODE WORKER COORDINATOR_IP"
  if [ -z "$dry_run" ]; then
    lines=$(tpu_workers "$1") || fail "cannot list the workers of $1; is it ACTIVE?"
    [ -n "$lines" ] || fail "$1 has no workers; is it ACTIVE?"
  fi
  while read -r line; do workers+=("$line"); done <<<"$lines"
  coordinator=${workers[0]##* }
}

# on_workers NAME LOG_DIR GRACE COMMAND: runs it everywhere at once, with its place in WORKER_INDEX,
# NUM_WORKERS and COORDINATOR_IP. Logs go to LOG_DIR/worker-I.log, exit codes to
# LOG_DIR/exit_codes.txt. When one fails, the others have GRACE seconds to end by themselves.
# Returns 0 if none failed; 2 if all that failed say 2, a mistake, or 3, a model that does not fit,
# which no restart mends; 75 if all say 75, to be run again; else 1. One that was ended because another
# failed says nothing.
on_workers() {
  local name=$1 log_dir=$2 grace=$3 command=$4 index=0 place node worker line ssh
  [ -n "$dry_run" ] || mkdir -p "$log_dir"
  connections=()
  trap 'close_connections; exit 130' INT
  trap 'close_connections; exit 143' TERM HUP
  for line in "${workers[@]}"; do
    read -r node worker _ <<<"$line"
    place="export WORKER_INDEX=$index NUM_WORKERS=${#workers[@]} COORDINATOR_IP=$coordinator"
    ssh=(gcloud compute tpus queued-resources ssh "$name" "${location[@]}" --quiet
      "--node=$node" "--worker=$worker" --ssh-flag=-oServerAliveInterval=30
      ${iap:+--tunnel-through-iap} "--command=$place; $command")
    show "${ssh[@]}"
    if [ -z "$dry_run" ]; then
      # A group of its own, so that ending it ends gcloud's children too.
      set -m
      "${ssh[@]}" >"$log_dir/worker-$index.log" 2>&1 </dev/null &
      connections+=($!)
      set +m
    fi
    index=$((index + 1))
  done
  [ -n "$dry_run" ] || collect "$log_dir" "$grace"
}

# collect LOG_DIR GRACE: waits for all connections, and writes and judges their exit codes.
collect() {
  local log_dir=$1 grace=$2 index code open failed_at="" closed="" status=0
  local codes=()
  while :; do
    open=0
    for index in "${!connections[@]}"; do
      [ -z "${codes[index]:-}" ] || continue
      if kill -0 "${connections[index]}" 2>/dev/null; then
        open=$((open + 1))
      else
        code=0
        wait "${connections[index]}" || code=$?
        codes[index]=$code
        [ "$code" = 0 ] || failed_at=${failed_at:-$SECONDS}
      fi
    done
    [ "$open" -gt 0 ] || break
    if [ -n "$failed_at" ] && [ $((SECONDS - failed_at)) -ge "$grace" ]; then
      say "a worker failed $grace s ago; closing the other $open connections"
      close_connections
      closed=true
      failed_at=$SECONDS
    fi
    pause "$poll_seconds"
  done
  for index in "${!codes[@]}"; do echo "worker-$index ${codes[index]}"; done >"$log_dir/exit_codes.txt"
  for index in "${!codes[@]}"; do
    code=${codes[index]}
    [ "$code" != 0 ] || continue
    say "worker $index ended with $code: $(tail -n 1 "$log_dir/worker-$index.log")"
    [ -z "$closed" ] || [ "$code" != 143 ] || continue
    case $status:$code in
      0:[23] | 2:[23]) status=2 ;;
      0:75 | 75:75) status=75 ;;
      *) status=1 ;;
    esac
  done
  # Those that were ended had no other reason to: something failed.
  if [ "$status" = 0 ] && [ -n "$failed_at" ]; then status=1; fi
  return "$status"
}

close_connections() {
  local group
  for group in ${connections[@]+"${connections[@]}"}; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
}
