#!/usr/bin/env bash
# Asks Google Cloud for TPUs: a queued resource, which waits until there is capacity.
#
#   create.sh --name=NAME --zone=ZONE --type=TYPE [--spot] [--node_count=SLICES] ...
#
#   --name=NAME             of the queued resource; its only slice has the same name
#   --zone=ZONE             such as us-east5-b
#   --type=TYPE             accelerator type, such as v5litepod-16 or v6e-64
#   --node_count=SLICES     slices of that type, joined by the data centre's network (default 1)
#   --spot                  cheaper, and taken back when others need it; on demand without
#   --reserved              from a reservation of yours
#   --runtime_version=V     the machines' image (default: the one for JAX on that type)
#   --valid_until=DURATION  give up the request if not filled by then, such as 6h
#   --service_account=EMAIL that the machines act as; it needs to write to your bucket
#   --network=NAME, --subnetwork=NAME, --internal_ips
#   --project=PROJECT       (default: gcloud's)
#   --dry_run               print what would run, and stop
#   --help                  this text
set -euo pipefail
. "$(dirname "$0")/common.sh"

name="" zone="" project="" type="" node_count=1 runtime_version="" valid_until=""
service_account="" network="" subnetwork="" spot="" reserved="" internal_ips=""
parse_flags "name zone project type node_count runtime_version valid_until service_account network \
  subnetwork" "spot reserved internal_ips" "$@"
require name zone type
require_number node_count
[ "$node_count" -ge 1 ] || usage_error "--node_count=$node_count: at least 1"
[ -z "$spot" ] || [ -z "$reserved" ] || usage_error "--spot and --reserved exclude each other"
set_location "$zone" "$project"

# https://cloud.google.com/tpu/docs/runtimes, "PyTorch and JAX"
if [ -z "$runtime_version" ]; then
  case $type in
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime_version=tpu-ubuntu2204-base ;;
    tpu7x*) usage_error "--type=$type is offered on GKE alone: use run_xpk.sh" ;;
    *) usage_error "--type=$type: unknown, so its image is too; pass --runtime_version=..." ;;
  esac
fi

nodes=("--node-id=$name")
[ "$node_count" = 1 ] || nodes=("--node-count=$node_count")
run gcloud compute tpus queued-resources create "$name" "${location[@]}" \
  "--accelerator-type=$type" "--runtime-version=$runtime_version" "${nodes[@]}" \
  ${spot:+--spot} ${reserved:+--reserved} ${internal_ips:+--internal-ips} \
  ${valid_until:+"--valid-until-duration=$valid_until"} \
  ${service_account:+"--service-account=$service_account"} \
  ${network:+"--network=$network"} ${subnetwork:+"--subnetwork=$subnetwork"} ||
  fail "$type was refused in $zone; the lines above say why (quota, permission, a type that the zone lacks)"
