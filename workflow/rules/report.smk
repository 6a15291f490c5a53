# On a cluster these run where Snakemake does: they take seconds.
localrules:
    all,
    table,
    figure,


rule table:
    input:
        expand(f"{FOLDER}/metrics/{{cell}}.json", cell=list(CELLS)),
    output:
        f"{FOLDER}/fid.csv",
        expand(
            f"{FOLDER}/tables/{{table}}.{{suffix}}",
            table=["fid", "summary"],
            suffix=["csv", "md", "tex"],
        ),
    log:
        f"logs/{CONFIG['benchmark']}/table.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/table.tsv"
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
    shell:
        "s4s table {params.config} > {log} 2>&1"


rule figure:
    input:
        f"{FOLDER}/fid.csv",
        expand(f"{FOLDER}/tables/{{table}}.md", table=["fid", "summary"]),
        expand(f"{FOLDER}/solvers/{{cell}}.json", cell=list(CELLS)),
        expand(f"{FOLDER}/features/{{cell}}/{SHARDS[0]}.npz", cell=list(CELLS)),
    output:
        f"{FOLDER}/figures/fid_vs_nfe.png",
        f"{FOLDER}/report.html",
    log:
        f"logs/{CONFIG['benchmark']}/figure.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/figure.tsv"
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
    shell:
        "s4s figure {params.config} > {log} 2>&1"
