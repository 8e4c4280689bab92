#!/usr/bin/env bash
# GPU nodes under Slurm: `instructblip COMMAND ...` as one job with a task per GPU, as JAX expects under Slurm.
#
#   sbatch [--nodes N] [--ntasks-per-node G --gpus-per-node G] [--partition P] launch/slurm.sh COMMAND [--flags]
#   bash launch/slurm.sh --dry-run COMMAND [--flags]        print what the job would do
#
# Submit in the root of the checkout; all nodes must see it, and the workdir too. sbatch's own options go before the
# script and override the lines below; fewer tasks than GPUs share them equally. When it is preempted, or five minutes
# before its time limit, the job gets a SIGTERM, saves, is queued again and resumes.
# Settings are those of launch/worker.sh, taken from the environment in which sbatch is called.

#SBATCH --job-name=instructblip
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail
# Slurm runs a copy of this file in another directory.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
[ -e launch/say.sh ] || { echo "slurm.sh: submit it in the root of the checkout, not in $PWD" >&2 && exit 2; }
. launch/say.sh
case ${1:-} in
    --dry-run) dry=yes && shift ;;
    --help | -h) usage && exit ;;
esac
[ $# -gt 0 ] || refuse "no command; for example: sbatch launch/slurm.sh train --config configs/digits.py --workdir W"
[ -n "${SLURM_JOB_ID:-}$dry" ] || refuse "not in a Slurm job; start it with sbatch"
tasks=${SLURM_NTASKS_PER_NODE:-8} gpus=${SLURM_GPUS_ON_NODE:-8}
[ $((gpus % tasks)) = 0 ] || refuse "$gpus GPUs cannot be shared equally by the $tasks tasks of a node"

# Once for all nodes, because the environment is in the checkout. Tasks see all GPUs of a node and choose their share by
# their task number.
export EXTRA=${EXTRA-cuda}
call bash launch/worker.sh --install
step=(srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 bash launch/worker.sh "$@")
if [ -n "$dry" ]; then
    show "${step[@]}"
    echo "+ scontrol requeue \$SLURM_JOB_ID    # if it was stopped by a signal before it was done"
    exit
fi
signaled="" pid=""
trap 'signaled=yes; kill -TERM $pid 2>/dev/null || true' TERM
"${step[@]}" &
pid=$!
[ -z "$signaled" ] || kill -TERM "$pid" 2>/dev/null || true # the signal came before the step had a pid
while kill -0 "$pid" 2>/dev/null; do # not `wait`, which may miss a signal that comes as it begins
    sleep 0.5 || true
done
status=0
wait "$pid" || status=$?
# At a preemption, Slurm may signal only the tasks: 143. A job that a user cancelled is no longer RUNNING.
if { [ -n "$signaled" ] && [ $status != 0 ] || [ $status = 143 ]; } &&
    [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
    echo "slurm.sh: stopped by a signal; the job is queued again and will resume from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
