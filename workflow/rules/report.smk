# On a cluster these run where Snakemake does: they take seconds.
localrules:
    all,
    sample,
    features,
    evaluate,
    table,
    figure,


rule table:
    """The table of all scores, and the tables of the page."""
    input:
        expand(f"{FOLDER}/metrics/{{cell}}.json", cell=list(CELLS)),
        broken_links,
    output:
        report(f"{FOLDER}/fid.csv", category="Tables"),
        report(expand(f"{FOLDER}/tables/{{table}}.csv", table=artefacts.tables(CONFIG)), category="Tables"),
        expand(f"{FOLDER}/tables/{{table}}.{{suffix}}", table=artefacts.tables(CONFIG), suffix=["md", "tex"]),
    log:
        f"logs/{CONFIG['benchmark']}/table.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/table.tsv"
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
        depends_on=benchmark.digest(CONFIG),
    shell:
        "s4s table {params.config} > {log} 2>&1"


rule figure:
    """The figures and the page, report.html."""
    input:
        f"{FOLDER}/fid.csv",
        expand(f"{FOLDER}/tables/{{table}}.md", table=artefacts.tables(CONFIG)),
        expand(f"{FOLDER}/solvers/{{cell}}.json", cell=list(CELLS)),
        expand(f"{FOLDER}/features/{{cell}}/{SHARDS[0]}.npz", cell=list(CELLS)),
        [f"{FOLDER}/paths.json"] * ("distance" in artefacts.figures(CONFIG)),
    output:
        report(expand(f"{FOLDER}/figures/{{figure}}.png", figure=artefacts.figures(CONFIG)), category="Figures"),
        expand(f"{FOLDER}/figures/{{figure}}.pdf", figure=artefacts.figures(CONFIG)),
        report(f"{FOLDER}/report.html", category="Page"),
    log:
        f"logs/{CONFIG['benchmark']}/figure.log",
    benchmark:
        f"logs/{CONFIG['benchmark']}/figure.tsv"
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
        depends_on=benchmark.digest(CONFIG),
    shell:
        "s4s figure {params.config} > {log} 2>&1"
