import time
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import RerunTrigger
from s4s.stages import artefacts, cells as asked, config as benchmark, written
from s4s.stages.chain import Chain, given as files_given
from s4s.errors import Error
from s4s.files import require_place

try:
    for path in workflow.overwrite_configfiles:
        written.read(path)  # Snakemake drops a key that stands twice
    CONFIG = benchmark.check(config)
    FOLDER = f"results/{CONFIG['benchmark']}"
    for folder in (FOLDER, "logs"):
        require_place(Path(folder))
    asked.require_files(CONFIG)
except Error as error:
    raise WorkflowError(str(error))

CELLS = {cell.name: cell for cell in asked.cells(CONFIG)}
JOBS, SCORED = asked.jobs(CONFIG), asked.jobs(CONFIG, per_nfe=asked.needs_features(CONFIG))
FEATURED = asked.jobs(CONFIG, per_nfe=not asked.quick_features(CONFIG))
OWN_FIXED = [str(cell.file) for cell in CELLS.values() if cell.file and not cell.learned]  # files of one's own
FIXED = [name for name, cell in CELLS.items() if not cell.learned]
SEARCHED = any(CELLS[name].schedule in asked.BY_NETWORK for name in FIXED)
LEARNED = [name for name, cell in CELLS.items() if cell.learned and not cell.together]
CURVES = asked.curves(CONFIG)
TARGETS = [cell.name for cell in asked.teachers(CONFIG) if "teacher" in CONFIG["score"]["metrics"]]  # compared with
SHARDS = [f"{first:06d}-{last:06d}" for first, last in asked.shards(CONFIG)]
KEEP = CONFIG["sample"]["keep_images"]
TRAINED = CONFIG["model"]["type"] == "digits"
GPU = 0 if TRAINED else 1
CHAIN = Chain(CONFIG, Path(FOLDER))
NETWORK = [f"{FOLDER}/{name}" for name in asked.network_files(CONFIG)]
SCORING = [] if TRAINED else [f"{FOLDER}/models/scoring.json"]

# The effective config, command-line changes included: what every command reads. It is no rule's input: rules name the
# part they depend on in their params, so that a changed value re-runs only what it touches.
CONFIG_FILE = f"{FOLDER}/config.yaml"


onstart:
    written.save(CONFIG, CONFIG_FILE)
    CHAIN.note(Path(CONFIG_FILE), "config", {})


def note_own_time():
    """Snakemake's own CPU time, beside the benchmark files of the jobs; one row a run."""
    path = Path(f"logs/{CONFIG['benchmark']}/snakemake.tsv")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "" if path.exists() else "cpu_time\n"
    with path.open("a") as file:
        file.write(f"{head}{time.process_time():.2f}\n")


onsuccess:
    note_own_time()


onerror:
    note_own_time()


def depends_on(stage):
    """Hash of the part of the config that a stage's result depends on."""
    return benchmark.digest(asked.made_from(CONFIG, stage))


def given(stage):
    """Hash of the files of your own that a stage reads: a model folder, prompts, a reference."""
    return benchmark.digest(files_given(CONFIG, stage))


def broken_links(wildcards):
    """A file that is written when a run starts on results that no longer follow, which nothing else may make again: after
    --touch, with --rerun-triggers mtime, or where an older file was put in place. The table, whose input it is, then
    looks at every link, and stops."""
    path = CHAIN.root / "records" / "broken.json"
    if workflow.is_main_process and workflow.executor_plugin and not (workflow.dryrun or workflow.touch):
        CHAIN.mark_broken(path)
    return [str(path)] if path.exists() else []


def renewed(wildcards):
    """No file: makes Snakemake make again, of the results it looks at, those that were made from another config or by older
    code. It sees that by itself only where its own records are: not in copied results, nor after --touch."""
    if workflow.is_main_process and not workflow.touch and RerunTrigger.PARAMS in workflow.rerun_triggers:
        workflow.dag.forcefiles.update(outdated())
    return []


@cache
def outdated():
    """Results that their records say were made from another config, or by older code."""
    return [str(path) for path in CHAIN.outdated()]


def teacher_set(wildcards):
    """Files of the teacher that a learned cell imitates."""
    cell = CELLS[wildcards.cell]
    files = asked.teacher_files(CONFIG, asked.teacher_of(CONFIG, cell.nfe, cell.settings.get("teacher_nfe")))
    return [f"{FOLDER}/{name}" for name in files]


def comparing(wildcards):
    """The network that a learned cell's distance compares by."""
    distance = asked.learned_as(CONFIG, CELLS[wildcards.cell])["distance"]
    return [f"{FOLDER}/models/perceptual.safetensors"] if "feature" in distance else []


def its_curve(wildcards):
    """The curve that a polished cell begins at."""
    cell = CELLS[wildcards.cell]
    return [f"{FOLDER}/curves/{cell.curve}.json"] if cell.polished else []


def own_file(wildcards):
    """The file of a method of one's own."""
    file = CELLS[wildcards.cell].file
    return [] if file is None else [str(file)]


def teacher_shard(wildcards):
    """Options that name a shard of a teacher's samples."""
    for cell in asked.teachers(CONFIG):
        files = asked.teacher_files(CONFIG, cell)
        if shard := files.get(f"teacher/{wildcards.part}.safetensors"):
            return f"--nfe {cell.nfe} --first {shard[0]}"
    raise WorkflowError(f"no teacher of {CONFIG['benchmark']} has a shard {wildcards.part}")


def log_of(rule, patterns):
    """Name of a job's log, with the wildcards of its cells."""
    return f"{'{kind}' if '{kind}' in patterns[0] else rule}{'_nfe{nfe}' if '{nfe}' in patterns[0] else ''}"


def cells_of(patterns):
    """Names of the cells of a job, by its wildcards."""
    return lambda wildcards: [pattern.format(**wildcards) for pattern in patterns]


def range_of(wildcards):
    """Options that name a shard of samples."""
    first, last = map(int, wildcards.shard.split("-"))
    return f"--first {first} --last {last}"


wildcard_constraints:
    network="denoiser|features|perceptual",
    cell="|".join(LEARNED) or "none",
    nfe=r"\d+",
    shard=r"\d+-\d+",
