# One job scores all cells of a method; with metrics that take minutes a cell, those of one NFE.
for of, (patterns, kinds) in SCORED.items():

    rule:
        """The scores of the cells of a method."""
        name:
            f"evaluate_{of}"
        input:
            f"{FOLDER}/models/features.safetensors" if TRAINED else NETWORK,
            ancient(SCORING),
            expand(f"{FOLDER}/features/{{cell}}/{{shard}}.npz", cell=patterns, shard=SHARDS),
            expand(f"{FOLDER}/features/{{cell}}/{{shard}}.npz", cell=TARGETS, shard=SHARDS),
        output:
            expand(f"{FOLDER}/metrics/{{cell}}.json", cell=patterns),
        log:
            f"logs/{CONFIG['benchmark']}/evaluate/{log_of(of, patterns)}.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/evaluate/{log_of(of, patterns)}.tsv"
        wildcard_constraints:
            kind="|".join(kinds),
        conda:
            "../../environment.yml"
        resources:
            gpu=GPU,
        params:
            config=CONFIG_FILE,
            cells=cells_of(patterns),
            depends_on=depends_on("score"),
            given=given("score"),
        shell:
            "s4s evaluate {params.config} {params.cells} > {log} 2>&1"


rule evaluate:
    """A target: every score, for `snakemake evaluate` or `--until evaluate`."""
    input:
        expand(f"{FOLDER}/metrics/{{cell}}.json", cell=list(CELLS)),
