#!/usr/bin/env bash
# A Ray cluster in one Slurm allocation, and the pipeline on it: sbatch slurm.sh [job.py] [key.sub=value ...]
# Preset 7b. Written by `python -m cluster.manifests`; yours: partition, account.
#SBATCH --job-name=ilm-7b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Five minutes before the end of its time the job is asked to stop: training saves a checkpoint. Submit it again then.
#SBATCH --signal=B:TERM@300
#SBATCH --gpus-per-node=8
set -euo pipefail

job=${1:-pipeline.py}
[ $# -eq 0 ] || shift
run_dir=/runs/7b
port=6379 dashboard=8265
cd /opt/ilm_ray
export PATH="/opt/ilm_ray/.venv/bin:$PATH" OMP_NUM_THREADS=1 NCCL_DEBUG=WARN RAY_TRAIN_ENABLE_STATE_TRACKING=1 RAY_JOB_STOP_WAIT_TIME_S=180
# An RDMA adapter reads and writes memory that must not be swapped: allow as much as the node does.
ulimit -l "$(ulimit -H -l)"

# A token for this allocation, readable by you alone, on storage that all nodes see.
umask 077
mkdir -p "$run_dir"
token=$run_dir/.ray-token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex(32))' > "$token"
trap 'rm -f "$token"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{ print $1 }')
srun --nodes=1 --ntasks=1 --overlap -w "$head" ray start --head --block --node-ip-address="$address" --port="$port" \
    --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --metrics-export-port=8080 --num-cpus=8 &
for _ in $(seq 60); do
    ray status --address "$address:$port" > /dev/null 2>&1 && break
    sleep 2
done
if [ ${#nodes[@]} -gt 1 ]; then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap -w "$others" \
        ray start --block --address="$address:$port" --metrics-export-port=8080 --num-cpus=8 &
fi

# The batch script runs on the first node, where the dashboard listens.
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
id=ilm-$SLURM_JOB_ID
trap 'ray job stop "$id" || true' TERM
ray job submit --submission-id "$id" --no-wait -- python "jobs/$job" --preset 7b --run-dir "$run_dir" "$@"
ray job logs --follow "$id" &
wait $! || true
ray job status "$id"
