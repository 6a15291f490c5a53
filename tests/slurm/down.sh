#!/usr/bin/env bash
# Stop what tests/slurm/up.sh FOLDER started: its jobs, then its daemons, each by its own process number.
set -uo pipefail
home=$(cd "${1:?folder}" && pwd) || exit 1

stop() { # a number may be another program's by now
    local id
    id=$(cat "$home/run/$1.pid" 2>/dev/null) && grep -qs "^$1" "/proc/$id/comm" || return 0
    kill -TERM "$id"
    for _ in $(seq 100); do
        [ -d "/proc/$id" ] && ! grep -qs '^State:[[:space:]]*Z' "/proc/$id/status" || return 0
        sleep 0.1
    done
    kill -KILL "$id"
}

if [ "$(readlink /etc/slurm/slurm.conf)" = "$home/etc/slurm.conf" ]; then
    timeout 20 scancel --user="$(id -un)"
    for _ in $(seq 20); do
        [ -n "$(timeout 5 squeue -h -t PD,R,CG 2>/dev/null)" ] || break
        sleep 0.5
    done
fi
stop slurmd
stop slurmctld
stop munged
[ "$(readlink /etc/slurm/slurm.conf)" != "$home/etc/slurm.conf" ] || rm -f /etc/slurm/slurm.conf
