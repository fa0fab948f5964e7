#!/bin/bash
# Slurm with two made-up nodes on this machine, to try ray-job.sbatch without a cluster:
#
#   apt-get install --no-install-recommends slurm-wlm slurmctld slurmd slurm-client munge
#   cluster/slurm/local-slurm.sh start DIR      (DIR: new, not on a network disk)
#   export SLURM_CONF=DIR/slurm.conf
#   sbatch --wait --nodes=2 cluster/slurm/ray-job.sbatch JOB.toml
#   cluster/slurm/local-slurm.sh stop DIR
#
# Everything is in DIR: its own munge key and socket, ports, state and logs. Debian 12, as root.
set -euo pipefail

die() {
  echo "error: $*" >&2
  exit 1
}

[[ $# -eq 2 && $1 =~ ^(start|stop)$ ]] || die "expected: $0 start|stop DIR"
PATH=$PATH:/usr/sbin:/sbin

stop() {
  local pid
  for file in slurmd-n1 slurmd-n2 slurmctld munged; do
    [[ -f $1/$file.pid ]] || continue
    pid=$(<"$1/$file.pid")
    kill "$pid" 2>/dev/null || true
    for _ in {1..100}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    rm -f "$1/$file.pid"
  done
}

if [[ $1 == stop ]]; then
  stop "$2"
  exit
fi

for command in munged slurmctld slurmd sinfo; do
  command -v "$command" >/dev/null || die "found no $command: install the packages named in $0"
done
[[ ! -e $2/slurm.conf ]] || die "$2 was started before: stop it and give a new folder"
mkdir -p "$2"
dir=$(cd "$2" && pwd)
chmod 755 "$dir"
mkdir "$dir/state" "$dir/log"
trap 'stop "$dir"' ERR
user=$(id -un)
host=$(hostname -s)
port=${SLURM_FIRST_PORT:-16817}
# A node that promises more than the machine has is drained by Slurm.
cpus=$(($(nproc) < 2 ? 1 : 2))
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.4) }' /proc/meminfo)

(umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
munged --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"

cat >"$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$port
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -N n1 -f "$SLURM_CONF"
slurmd -N n2 -f "$SLURM_CONF"
for _ in {1..150}; do
  if [[ $(sinfo --noheader --format=%D --states=idle 2>/dev/null) == 2 ]]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit
  fi
  sleep 0.2
done
tail -n 5 "$dir"/log/*.log >&2
stop "$dir"
die "the two nodes did not come up in 30 s: see above"
