# Several benchmarks, one after the other, and a table over all of them: what config/kinds.yaml asks for.
from snakemake.exceptions import WorkflowError
from s4s.errors import Error
from s4s.stages import config as benchmark, written

try:
    PARTS = {part["benchmark"]: part for part in several.parts(config, several.place(workflow.overwrite_configfiles))}
except Error as error:
    raise WorkflowError(str(error))

FOLDER = f"results/{config['benchmark']}"


onstart:
    for name, part in PARTS.items():
        written.save(part, f"{FOLDER}/configs/{name}.yaml")


wildcard_constraints:
    part="|".join(PARTS),


rule part:
    """One of the benchmarks, whole: a run of the pipeline of its own."""
    input:
        lambda wildcards: gone(PARTS[wildcards.part], f"{FOLDER}/parts/{wildcards.part}"),
    output:
        touch(f"{FOLDER}/parts/{{part}}"),
    log:
        f"logs/{config['benchmark']}/{{part}}.log",
    benchmark:
        f"logs/{config['benchmark']}/{{part}}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: workflow.cores
    params:
        config=f"{FOLDER}/configs/{{part}}.yaml",
        pipeline=workflow.main_snakefile,
        depends_on=lambda wildcards: benchmark.digest(several.made_from(PARTS[wildcards.part])),
    shell:
        "s4s run {params.config} -s {params.pipeline:q} --cores {threads} --nolock > {log} 2>&1"


rule kinds:
    """The table over all of them."""
    input:
        expand(f"{FOLDER}/parts/{{part}}", part=PARTS),
    output:
        report(f"{FOLDER}/kinds.csv", category="Tables"),
        expand(f"{FOLDER}/kinds.{{suffix}}", suffix=["md", "tex"]),
    log:
        f"logs/{config['benchmark']}/kinds.log",
    benchmark:
        f"logs/{config['benchmark']}/kinds.tsv"
    conda:
        "../../environment.yml"
    params:
        folders=[f"results/{part}" for part in PARTS],
        folder=FOLDER,
    shell:
        "s4s kinds {params.folders} --out {params.folder} > {log} 2>&1"
