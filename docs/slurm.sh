#!/bin/bash
# Trains on several machines under Slurm, and goes on by itself after the time limit, a preemption
# or the loss of a machine. Copy it, set what stands in #SBATCH for your cluster, and submit it:
#
#     sbatch slurm.sh configs/nuclei.yaml runs/nuclei [KEY VALUE ...]
#
# The configuration, the data and the output folder must be reachable from every machine by the
# same paths. docs/distributed.md explains the parts.

#SBATCH --job-name=detengine
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1     # one torchrun to a machine; it starts a rank for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180     # three minutes before the end, this script is told
#SBATCH --requeue               # after the loss of a machine Slurm starts the job again
#SBATCH --open-mode=append

set -u
config=${1:?usage: sbatch slurm.sh CONFIG OUTPUT_DIR [KEY VALUE ...]}
output=${2:?usage: sbatch slurm.sh CONFIG OUTPUT_DIR [KEY VALUE ...]}
shift 2

# torchrun's rendezvous is kept by the first machine, at a port that no other job has.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RENDEZVOUS="$first:$((20000 + SLURM_JOB_ID % 20000))"
export ATTEMPT="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"

# How long torchrun lets its ranks finish their step and save, once it was told to stop. Without
# this it kills them after 30 seconds; a run that is killed goes on from its last checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120

# srun hands SIGTERM on to every torchrun, and torchrun to its ranks, which save and end.
stopped=
stop() {
    stopped=yes
    kill -TERM "$step"
}
trap stop USR1

# Names of machines need not be what the machines call themselves, so each is told whether it is
# the first. --max-restarts is for ranks that die; no SOLVER.TIME_LIMIT beside it (see the page).
srun bash -c '
    exec torchrun \
        --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${RANKS_PER_NODE:-gpu}" \
        --max-restarts=3 \
        --rdzv-backend=c10d --rdzv-endpoint="$RENDEZVOUS" --rdzv-id="$ATTEMPT" \
        --rdzv-conf="is_host=$([ "$SLURM_NODEID" = 0 ] && echo true || echo false)" \
        -m detengine train "$@"
' torchrun -c "$config" --resume --output-dir "$output" "$@" &
step=$!

wait "$step"
code=$?
if [ -n "$stopped" ]; then
    wait "$step" # the trap interrupted the first one
    code=$?
fi

# torchrun ends with 1 whether its ranks failed or stopped; that we asked for it tells them apart.
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
