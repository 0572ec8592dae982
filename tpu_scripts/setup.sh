#!/usr/bin/env bash
# Brings this checkout and its environment to all workers, and compares the versions they report.
#
#   setup.sh --name=NAME --zone=ZONE
#
# The checkout is sent as it is: committed, changed and new files, without those that git ignores.
# The environment is that of requirements.lock, to the letter, under a Python that uv installs.
#
#   --name=NAME, --zone=ZONE  of an ACTIVE queued resource
#   --log_dir=DIR             for the workers' logs (default runs/tpu/NAME/setup)
#   --iap                     reach workers without external addresses through a tunnel
#   --project=PROJECT         (default: gcloud's)
#   --dry_run                 print what would run, and stop
#   --help                    this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" zone="" project="" log_dir="" iap=""
parse_flags "name zone project log_dir" "iap" "$@"
require name zone
set_location "$zone" "$project"
log_dir=${log_dir:-runs/tpu/$name/setup}

archive=$(mktemp -d)
trap 'rm -rf "$archive"' EXIT
archive_checkout() {
  local file
  git -C "$scripts/.." ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do # git also lists files that were deleted and not yet committed
      [ ! -e "$scripts/../$file" ] || printf '%s\0' "$file"
    done | tar -C "$scripts/.." -czf "$1" --null -T -
}
run archive_checkout "$archive/detox_jax.tar.gz" || fail "$scripts/.. is no git checkout; clone one"

find_workers "$name"
run gcloud compute tpus queued-resources scp "$archive/detox_jax.tar.gz" "$name:" "${location[@]}" \
  --quiet --node=all --worker=all ${iap:+--tunnel-through-iap} ||
  fail "cannot copy to all workers of $name; is it ACTIVE, and is your key there (ssh-add)?"
unpack='rm -rf detox_jax && mkdir detox_jax && tar -xzf detox_jax.tar.gz -C detox_jax'
on_workers "$name" "$log_dir" 60 "$unpack && bash detox_jax/tpu_scripts/worker/setup.sh" ||
  fail "setup failed; the logs are in $log_dir"
[ -z "$dry_run" ] || exit 0

expected="lock=$(sha256 "$scripts/requirements.lock")"
for index in "${!workers[@]}"; do
  versions=$(sed -n 's/^versions: //p' "$log_dir/worker-$index.log")
  [[ $versions == *"$expected"* ]] || fail "worker $index does not have this requirements.lock: $versions"
  first=${first:-$versions}
  [ "$versions" = "$first" ] ||
    fail "worker $index differs from worker 0: '$versions' is not '$first'; run setup.sh again"
done
say "${#workers[@]} workers are alike: $first"
