# One job makes one shard of a teacher's samples; digits, as most models, has one teacher.
rule teacher:
    """What the teacher makes of its noises: what solvers are fitted to."""
    input:
        NETWORK,
    output:
        f"{FOLDER}/teacher/{{part}}.safetensors",
    log:
        f"logs/{CONFIG['benchmark']}/teacher/{{part}}.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/teacher/{{part}}.tsv"
    priority: 90
    conda:
        "../../environment.yml"
    resources:
        gpu=GPU,
    params:
        config=CONFIG_FILE,
        shard=teacher_shard,
        depends_on=depends_on("teacher"),
    shell:
        "s4s teacher {params.config} {params.shard} > {log} 2>&1"
