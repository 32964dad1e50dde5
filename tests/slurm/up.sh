#!/usr/bin/env bash
# A real Slurm of two nodes (8 CPUs, 16 GB and 2 GPUs each, all of it pretended) on this host, for tests.
# Usage: up.sh STATE_DIR, as root. Needs Debian's slurmctld, slurmd, slurm-client and munge; down.sh STATE_DIR stops it.
# Waits are short, so that tests are: a job that ignores SIGTERM is killed after 5 s (KillWait), and a node whose slurmd is gone
# is down after 10 s (SlurmdTimeout). A requeued job waits two minutes all the same, unless `scontrol update` gives it another
# StartTime. Partition `urgent` preempts `gpu`.
set -euo pipefail
state=${1:?usage: up.sh STATE_DIR}
mkdir -p "$state"/{controller,nodes/gpu1,nodes/gpu2,log}
state=$(cd "$state" && pwd)
host=$(hostname -s)
port=${BASE_PORT:-16817}  # two of these clusters may run side by side, with three ports each

# munge: the clients' and daemons' common secret
mkdir -p /run/munge /var/lib/munge /var/log/munge /etc/munge
chown munge: /run/munge /var/lib/munge /var/log/munge /etc/munge
chmod 755 /run/munge
if [ ! -s /etc/munge/munge.key ]; then
    dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
    chown munge: /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
fi
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged --pid-file=/run/munge/munged.pid

# gres wants character devices: four copies of null
for gpu in 0 1 2 3; do [ -e "$state/gpu$gpu" ] || mknod "$state/gpu$gpu" c 1 3; done

cat > "$state/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/nodes/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.%n.log
SlurmctldPort=$port
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,defer_batch=0,preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
GresTypes=gpu
ReturnToService=2
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
MaxJobCount=20000
MinJobAge=300
KillWait=5
SlurmdTimeout=10
SlurmdParameters=config_overrides
NodeName=gpu[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=8 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime=2
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
CONF
cat > "$state/gres.conf" <<CONF
NodeName=gpu1 Name=gpu Flags=nvidia_gpu_env File=$state/gpu[0-1]
NodeName=gpu2 Name=gpu Flags=nvidia_gpu_env File=$state/gpu[2-3]
CONF

export SLURM_CONF="$state/slurm.conf"
/usr/sbin/slurmctld -f "$SLURM_CONF"
for node in gpu1 gpu2; do /usr/sbin/slurmd -f "$SLURM_CONF" -N $node; done
for _ in $(seq 60); do
    if [ "$(sinfo -h -p gpu -o %T 2>/dev/null | sort -u)" = idle ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
echo "the nodes did not become idle; see $state/log" >&2
sinfo -N -l >&2
exit 1
