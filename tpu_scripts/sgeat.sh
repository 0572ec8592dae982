#!/usr/bin/env bash
# The whole method on a pod from one gin file: asks for the TPUs, runs `detox-jax sgeat` through every
# preemption, deletes the TPUs, and brings report.html and results.json here.
#
#   sgeat.sh --name=NAME --zone=ZONE --type=TYPE --bucket=gs://BUCKET/DIR --gin_file=FILE [...]
#            [-- --gin.NAME=VALUE ...]
#
#   --gin_file=FILE   of this checkout, such as the my_run.gin of docs/TPU.md; OUTPUT_DIR
#                     is gs://BUCKET/DIR/NAME whatever it says
#   --output=DIR      where the results go on this machine (default runs/NAME)
#   --dry_run         print what would run if all went well, and stop
#   --help            this text
#   All other flags are those of watch.sh, which does the work.
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" bucket="" gin_file="" output="" log_dir="" passed=()
while [ $# -gt 0 ]; do
  case $1 in
    --gin_file | --output | --name | --bucket | --log_dir | --log-dir) # in two words, as elsewhere
      [ $# -gt 1 ] && [[ $2 != --* ]] || usage_error "$1 needs a value: $1=VALUE"
      set -- "$1=$2" "${@:3}"
      ;;
  esac
  case $1 in
    --help | -h) show_help && exit 0 ;;
    --) shift && break ;;
    --gin_file=*) gin_file=${1#*=} ;;
    --output=*) output=${1#*=} ;;
    *)
      case $1 in
        --name=*) name=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --log_dir=* | --log-dir=*) log_dir=${1#*=} ;;
        --dry_run | --dry-run) dry_run=true ;;
      esac
      passed+=("$1")
      ;;
  esac
  shift
done
require name bucket gin_file
[ -f "$scripts/../$gin_file" ] || usage_error "--gin_file=$gin_file is no file of this checkout"
output_dir=${bucket%/}/$name

# In the background, so that a signal to this script is handled at once: watch.sh then deletes.
"$scripts/watch.sh" "${passed[@]}" -- detox-jax sgeat "--gin_file=$gin_file" "$@" \
  "--gin.OUTPUT_DIR=$output_dir" &
watch=$!
stop_watch() {
  trap '' INT TERM HUP
  kill -TERM "$watch" 2>/dev/null || true
  wait "$watch" || true
  exit "$1"
}
trap 'stop_watch 130' INT
trap 'stop_watch 143' TERM HUP
wait "$watch"
output=${output:-runs/$name}
[ -n "$dry_run" ] || mkdir -p "$output"

# With ONLY they are in a directory of their own, which the newest log of this run names in its last
# lines. Logs of other runs may lie beside it.
newest="" results=$output_dir
for log in "${log_dir:-runs/tpu/$name}"/*/run/worker-0.log; do
  [ -z "$dry_run" ] && [ "$log" -nt "$newest" ] || continue
  while IFS= read -r place; do
    if [[ $place/ == "$output_dir"/* ]]; then newest=$log results=$place; fi
  done < <(sed -n 's|^  \(.*\)/report\.html  *pictures, tables, .*|\1|p' "$log")
done
run gcloud storage cp "$results/report.html" "$results/results.json" "$output/"
say "results: $output/report.html, $output/results.json; all of the run: $output_dir"
