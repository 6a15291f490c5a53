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
        [f"{FOLDER}/samples/{name}/{first:06d}-{last:06d}.npz" for name in CELLS for first, last in SHARDS[:1]],
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
