#!/bin/bash
# A sweep on a Ray cluster of several nodes of one Slurm job, which share all cells; a node that is lost is no harm:
#
#     sbatch data/sweeps/slurm-ray.sh data/sweeps/architectures.toml runs/architectures
#
# Results and $FLATLENS_CACHE must be on a shared folder, as for slurm-array.sh.
#SBATCH --job-name=flatlens
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --time=08:00:00
set -euo pipefail

file=${1:?the sweep file}
out=${2:?the results folder}
export FLATLENS_CACHE=${FLATLENS_CACHE:-$out.models}
# Whoever has the token, and nobody else on the network, may run code on the cluster.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(hostname --ip-address | cut -d' ' -f1):6379
ray start --head --node-ip-address="${head%:*}" --port="${head##*:}" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false
trap 'ray stop' EXIT
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$SLURMD_NODENAME" \
        ray start --address="$head" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# At the time limit all of it is killed: nothing that is finished is lost, and the same command goes on from there.
flatlens sweep "$file" --out "$out" --engine ray --address "$head" --quiet
