#!/usr/bin/env bash
# A one-node SLURM on loopback, without systemd, cgroups or accounting: tests/slurm/up.sh FOLDER
#
# Needs root, on Debian or Ubuntu; installs what is missing. Everything it writes is in FOLDER, except that
# /etc/slurm/slurm.conf becomes a link there: a job step that Snakemake starts has no SLURM_CONF in its environment.
# Exit status 3, with the reason in one line: not possible here.
set -euo pipefail
home=$(mkdir -p "${1:?folder}" && cd "$1" && pwd)
node=$(hostname -s)
cannot() { echo "$*" >&2; exit 3; }

[ "$(id -u)" = 0 ] || cannot "SLURM's daemons need root"
missing=()
for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
mkdir -p "$home"/{etc,run,log,state,spool}
chmod 755 "$home" "$home"/*/
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || cannot "SLURM is not installed (${missing[*]}), nor is apt-get to install it"
    if [ ! -e /usr/sbin/policy-rc.d ]; then # the packages start nothing by themselves
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    {
        timeout 120 apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } </dev/null >"$home/log/apt.log" 2>&1 || cannot "cannot install ${missing[*]}: $(tail -n 1 "$home/log/apt.log")"
fi
[ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ] || cannot "this machine has a SLURM of its own"
if other=$(sed -n 's/^SlurmctldPidFile=//p' /etc/slurm/slurm.conf 2>/dev/null) && [ -n "$other" ] &&
    grep -qs '^slurmctld' "/proc/$(cat "$other" 2>/dev/null)/comm"; then
    cannot "another SLURM of these tests is running here"
fi
address=$(getent ahostsv4 "$node" | awk 'NR == 1 {print $1}')
[ -n "$address" ] || { echo "127.0.0.1 $node" >>/etc/hosts && address=127.0.0.1; }
[[ $address == 127.* ]] || cannot "the name of this host, $node, is not a loopback address but $address"

# At least two processors and more memory than there is: what the profile asks for must fit. Neither is enforced.
cpus=$(nproc)
cat >"$home/etc/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$node($address)
SlurmctldPort=${SLURM_PORT:-6817}
SlurmdPort=$((${SLURM_PORT:-6817} + 1))
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$home/run/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
KillWait=2
SlurmctldTimeout=30
SlurmdTimeout=300
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=86400
EnforcePartLimits=ALL
MailProg=/bin/true
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.log
SlurmdParameters=config_overrides
OverTimeLimit=0
GresTypes=gpu
NodeName=$node NodeAddr=$address CPUs=$((cpus > 2 ? cpus : 2)) RealMemory=128000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
for i in 0 1; do # stand-ins for devices: enough to be handed out
    [ -c "$home/etc/gpu$i" ] || mknod "$home/etc/gpu$i" c 1 3
done
echo "NodeName=$node Name=gpu File=$home/etc/gpu[0-1]" >"$home/etc/gres.conf"
touch "$home/etc/plugstack.conf"
export SLURM_CONF="$home/etc/slurm.conf" # beside which the daemons look for the other files
mkdir -p /etc/slurm && ln -sfn "$home/etc/slurm.conf" /etc/slurm/slurm.conf

(umask 077 && head -c 128 /dev/urandom >"$home/etc/munge.key")
munged --key-file="$home/etc/munge.key" --socket="$home/run/munge.socket" --pid-file="$home/run/munged.pid" \
    --log-file="$home/log/munged.log" --seed-file="$home/state/munged.seed" </dev/null >/dev/null 2>&1 ||
    cannot "munged does not start: $(tail -n 1 "$home/log/munged.log")"
slurmctld -c </dev/null >"$home/log/start" 2>&1 || cannot "slurmctld does not start: $(tail -n 1 "$home/log/start")"
slurmd -N "$node" </dev/null >"$home/log/start" 2>&1 || cannot "slurmd does not start: $(tail -n 1 "$home/log/start")"
for _ in $(seq 120); do
    [ "$(sinfo -h -N -o %T 2>/dev/null | head -n 1)" != idle ] || exit 0
    sleep 0.5
done
cannot "the node is not idle after 60 seconds: $(tail -n 1 "$home/log/slurmctld.log")"
