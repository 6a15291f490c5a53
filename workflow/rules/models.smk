rule train:
    output:
        f"{FOLDER}/models/{{network}}.safetensors",
    log:
        f"logs/{CONFIG['benchmark']}/train/{{network}}.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/train/{{network}}.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    threads: 2
    params:
        config=CONFIG_FILE,
        depends_on=depends_on("train"),
    shell:
        "s4s train {params.config} {wildcards.network} > {log} 2>&1"
