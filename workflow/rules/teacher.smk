rule teacher:
    input:
        f"{FOLDER}/models/denoiser.safetensors",
    output:
        f"{FOLDER}/teacher/pairs.safetensors",
    log:
        f"logs/{CONFIG['benchmark']}/teacher.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/teacher.tsv"
    priority: 90
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
        depends_on=depends_on("teacher"),
    shell:
        "s4s teacher {params.config} > {log} 2>&1"
