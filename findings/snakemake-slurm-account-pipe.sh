#!/usr/bin/env bash
# snakemake-executor-plugin-slurm 2.8.0 (snakemake 9.27.1): the account is guessed with a pipe that is never one, and
# --slurm-no-account, which should turn the guess off, changes nothing.
#
# Expected: without slurm_account the plugin asks sacct for the user's last account and takes it; with --slurm-no-account it
# does not ask.
# Seen: the command line is written with "| tail -1" and run without a shell: sacct itself is called with the arguments "|",
# "tail" and "-1", and refuses them. The guess cannot succeed on any cluster, so each run warns "Unable to guess SLURM
# account". With --slurm-no-account the same call is made and the same warning printed.
#
# No SLURM is needed: programs of SLURM's names that write down their arguments stand in for it, and sacct answers an
# option -1 as the real one does. sbatch refuses, so the run ends there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile snakemake==9.27.1 \
    snakemake-executor-plugin-slurm==2.8.0 snakemake-executor-plugin-slurm-jobstep==0.6.1
mkdir "$folder/slurm"
for name in sbatch squeue scontrol sinfo sacctmgr sshare scancel; do
    printf '#!/bin/sh\nexit 1\n' > "$folder/slurm/$name"
done
cat > "$folder/slurm/sacct" <<'SACCT'
#!/bin/sh
for word in "$@"; do printf '<%s> ' "$word"; done >> "$CALLS"
echo >> "$CALLS"
for word in "$@"; do test "$word" != -1 || { echo "sacct: invalid option -- '1'" >&2; exit 1; }; done
echo "  our_group"
SACCT
chmod +x "$folder"/slurm/*
export PATH="$folder/slurm:$folder/venv/bin:$PATH" HOME="$folder" XDG_CACHE_HOME="$folder/cache"
cd "$folder"
printf 'rule a:\n    output: "a.txt"\n    shell: "touch {output}"\n' > Snakefile
submit() {
    export CALLS="$folder/calls-$1"
    timeout 300 snakemake --executor slurm --jobs 1 --nocolor --default-resources slurm_partition=short \
        --slurm-status-command squeue "${@:2}" > "$1.log" 2>&1 || true
    echo "$1: sacct was called with $(grep -m1 tail "$CALLS" | sed "s/<$(id -un)>/<user>/")"
    grep -h "account" "$1.log" | sed 's/^/    /'
    grep -q '<|> <tail> <-1>' "$CALLS"
    grep -q "Unable to guess SLURM account" "$1.log"
}
echo "snakemake $(snakemake --version), executor plugin slurm 2.8.0"
submit plain
submit no-account --slurm-no-account
echo "stands: a pipe is passed as arguments, and the switch against it does nothing"
