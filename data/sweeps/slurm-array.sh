#!/bin/bash
# A sweep shared out among the jobs of a Slurm array, each with the cores of one node:
#
#     sbatch data/sweeps/slurm-array.sh data/sweeps/architectures.toml runs/architectures
#
# The results folder, and the models that recipes train, must be on a folder that all nodes share, and whose file locks
# hold between nodes (NFS 4, GPFS; Lustre mounted with -o flock). The same command again goes on where jobs were ended.
# To give only some jobs of the array again, keep the cut: SHARDS=8 sbatch --array=3,5 …
#SBATCH --job-name=flatlens
#SBATCH --array=1-8
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --signal=INT@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

file=${1:?the sweep file}
out=${2:?the results folder}
export FLATLENS_CACHE=${FLATLENS_CACHE:-$out.models}

# So many cells at the same time; each has an equal share of the job's cores. WORKERS=1 for one on all of them.
workers=${WORKERS:-$SLURM_CPUS_PER_TASK}

# Two minutes before the limit the signal ends the sweep in order: nothing that is finished is lost.
exec srun --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    flatlens sweep "$file" --out "$out" --workers "$workers" --quiet \
    --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
