for group, names in GROUPS.items():

    rule:
        name:
            f"evaluate_{group}"
        input:
            f"{FOLDER}/models/features.safetensors" if TRAINED else NETWORK,
            [f"{FOLDER}/samples/{name}/{first:06d}-{last:06d}.npz" for name in names for first, last in SHARDS],
        output:
            expand(f"{FOLDER}/metrics/{{cell}}.json", cell=names),
        log:
            f"logs/{CONFIG['benchmark']}/evaluate/{group}.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/evaluate/{group}.tsv"
        conda:
            "../../environment.yml"
        resources:
            gpu=GPU,
        params:
            config=CONFIG_FILE,
            cells=names,
            depends_on=depends_on("score"),
        shell:
            "s4s evaluate {params.config} {params.cells} > {log} 2>&1"
