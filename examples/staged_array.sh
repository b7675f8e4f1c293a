#!/bin/bash
# The job script of staged_array.py. Arguments: the command of a task.
#SBATCH --array=0-199
#SBATCH --output=%a.log

export ANA_PICKLE_DIR=$PWD/pickles ANA_STATS=$PWD/counts
# On the node's own disk.
export ANA_STAGED=${LOCAL_SCRATCH:-${TMPDIR:-/tmp}}/sweep-$SLURM_ARRAY_JOB_ID-$SLURMD_NODENAME.ana

# The first task on a node copies the file, the others wait for it.
flock "$ANA_STAGED.lock" sh -c \
    'test -e "$1" || (cp "$0" "$1.part" && mv "$1.part" "$1")' sweep.ana "$ANA_STAGED"

exec "$@" "$SLURM_ARRAY_TASK_ID"
