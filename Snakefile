# One benchmark a run: train, teacher, fit, sample, evaluate, report. Another benchmark:
#   snakemake --cores all --configfile config/digits-full.yaml
from snakemake.utils import min_version

min_version("9.10")


if not config:

    configfile: "config/digits.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/fit.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{FOLDER}/report.html",
        f"{FOLDER}/fid.csv",
