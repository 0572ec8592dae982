#!/usr/bin/env bash
# One verb on nodes of a Slurm cluster, a process for each GPU: sbatch deploy/slurm.sh VERB [...]
#
#   sbatch --nodes=2 deploy/slurm.sh sgeat --gin_file=my_run.gin --gin.OUTPUT_DIR=/shared/run
#
# OUTPUT_DIR lies where all nodes see it. Two minutes before the time is up Slurm sends SIGTERM: the
# verb saves the step that runs and ends with 75, and the job is queued again and goes on from there.
#SBATCH --job-name=detox-jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=detox-jax-%j.log
set -euo pipefail
[ $# -gt 0 ] || { echo "no verb: sbatch deploy/slurm.sh VERB ..." >&2; exit 2; }

status=0
# Slurm 22.05 and 23.02 give each task one CPU unless srun is told the job's number again.
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
  detox-jax "$1" --multihost "${@:2}" || status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
