"""What a schema cannot say of how a config scores: protocol, reference, metrics and samples that go together.

Nothing here imports torch: Snakemake reads this on every start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from s4s.errors import Error
from s4s.score.known import PYTORCH_FID, channels_of
from s4s.stages.cells import OF_SAMPLES, PROTOCOLS, uint8_rule

Config = Mapping[str, Any]
OF_STATISTICS = ("edm", "adm", "ld3-latent")  # protocols whose known references are files of mu and sigma
LEAST = {"fid": 2, "kid": 2, "precision-recall": 4, "classes": 20, "teacher": 2}  # samples that a metric needs
DIGITS, ENOUGH = 10, 1000  # classes of the digits; samples of which a random plan deals each class its share


def require_scored(config: Config) -> None:
    """Raise for a protocol without a reference that its metrics can use, or for samples that they cannot."""
    score = config["score"]
    known = PROTOCOLS[score["protocol"]][1]
    if "data" in score and score["data"] not in known:
        raise Error(f"score.data: protocol {score['protocol']!r} has no reference for {score['data']!r}; choose one "
                    f"of: {', '.join(known)}, or give a 'reference' of your own")  # fmt: skip
    if "data" not in score and "reference" not in score:
        raise Error(f"score: needs 'data', one of {', '.join(known)}, or a 'reference' of your own")
    if "fid" not in score["metrics"]:
        raise Error("score.metrics: fid must be among them")
    own = score.get("reference", {}).get("kind")
    if {*score["metrics"]} - {*OF_SAMPLES} and (own == "npz" or (own is None and score["protocol"] in OF_STATISTICS)):
        raise Error("score.metrics: kid and precision-recall compare with images; this reference holds statistics only")
    if score["protocol"] == "digits" and config["model"]["type"] != "digits":
        raise Error("score.protocol: digits uses a network that only model type digits trains; choose another")
    if "classes" in score["metrics"] and "classes" not in config["model"]:
        raise Error("score.metrics: classes are those that samples of the digits were asked for; set model.classes")
    if "classes" in score["metrics"] and config["model"]["type"] != "digits":
        raise Error("score.metrics: classes are told by the digits' classifier; they need model type digits")
    _require_reference(score, config["sample"]["n"])
    _require_dealt(config)
    _require_pixels(config)
    _require_seen(config)


def _require_reference(score: Mapping[str, Any], n: int) -> None:
    """A reference of one's own with settings of its kind, and enough images for every metric."""
    own = score.get("reference", {})
    for key, kind in (("resize", "folder"), ("sha256", "npz")):
        if own.get(key) is not None and own["kind"] != kind:
            raise Error(f"score.reference.{key}: it has no effect on kind {own['kind']}, only on {kind}; leave it out")
    for metric in score["metrics"]:
        for where, count in (("sample.n", n), ("score.reference.count", own.get("count", LEAST[metric]))):
            if count < LEAST[metric]:
                raise Error(f"{where}: {metric} needs at least {LEAST[metric]} samples, got {count}")


def _require_dealt(config: Config) -> None:
    """Each class of the digits is drawn often enough for a FID within it; of many samples it is."""
    model, n = config["model"], config["sample"]["n"]
    if "classes" not in config["score"]["metrics"]:
        return
    from s4s.models.plans import PLANS

    least, drawn = LEAST["classes"] // DIGITS, range(min(n, ENOUGH))
    counts = Counter(PLANS[model["classes"]](i, DIGITS, model.get("class_seed", 0)) for i in drawn)
    if few := [c for c in range(DIGITS) if counts[c] < least]:
        raise Error(f"sample.n: a FID within a class needs {least} samples, and of {n} class {few[0]} gets "
                    f"{counts[few[0]]}; ask for more samples, or set model.classes to uniform")  # fmt: skip


def _require_pixels(config: Config) -> None:
    """The extractor takes what samples are made into: floats, or 8-bit images."""
    own, protocol, rule = config["score"].get("extractor"), config["score"]["protocol"], uint8_rule(config)
    if own and channels_of(own["name"]) != 3:
        return  # registered by others
    floats = own["name"] == PYTORCH_FID if own else protocol == "ld3-latent"
    if floats != (rule == "none"):
        needs = "none: it takes floats" if floats else "edm, ldm or diffusers: it takes 8-bit images"
        raise Error(f"sample.uint8: the extractor of {own['name'] if own else protocol} needs {needs}, not {rule!r}")


def _require_seen(config: Config) -> None:
    """What is compared has the channels that its network takes, as far as the config tells; doctor knows the rest."""
    model, score = config["model"]["type"], config["score"]
    reference = score.get("reference", {})
    own = score.get("extractor", {}).get("name")
    of_digits = (own or score["protocol"]) == "digits"
    if model == "digits" and not of_digits:
        raise Error(f"score: the digits have 1 channel and the extractor of {own or score['protocol']} takes 3; use "
                    "protocol digits")  # fmt: skip
    if of_digits and reference.get("kind") == "folder":
        raise Error("score.reference: images of a folder have 3 channels, and the extractor of the digits takes 1")
    if of_digits and reference.get("kind") == "dataset" and reference["where"] != "digits":
        raise Error(f"score.reference.where: the extractor of the digits takes no images of {reference['where']!r}")
