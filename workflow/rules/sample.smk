# One job samples one shard of every cell of a group: many cells, so that a job is longer than its start.
for group, names in GROUPS.items():
    for first, last in SHARDS:

        rule:
            name:
                f"sample_{group}_{first}"
            input:
                NETWORK,
                expand(f"{FOLDER}/solvers/{{cell}}.json", cell=names),
            output:
                expand(f"{FOLDER}/samples/{{cell}}/{first:06d}-{last:06d}.npz", cell=names),
            log:
                f"logs/{CONFIG['benchmark']}/sample/{group}-{first}.log",
            benchmark:
                f"logs/{CONFIG['benchmark']}/sample/{group}-{first}.tsv"
            conda:
                "../../environment.yml"
            resources:
                gpu=GPU,
            params:
                config=CONFIG_FILE,
                cells=names,
                first=first,
                last=last,
                depends_on=depends_on("sample"),
            shell:
                "s4s sample {params.config} {params.cells} --first {params.first} --last {params.last} > {log} 2>&1"
