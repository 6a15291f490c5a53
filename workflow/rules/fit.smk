rule textbook:
    """The textbook solvers, those of the teacher among them."""
    input:
        [] if TRAINED and not SEARCHED else NETWORK,
        OWN_FIXED,
        renewed,
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
        comparing,
        teacher_set,
        own_file,
        its_curve,
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


# One job fits a curve and writes the solvers of all its cells.
for of, members in CURVES.items():

    rule:
        """One fit for all numbers of evaluations."""
        name:
            f"fit_{of.replace('-', '_')}"
        input:
            NETWORK,
            f"{FOLDER}/models/perceptual.safetensors" if "feature" in CONFIG["learned"]["distance"] else [],
            [f"{FOLDER}/{name}" for name in asked.teacher_files(CONFIG, asked.teacher_of(CONFIG, members[0].nfe))],
        output:
            f"{FOLDER}/curves/{of}.json",
            expand(f"{FOLDER}/solvers/{{cell}}.json", cell=[cell.name for cell in members]),
            expand(f"{FOLDER}/fits/{{cell}}.json", cell=[cell.name for cell in members]),
        log:
            f"logs/{CONFIG['benchmark']}/fit/{of}.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/fit/{of}.tsv"
        priority: 50
        conda:
            "../../environment.yml"
        resources:
            gpu=GPU,
        params:
            config=CONFIG_FILE,
            cells=[cell.name for cell in members],
            depends_on=depends_on("curve"),
        shell:
            "s4s fit {params.config} {params.cells} > {log} 2>&1"
