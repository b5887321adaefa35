"""What the checkpoint and log of a run, or a ticket, show of its subnetwork."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from iterand_jax.analysis.layers import (
    Layer,
    by_path,
    check_same_layers,
    inspect_layers,
    overlap,
)
from iterand_jax.analysis.liveness import live_weights
from iterand_jax.rules import Rule, rules_of
from iterand_jax.rules.patterns import literal
from iterand_jax.runtime import modes, remote
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets import container, places
from iterand_jax.tickets.draws import MAX_REFRESHES, Draws
from iterand_jax.tickets.fields import number, of_type
from iterand_jax.tickets.replay import initial_key, last_redraws
from iterand_jax.tickets.ticket import Ticket, load
from iterand_jax.training import fields, pruning
from iterand_jax.training.logs import read_lines
from iterand_jax.training.run import Run
from iterand_jax.training.step import State
from iterand_jax.training.workdir import restore
from iterand_jax.trees import leaves_of


class Report(NamedTuple):
    """What is known about a subnetwork.

    Attributes:
      title: network, method, distribution, seed and step in a line.
      layers: the pruned ones.
      overlaps: by path, the share of kept weights that another run keeps too, and the
        share expected by chance; empty without another run.
      other: the other run's title.
      churn: by step, the share of the masks that changed since the log step before.
      k_per: steps between refreshes, 0 for a method without them.
      no_ages: why there are no ages, None if there are some.
    """

    title: str
    layers: list[Layer]
    overlaps: Mapping[str, tuple[float, float]]
    other: str | None
    churn: Mapping[int, float]
    k_per: int
    no_ages: str | None

    @property
    def ages(self) -> np.ndarray:
        """The ages of the kept weights of all layers; all zero if they are unknown."""
        known = [layer.ages for layer in self.layers if layer.ages is not None]
        return np.sum(known, axis=0) if known else np.zeros(1, int)

    @property
    def unknown(self) -> int:
        """The kept weights whose values a replay does not give."""
        return sum(layer.unknown for layer in self.layers)

    @property
    def thresholds(self) -> bool:
        """Whether thresholds are known: a ticket and fixed masks have no scores."""
        return any(layer.threshold is not None for layer in self.layers)

    @property
    def constant(self) -> bool:
        """Whether magnitudes are uninformative: equal, or unknown where pruned."""
        return not any(abs(layer.magnitude - 1) >= 1e-4 for layer in self.layers)


class Subject(NamedTuple):
    """A subnetwork to look at, from a run or a ticket.

    Attributes:
      title: network, method, distribution, seed and step in a line.
      network: the Flax module.
      inputs: its inputs, as a batch of one.
      subnetwork: what the axes of its leaves are.
      drawn: how its weights were drawn, as the run or the ticket records it.
      weights: of the network; a ticket has those that are kept, and zeros.
      masks: nonzero for kept, None for leaves that are not pruned.
      scores: which the masks were computed from; None for fixed masks and tickets.
      draws: key, step, K_per and r of its refreshes; None if it was never resampled.
      churn: as in `Report`.
      layer_churn: by path, as in `Layer`.
    """

    title: str
    network: nn.Module
    inputs: Sequence[jax.ShapeDtypeStruct]
    subnetwork: Subnetwork
    drawn: Subnetwork
    weights: Any
    masks: Any
    scores: Any
    draws: tuple[jax.Array, int, int, float] | None
    churn: Mapping[int, float]
    layer_churn: Mapping[str, Sequence[float]]


def report(
    path: str | Path, other: str | Path | None = None, *, step: int | None = None
) -> Report:
    """Inspects a subnetwork, and compares its masks with another's.

    Args:
      path: the workdir of a run, or a ticket, which may be a URL.
      other: likewise, of another run, whose newest checkpoint counts.
      step: which checkpoint; None for the newest.

    Raises:
      ValueError: a run that prunes nothing, or an `other` of another network.
    """
    subject = _subject(path, step)
    redraws, no_ages, refreshes, k_per = None, None, 0, 0
    if subject.draws is None:
        no_ages = "no weight was resampled"
    else:
        key, done, k_per, sampling_rate = subject.draws
        refreshes = done // k_per
        if subject.subnetwork.distribution == "signed_constant":
            no_ages = (
                "a signed constant has two values, which do not show when it was "
                "sampled"
            )
        elif refreshes > MAX_REFRESHES:
            no_ages = (
                f"replaying {refreshes:,} refreshes would take hours; possible: up to "
                f"{MAX_REFRESHES:,}"
            )
        else:
            redraws = last_redraws(
                key,
                done,
                subject.weights,
                subject.drawn,
                k_per=k_per,
                sampling_rate=sampling_rate,
                init_key=initial_key(key),
            )
    layers = inspect_layers(
        subject.subnetwork,
        subject.weights,
        subject.masks,
        scores=subject.scores,
        last_redraws=redraws,
        refreshes=refreshes,
        live=live_weights(subject.network, subject.inputs, subject.masks),
        churn=subject.layer_churn,
    )
    overlaps, title = {}, None
    if other is not None:
        compared = _subject(other)
        title = compared.title
        masks, other_masks = by_path(subject.masks), by_path(compared.masks)
        check_same_layers(masks, other_masks)
        overlaps = {path: overlap(masks[path], other_masks[path]) for path in masks}
    return Report(
        title=subject.title,
        layers=layers,
        overlaps=overlaps,
        other=title,
        churn=subject.churn,
        k_per=k_per,
        no_ages=no_ages,
    )


def folder_of(ticket: str) -> Path:
    """The folder for what is drawn of a ticket: its own, or for a URL the current one.

    Raises:
      ValueError: it is neither a file nor a URL.
    """
    if not places.is_file(ticket):
        raise ValueError(f"no such ticket: {ticket}")
    return places.folder(ticket)


def _subject(path: str | Path, step: int | None = None) -> Subject:
    """What is at a path: a folder is a run, and all else is a ticket."""
    if not places.is_file(path):
        return _of_run(Path(path), step)
    return _of_ticket(places.address(path))


def _of_run(workdir: Path, step: int | None) -> Subject:
    run, state, _ = restore(workdir, step)
    config, masks = run.config, run.masks(state)
    if masks is None:
        raise _no_masks(f"the run in {workdir}", config.method)
    draws, resampling = None, run.method.resampling
    if resampling and resampling[0]:
        draws = modes.root_key(config.seed), int(state.step), *resampling
    lines = [
        line
        for line in read_lines(workdir / "metrics.jsonl")
        if line.get("kind") == "step" and line["step"] <= int(state.step)
    ]
    changes = {
        line["step"]: line["mask_churn"] for line in lines if "mask_churn" in line
    }
    paths = list(leaves_of(masks))
    by_layer = [line["layer_churn"] for line in lines if "layer_churn" in line]
    _check_churn(workdir / "metrics.jsonl", changes, by_layer, len(paths))
    return Subject(
        network=run.network,
        inputs=run.dataset.inputs,
        title=_title(
            config.network, config.to_dict(), seed=config.seed, step=int(state.step)
        ),
        subnetwork=run.subnetwork,
        drawn=run.subnetwork,
        weights=run.weights(state),
        masks=masks,
        scores=None if run.method.trains_weights else _ranked(run, state, masks),
        draws=draws,
        churn=changes,
        layer_churn={
            path: [row[i] for row in by_layer] for i, path in enumerate(paths)
        },
    )


def _check_churn(
    log: Path, changes: Mapping[Any, Any], by_layer: Sequence[Any], layers: int
) -> None:
    """Raises ValueError for churn in a log that is no share, or of other layers."""
    of_these = (isinstance(row, list) and len(row) == layers for row in by_layer)
    if len(by_layer) != len(changes) or not all(of_these):
        raise ValueError(f"{log} has churn of other layers")
    for share in itertools.chain(changes.values(), *by_layer):
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"{log} has a churn of {share!r:.60}; possible: 0 to 1")
    if any(later <= step for step, later in itertools.pairwise([0, *changes])):
        raise ValueError(f"{log} has churn of steps that do not rise from 1 on")


def _of_ticket(path: str) -> Subject:
    ticket, path = load(path), remote.shown(path)
    about = ticket.description
    if "method" not in about.run or not isinstance(about.draws, Draws | None):
        raise ValueError(
            f"the ticket {path} is not of a run, which analyze describes; its arrays "
            f"are those of iterand_jax.load_ticket({path!r})"
        )
    try:
        found = _described(ticket)
    except Exception as error:  # of a made-up file any
        raise ValueError(
            f"the ticket {path} cannot be analyzed: {container.one_line(error)}"
        ) from error
    if not leaves_of(ticket.masks):
        raise _no_masks(f"the ticket {path}", about.run["method"])
    return found


def _described(ticket: Ticket) -> Subject:
    """What a ticket of a run says of it.

    Raises:
      ValueError: a field of the run that is missing or of another type; and of values
        that no run has any error.
    """
    about = ticket.description
    for name in ("method", "distribution"):
        fields.FIELDS[name].check(f"{name} of its run", about.run.get(name))
    if of_type(about.run, "step", int) not in range(fields.LARGEST_INT32 + 1):
        raise ValueError(f"step of its run is {about.run['step']!r:.60}")
    if about.run.get("sparsity") is not None:
        number(about.run, "sparsity", above=-1, below=1)
    drawn, draws = about.draws, None
    assert isinstance(drawn, Draws | None)
    if drawn and drawn.k_per:
        root = modes.root_key(drawn.seed)
        draws = root, drawn.step, drawn.k_per, drawn.sampling_rate
    network, _ = about.build(), about.of_texts
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in about.inputs]
    subnetwork = Subnetwork(
        distribution=about.run["distribution"],
        rules=(*_unpruned(ticket), *rules_of(network, *inputs)),
    )
    return Subject(
        network=network,
        inputs=inputs,
        title=_title(
            about.network,
            about.run,
            seed=drawn.seed if drawn else None,
            step=about.run["step"],
        ),
        subnetwork=subnetwork,
        drawn=drawn.subnetwork if drawn else subnetwork,
        weights=ticket.params,
        masks=ticket.masks,
        scores=None,
        draws=draws,
        churn={},
        layer_churn={},
    )


def _unpruned(ticket: Ticket) -> list[Rule]:
    """Rules that say which leaves of a ticket have no masks."""
    masked = leaves_of(ticket.masks)
    paths = leaves_of(ticket.params).keys() - masked.keys()
    return [Rule(literal(path), prune=False) for path in sorted(paths)]


def _ranked(run: Run, state: State, masks: Any) -> Any:
    """What the masks rank: the scores, without trained weights, or their magnitudes."""
    return jax.tree.map(
        lambda mask, leaf: None if mask is None else leaf,
        masks,
        run.method.ranked(state.trainable),
        is_leaf=lambda leaf: leaf is None,
    )


def _no_masks(subject: str, method: str) -> ValueError:
    return ValueError(f"{subject} has no masks: its method, {method}, prunes nothing")


def _title(
    network: Mapping[str, Any], run: Mapping[str, Any], *, seed: int | None, step: int
) -> str:
    pruned = []
    if run.get("sparsity") is not None:
        pruned = [pruning.sparsity_text(run["sparsity"], run.get("pattern"))]
    parts = [
        f"{network['name']} (width {network.get('width', 1):g})",
        run["method"],
        run["distribution"],
        *pruned,
        *([] if seed is None else [f"seed {seed}"]),
        f"step {step:,}",
    ]
    return ", ".join(parts)
