# One benchmark a run: train, teacher, fit, sample, evaluate, report. Another benchmark:
#   snakemake --cores all --configfile config/digits-full.yaml
# Several, and a table over them: --configfile config/kinds.yaml
from pathlib import Path

from snakemake.utils import min_version

min_version("9.10")


# The default, of which `--config` changes values: beside this file, wherever Snakemake is called.
if not workflow.overwrite_configfiles:

    configfile: str(Path(workflow.basedir) / "config" / "digits.yaml")


include: "workflow/rules/parts.smk"


if "parts" in config:

    include: "workflow/rules/kinds.smk"

    rule all:
        """The table over several benchmarks."""
        default_target: True
        input:
            rules.kinds.output,

else:

    include: "workflow/rules/common.smk"
    include: "workflow/rules/models.smk"
    include: "workflow/rules/teacher.smk"
    include: "workflow/rules/fit.smk"
    include: "workflow/rules/sample.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/report.smk"
    include: "workflow/rules/paper.smk"

    rule all:
        """Everything: the table, the figures and the page of a benchmark."""
        default_target: True
        input:
            rules.table.output,
            rules.figure.output,
