# One job samples one shard of a method at an NFE: many cells, so that a job is longer than its start. Without
# `keep_images` nothing is sampled here: the features' jobs make the images and keep only what is asked of them.
for of, (patterns, kinds) in JOBS.items():

    if KEEP:

        rule:
            """A part of the images of the cells of a method."""
            name:
                f"sample_{of}"
            input:
                NETWORK,
                expand(f"{FOLDER}/solvers/{{cell}}.json", cell=patterns),
            output:
                expand(f"{FOLDER}/samples/{{cell}}/{{{{shard}}}}.npz", cell=patterns),
            log:
                f"logs/{CONFIG['benchmark']}/sample/{log_of(of, patterns)}-{{shard}}.log",
            benchmark:
                f"logs/{CONFIG['benchmark']}/sample/{log_of(of, patterns)}-{{shard}}.tsv"
            wildcard_constraints:
                kind="|".join(kinds),
            conda:
                "../../environment.yml"
            resources:
                gpu=GPU,
            params:
                config=CONFIG_FILE,
                cells=cells_of(patterns),
                range=range_of,
                depends_on=depends_on("sample"),
            shell:
                "s4s sample {params.config} {params.cells} {params.range} > {log} 2>&1"


# Those of the digits take less than a job's start: one job takes them at all NFE.
for of, (patterns, kinds) in FEATURED.items():

    rule:
        """The features of a part of the images of the cells of a method."""
        name:
            f"features_{of}"
        input:
            NETWORK,
            ancient(SCORING),
            f"{FOLDER}/models/features.safetensors" if TRAINED else [],
            expand(f"{FOLDER}/solvers/{{cell}}.json", cell=patterns),
            expand(f"{FOLDER}/samples/{{cell}}/{{{{shard}}}}.npz", cell=patterns) if KEEP else [],
        output:
            expand(f"{FOLDER}/features/{{cell}}/{{{{shard}}}}.npz", cell=patterns),
        log:
            f"logs/{CONFIG['benchmark']}/features/{log_of(of, patterns)}-{{shard}}.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/features/{log_of(of, patterns)}-{{shard}}.tsv"
        wildcard_constraints:
            kind="|".join(kinds),
        conda:
            "../../environment.yml"
        resources:
            gpu=GPU,
        params:
            config=CONFIG_FILE,
            cells=cells_of(patterns),
            range=range_of,
            depends_on=depends_on("features"),
        shell:
            "s4s features {params.config} {params.cells} {params.range} > {log} 2>&1"


rule sample:
    """A target: every image, for `snakemake sample` or `--until sample`."""
    input:
        expand(
            f"{FOLDER}/{'samples' if KEEP else 'features'}/{{cell}}/{{shard}}.npz",
            cell=list(CELLS),
            shard=SHARDS,
        ),


rule features:
    """A target: the features of every image, for `snakemake features` or `--until features`."""
    input:
        expand(f"{FOLDER}/features/{{cell}}/{{shard}}.npz", cell=list(CELLS), shard=SHARDS),


rule paths:
    """The distance of every solver's states to the teacher's, step by step."""
    input:
        NETWORK,
        expand(f"{FOLDER}/solvers/{{cell}}.json", cell=list(CELLS)),
    output:
        f"{FOLDER}/paths.json",
    log:
        f"logs/{CONFIG['benchmark']}/paths.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/paths.tsv"
    conda:
        "../../environment.yml"
    resources:
        gpu=GPU,
    params:
        config=CONFIG_FILE,
        depends_on=benchmark.digest(CONFIG),
    shell:
        "s4s paths {params.config} > {log} 2>&1"
