# The paper's tables and figures. On the digits that is the benchmark and its ablations, a run of the pipeline of its own.
ABLATIONS = [f"{FOLDER}/ablations"] if CONFIG["benchmark"] == "digits" else []


localrules:
    paper,


if ABLATIONS:

    rule ablations:
        """The ablations, whole: results/ablations."""
        input:
            f"{FOLDER}/fid.csv",  # after the benchmark: both take all cores
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
            config=str(Path(workflow.basedir) / "config" / "ablations.yaml"),
            pipeline=workflow.main_snakefile,
            depends_on=benchmark.digest(written.read(Path(workflow.basedir) / "config" / "ablations.yaml")),
        shell:
            "s4s run {params.config} -s {params.pipeline} --cores {threads} --nolock > {log} 2>&1"


rule paper:
    """A target: all tables and figures of the paper, of this benchmark and, on the digits, of its ablations."""
    input:
        f"{FOLDER}/report.html",
        f"{FOLDER}/fid.csv",
        ABLATIONS,
