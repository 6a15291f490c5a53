#!/usr/bin/env bash
# snakemake 9.27.1: --list-params-changes lists files whose parameters did not change; the usual
# `snakemake -R $(snakemake --list-params-changes)` then makes everything anew.
#
# Expected: a workflow that is up to date lists nothing; after a change of one rule's params, that rule's file.
# Seen: every file of every job is listed, before a change and after, although a dry run says "Nothing to be done" and, after
# the change, names the one job concerned. Its siblings --list-code-changes and --list-input-changes list nothing, as
# they should.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile snakemake==9.27.1
export PATH="$folder/venv/bin:$PATH" HOME="$folder" XDG_CACHE_HOME="$folder/cache"
cd "$folder"
write() {
    cat > Snakefile <<SNAKEFILE
rule all:
    input: "a.txt", "b.txt", "c.txt"
rule a:
    output: "a.txt"
    params: $1
    shell: "echo {params} > {output}"
rule b:
    output: "b.txt"
    params: 1
    shell: "echo {params} > {output}"
rule c:
    output: "c.txt"
    shell: "echo done > {output}"
SNAKEFILE
}
listed() { snakemake "--list-$1-changes" 2>/dev/null | tr '\n' ' '; }
to_do() { snakemake --dry-run --nocolor 2>&1 | grep -c '^rule [abc]:' || true; }

echo "snakemake $(snakemake --version)"
write 1
snakemake --cores 1 --quiet all
fresh=$(listed params) code=$(listed code) input=$(listed input) due=$(to_do)
echo "up to date ($due jobs due): params changes: ${fresh:-none}; code changes: ${code:-none}; input changes: ${input:-none}"
write 2
changed=$(listed params) due_then=$(to_do)
echo "params of rule a changed ($due_then job due): params changes: $changed"
test "$due" = 0 && test "$due_then" = 1
test -z "$code$input"
test "$(tr ' ' '\n' <<< "$fresh" | sort | xargs)" = "a.txt b.txt c.txt"
test "$(tr ' ' '\n' <<< "$changed" | sort | xargs)" = "a.txt b.txt c.txt"
# shellcheck disable=SC2086 # a list of files, as that command has it
again=$(snakemake --dry-run --nocolor -R $changed 2>&1 | grep -c '^rule [abc]:')
echo "snakemake -R \$(snakemake --list-params-changes) would run $again of 3 jobs"
test "$again" = 3
echo "stands: files without a change are listed, even one whose rule has no params"
