#!/usr/bin/env bash
# snakemake 9.27.1: the end of any run removes the locks of every other run in the folder.
#
# Expected: while a run makes slow.txt, no other run may make it: "LockException ... another Snakemake process is trying to
# create the same files". A run of other targets is let in, as it should be, and touches only its own lock.
# Seen: true until that other run ends. It deletes the whole folder of locks, so from then on a second run of slow.txt is let
# in while the first is still at it, and its job is started a second time.
#
# The slow job waits for a file rather than a time, so the order of events does not depend on the speed of the machine.
set -euo pipefail
folder=$(mktemp -d)
slow=
trap 'touch "$folder/go"; test -z "$slow" || wait "$slow" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile snakemake==9.27.1
export PATH="$folder/venv/bin:$PATH" HOME="$folder" XDG_CACHE_HOME="$folder/cache"
cd "$folder"
cat > Snakefile <<'SNAKEFILE'
rule slow:
    output: "slow.txt"
    shell: "echo $$ >> started; for i in {{1..1200}}; do test -e go && break; sleep 0.1; done; echo done > {output}"
rule quick:
    output: "quick.txt"
    shell: "echo done > {output}"
SNAKEFILE
run() { snakemake --cores 1 --nocolor "$1" > "$2.log" 2>&1; }
lines() { wc -l < started; }
wait_for() { for _ in {1..600}; do eval "$1" && return; sleep 0.1; done; echo "waited in vain for: $1"; cat ./*.log; exit 1; }

echo "snakemake $(snakemake --version)"
run slow.txt first & slow=$!
wait_for 'test -e started'
! run slow.txt second
grep -q LockException second.log
echo "1. slow.txt is being made; a second run of it is refused with a LockException: right"
run quick.txt third
echo "2. a run of quick.txt is let in and ends; locks left: $(find .snakemake/locks -type f 2>/dev/null | wc -l)"
run slow.txt fourth & fourth=$!
wait_for 'test "$(lines)" = 2 || ! kill -0 $fourth'
echo "3. a second run of slow.txt now: the job was started $(lines) times, while its first run (process $(head -1 started)) goes on"
started=$(lines)
kill -0 "$(head -1 started)"
touch go
wait "$slow" "$fourth" || true
slow=
test "$started" = 2
echo "stands: one run's end let two runs write the same file"
