if TRAINED:

    rule train:
        """One of the networks of the digits."""
        input:
            renewed,
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

else:

    # What it fetches stays in the cache directory; by hand, or without a network: `s4s download --offline CONFIG`.
    rule download:
        """The network: weights and prompts, and LPIPS where fits compare by it."""
        input:
            renewed,
        output:
            NETWORK,
        log:
            f"logs/{CONFIG['benchmark']}/download.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/download.tsv"
        priority: 100
        conda:
            "../../environment.yml"
        params:
            config=CONFIG_FILE,
            depends_on=depends_on("train"),
            given=given("train"),
        shell:
            "s4s download {params.config} --part network > {log} 2>&1"

    rule download_scoring:
        """What samples are scored with, which fits do without: feature extractor and reference."""
        input:
            NETWORK,
        output:
            SCORING,
        log:
            f"logs/{CONFIG['benchmark']}/download_scoring.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/download_scoring.tsv"
        priority: 100
        conda:
            "../../environment.yml"
        params:
            config=CONFIG_FILE,
            depends_on=depends_on("score"),
        shell:
            "s4s download {params.config} --part scoring > {log} 2>&1"
