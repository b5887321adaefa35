"""The folder of a ticket as the Hugging Face Hub shows it: model card and config.

The card is made of what the run recorded. Accuracies are stated only where the ticket
is of the step that they were measured at.
"""

import json
import os
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from iterand_jax.runtime.files import read_own
from iterand_jax.tickets.hub import FILE, SCHEME
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import provenance, pruning, saved
from iterand_jax.trees import leaves_of

CARD, CONFIG, CURVES = "README.md", "config.json", "curves.png"
FILES = (FILE, CARD, CONFIG, CURVES)
"""What a folder for the Hub has; the curves of a run that was drawn."""

DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "imagenet2012": "ILSVRC/imagenet-1k",
    "imdb_reviews": "stanfordnlp/imdb",
}
"""Datasets by the names that the Hub has for them."""

OF_RUN = (
    *("dataset", "dataset_fingerprint", "dataset_official", "seed", "epochs", "steps"),
    *("test_accuracy", "test_loss", "test_examples", "sparsity_achieved"),
    *("parameters", "parameters_kept", "precision", "generator", "state_sha256"),
    *("versions", "commit", "device"),
)
"""The fields of a result that a config.json repeats: none has a path."""


OF_MASKS = ("pruning", "sparsity", "lottery-ticket")
"""Tags of a network that has masks."""

_PRINTED: Mapping[str, Any] = {
    "seed": int,
    "test_accuracy": (int, float),
    "device": str,
    "commit": str,
    "versions": dict,
}
"""The fields of a result that a card prints, and that `saved` does not check."""


class Measured(NamedTuple):
    """What was measured of a ticket.

    Attributes:
      result: of the run; {} where it is not finished, or at another step.
      accuracies: on the test set by seed, in %; of all replicas if there are several.
      curves: the picture of the run, a PNG; None where there is none.
      trains_weights: whether the method does.
    """

    result: Mapping[str, Any]
    accuracies: Mapping[int, float]
    curves: bytes | None
    trains_weights: bool = False


def measured(workdir: Path, step: int) -> Measured:
    """What a run's folder says of its ticket of a step.

    Raises:
      ValueError: a result that is damaged, or a picture that is no regular file.
    """
    curves, picture = workdir / CURVES, None
    if os.path.lexists(curves):
        picture = read_own(curves, saved.MOST_BYTES)
    if not (workdir / "result.json").exists():
        return Measured({}, {}, picture)
    result = saved.read_result(workdir / "result.json")
    if result.get("steps") != step:
        return Measured({}, {}, picture)
    saved.check_fields(workdir / "result.json", "", result, _PRINTED)
    results = {"": result}
    siblings = workdir.resolve().parent / "result.json"
    if re.fullmatch(r"seed_\d+", workdir.resolve().name) and siblings.exists():
        results = saved.read_result(siblings).get("replicas", results)
        for one in results.values():
            saved.check_fields(siblings, "", one, {"seed": int})
    accuracies = {one["seed"]: one["test_accuracy"] for one in results.values()}
    return Measured(result, accuracies, picture)


def config(ticket: Ticket, about: Measured) -> dict[str, Any]:
    """The content of config.json: the ticket's description, and what was measured."""
    described = ticket.description.to_json()
    if described["draws"] is not None:
        described["draws"].pop("fan_ins", None)  # of each leaf: the ticket has them
    return {
        "library_name": "iterand_jax",
        "ticket": FILE,
        **described,
        "result": {k: about.result[k] for k in OF_RUN if k in about.result},
        "test_accuracies": about.accuracies,
        "exported_with": provenance.versions(),
    }


