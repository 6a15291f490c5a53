# The paper's tables and figures. On the digits that is the benchmark and its ablations, a run of the pipeline of its own.
ABLATIONS = [f"{FOLDER}/ablations"] if CONFIG["benchmark"] == "digits" else []


localrules:
    paper,


if ABLATIONS:

    ABLATIONS_FILE = Path(workflow.basedir) / "config" / "ablations.yaml"
    ABLATIONS_CONFIG = benchmark.load(ABLATIONS_FILE)

    rule ablations:
        """The ablations, whole: results/ablations."""
        input:
            f"{FOLDER}/fid.csv",  # after the benchmark: both take all cores
            lambda wildcards: gone(ABLATIONS_CONFIG, ABLATIONS[0]),
        output:
            touch(ABLATIONS[0]),
        log:
            f"logs/{CONFIG['benchmark']}/ablations.log",
        benchmark:
            f"logs/{CONFIG['benchmark']}/ablations.tsv"
        conda:
            "../../environment.yml"
        threads: lambda wildcards: workflow.cores
        params:
            config=str(ABLATIONS_FILE),
            pipeline=workflow.main_snakefile,
            depends_on=benchmark.digest(several.made_from(ABLATIONS_CONFIG)),
        shell:
            "s4s run {params.config:q} -s {params.pipeline:q} --cores {threads} --nolock > {log} 2>&1"


rule paper:
    """A target: all tables and figures of the paper, of this benchmark and, on the digits, of its ablations."""
    input:
        rules.table.output,
        rules.figure.output,
        ABLATIONS,
