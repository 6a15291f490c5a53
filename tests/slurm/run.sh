#!/usr/bin/env bash
# `make test-slurm`: start a SLURM of one node, run the tests that need it and those of broken runs, stop it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
home=$(mktemp -d)
trap 'tests/slurm/down.sh "$home" && rm -rf "$home"' EXIT
reason=$(tests/slurm/up.sh "$home" 2>&1 >/dev/null)
case $? in
0) ;;
3) echo "make test-slurm: skipped: $reason" && exit 0 ;;
*) echo "make test-slurm: tests/slurm/up.sh: $reason" >&2 && exit 1 ;;
esac
[ $# -gt 0 ] || set -- tests/workflow/test_slurm.py tests/workflow/test_faults.py
S4S_SLURM=1 OMP_NUM_THREADS=1 pytest "$@"
