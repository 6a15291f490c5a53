rule textbook:
    """The textbook solvers, those of the teacher among them."""
    input:
        [] if TRAINED and not SEARCHED else NETWORK,
        OWN_FIXED,
    output:
        expand(f"{FOLDER}/solvers/{{cell}}.json", cell=FIXED),
    log:
        f"logs/{CONFIG['benchmark']}/fit/textbook.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/fit/textbook.tsv"
    conda:
        "../../environment.yml"
    resources:
        gpu=GPU,
    params:
        config=CONFIG_FILE,
        cells=FIXED,
        depends_on=depends_on("textbook"),
    shell:
        "s4s fit {params.config} {params.cells} > {log} 2>&1"


rule fit:
    """One learned solver."""
    input:
        NETWORK,
        f"{FOLDER}/models/perceptual.safetensors" if "feature" in CONFIG["learned"]["distance"] else [],
        teacher_set,
        own_file,
    output:
        f"{FOLDER}/solvers/{{cell}}.json",
        f"{FOLDER}/fits/{{cell}}.json",
    log:
        f"logs/{CONFIG['benchmark']}/fit/{{cell}}.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/fit/{{cell}}.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    resources:
        gpu=GPU,
    params:
        config=CONFIG_FILE,
        depends_on=depends_on("fit"),
    shell:
        "s4s fit {params.config} {wildcards.cell} > {log} 2>&1"