def card(ticket: Ticket, about: Measured, size: int, repo: str | None) -> str:
    """The model card: metadata in YAML (written as JSON, which is YAML), and text.

    Args:
      ticket: that it describes.
      about: what was measured of it.
      size: bytes of its file.
      repo: user/repo where it is published, None where that is not known.
    """
    run, name = ticket.description.run, _name(ticket)
    fields: dict[str, Any] = {
        "library_name": "iterand_jax",
        "license": "apache-2.0",
        "tags": [
            "jax",
            "flax",
            *(OF_MASKS if leaves_of(ticket.masks) else ()),
            run["method"],
        ],
        "datasets": [DATASETS.get(run["dataset"], run["dataset"])],
        "metrics": ["accuracy"],
    }
    if about.accuracies:
        fields["model-index"] = [{"name": name, "results": [_evaluated(run, about)]}]
    header = "".join(f"{key}: {json.dumps(field)}\n" for key, field in fields.items())
    path = f"{SCHEME}{repo}" if repo else FILE
    inputs = "*ticket.tokenize(texts)" if ticket.words else "inputs"
    if ticket.description.mean is not None:
        inputs = "images"
    lines = [
        f"---\n{header}---\n\n# {name}\n",
        f"{_what(ticket, about)}, as a ticket of iterand_jax.\n",
        f"```python\nimport iterand_jax\n\nticket = iterand_jax.load_ticket({path!r})\n"
        f"logits = ticket.apply({inputs})\n```\n".replace("'", '"'),
    ]
    if ":" in ticket.description.network["name"]:
        lines.append(
            "Its network is code that is not in the ticket: import it first.\n"
        )
    if about.curves is not None:
        lines.append(f"![Loss and accuracy of the run]({CURVES})\n")
    lines.append("| | |\n|---|---|")
    lines += [f"| {key} | {text} |" for key, text in _rows(ticket, about, size).items()]
    return "\n".join(lines) + "\n"


def _name(ticket: Ticket) -> str:
    run = ticket.description.run
    return f"{ticket.description.network['name']} on {run['dataset']}, {run['method']}"


def _what(ticket: Ticket, about: Measured) -> str:
    """What it is; weights that were trained are not called randomly initialized."""
    network, run = ticket.description.network, ticket.description.run
    name = f"{network['name']} of width {network['width']:g}"
    details = [run["distribution"], f"step {run['step']:,}"]
    if run["sparsity"] is not None:
        details.insert(0, pruning.sparsity_text(run["sparsity"], run.get("pattern")))
    by = f"by {run['method']} ({', '.join(details)})"
    if not leaves_of(ticket.masks):
        return f"A {name}, trained {by}"
    if about.trains_weights:
        return f"A subnetwork of a {name}, found and trained {by}"
    return f"A subnetwork of a randomly initialized {name}, found {by}"


def _mean(accuracies: Mapping[int, float]) -> float:
    return round(statistics.mean(accuracies.values()), 4)


def _evaluated(run: Mapping[str, Any], about: Measured) -> dict[str, Any]:
    """A result of a model-index."""
    task = "text" if run["dataset"] == "imdb_reviews" else "image"
    metric = {
        "type": "accuracy",
        "name": "Test accuracy (%)",
        "value": _mean(about.accuracies),
    }
    name = DATASETS.get(run["dataset"], run["dataset"])
    data = {"type": name, "name": run["dataset"], "split": "test"}
    if not about.result.get("dataset_official"):
        data["name"] += " (not the official data)"
    return {
        "task": {"type": f"{task}-classification"},
        "dataset": data,
        "metrics": [metric],
    }


def _accuracy(about: Measured) -> str:
    if not about.accuracies:
        return "not measured at this step"
    own = f"{about.result['test_accuracy']:.2f} % on the test set"
    if len(about.accuracies) == 1:
        return f"{own} (one seed: {about.result['seed']})"
    numbers = list(about.accuracies.values())
    return (
        f"{own} (seed {about.result['seed']}); of {len(numbers)} seeds "
        f"{_mean(about.accuracies):.2f} % in the mean, deviation "
        f"{statistics.stdev(numbers):.2f}"
    )


def _rows(ticket: Ticket, about: Measured, size: int) -> dict[str, str]:
    """What the table of the card says."""
    result, masks = about.result, leaves_of(ticket.masks)
    run = ticket.description.run
    weights = sum(mask.size for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    dense = 4 * sum(leaf.size for leaf in jax.tree.leaves(ticket.params))
    rows = {"accuracy": _accuracy(about)}
    if result and not result.get("dataset_official"):
        rows["data"] = (
            f"**not official pixels**: the run's copy of {run['dataset']} differs "
            f"from the official one, so no published accuracy compares with this one"
        )
    if weights:
        share = f"{1 - kept / weights:.2%}".replace("%", " %")
        rows["sparsity"] = f"{share}: {kept:,} of {weights:,} weights are kept"
    rows["bytes"] = f"{size:,}; its parameters are {dense:,} in float32"
    if result:
        rows["trained"] = (
            f"{result['epochs']} epoch{'s' * (result['epochs'] != 1)}, "
            f"{result['steps']:,} steps, on "
            f"{result['device']}"
        )
        rows["state_sha256"] = f"`{result['state_sha256']}`"
        rows["commit"] = f"`{result['commit']}`"
        versions = result["versions"]
        rows["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    return rows
