"""The methods after IteRand side by side: accuracy against the bytes of a ticket.

No table of the paper: a method is a label, and `METHODS` says which fields of a config
it stands for. Networks, epochs, augmentation and evaluation are those of the paper's
runs, learning rates those of each network's recipes.
"""

from collections.abc import Mapping
from typing import Any

from experiments.paper.experiment import (
    ITERAND_IS_BETTER,
    Experiment,
    Lines,
    Miniature,
    Order,
    Part,
    grid,
)

GLOBAL = {"scope": ("*",)}
CUBIC = {"sparsity_schedule": "cubic", "sparsity_from": 0.5, "sparsity_end": 10}
GRADUAL = CUBIC | {"sparsity_from": 0.0, "sparsity_end": 50}

METHODS: Mapping[str, Mapping[str, Any]] = {
    "edge_popup": {},
    "iterand": {},
    "edge_popup_global": {"method": "edge_popup", **GLOBAL, **CUBIC},
    "iterand_global": {"method": "iterand", **GLOBAL, **CUBIC},
    "biprop": {"affine": True},
    "biprop_global": {"method": "biprop", "affine": True, **GLOBAL, **CUBIC},
    "biprop_iterand": {"affine": True, **GLOBAL, **CUBIC},
    "recycling": {},
    "multicoated": {"coats": (0.97, 0.99)},
    "partially_frozen": {
        **GLOBAL,
        "ranked_by": "magnitude",
        "kept_values": "scaled",
        "pruned_share": 0.45,
        "locked_share": 0.04,
        "frozen_by": "erk",
    },
    "adaptive_threshold": CUBIC,
    "adaptive_threshold_iterand": CUBIC,
    "gem_miner": {},
    "random_erk": {"method": "random", "layer_sparsities": "erk"},
    "magnitude": {**GLOBAL, **GRADUAL},
}
"""The fields of a config that a method of the table sets, beside its own name."""

EMERGES = ("signed_supermask", "relaxed_bernoulli")
"""The methods whose sparsity is no field of a config."""

NETWORKS = {"conv6": {}, "conv6_quarter": {"network.width": 0.25}, "resnet18": {}}

EXPERIMENT = Experiment(
    name="successors",
    title="Later methods: test accuracy by size of a ticket",
    configs={
        "conv6": "cifar_conv6",
        "conv6_quarter": "cifar_conv6",
        "resnet18": "cifar_resnet18",
    },
    rows=[
        *grid(network=NETWORKS, method=METHODS, sparsity=(0.5, 0.8, 0.9, 0.95)),
        *grid(network=NETWORKS, method=EMERGES),
    ],
    variants={**METHODS, **NETWORKS},
    seeds=3,
    figure=Lines(x="ticket_kilobytes", log=True),
    metrics=("test_accuracy", "ticket_kilobytes", "sparsity_percent"),
    orders=(
        ITERAND_IS_BETTER,
        Order("method", "recycling", "iterand"),
        Order("method", "edge_popup_global", "edge_popup"),
        Order("method", "adaptive_threshold", "edge_popup_global"),
        Order("method", "biprop_global", "biprop"),
        Order("method", "biprop_iterand", "biprop_global"),
        Order("method", "multicoated", "edge_popup"),
        Order("method", "gem_miner", "edge_popup"),
    ),
    full="At the length of the paper's runs",
    note="No table of the paper. In the figure a line goes through the sparsities of a "
    "method, the largest on the left. `global` is one threshold for all layers, with a "
    "sparsity that rises cubically from 0.5 in the first tenth of the training; "
    "adaptive thresholds move from such a common one; "
    "biprop trains biases and normalization beside its scores; random masks (ERK) and "
    "magnitudes (global, rising from 0 until half of the training) train the weights, "
    "which their tickets hold in float32. Learning rates are those of each network's "
    "config and were searched for none of the later methods.",
    miniature=Miniature(
        note="Conv6 at width 0.125 for 1 epoch instead of 100, two sparsities, one "
        "seed; K_per and schedules in proportion. After one epoch an order of methods "
        "is one of how fast they start; with 0.9 removed this network, which has no "
        "normalization, passes hardly any signal on, and most methods are at chance",
        parts=(
            Part(
                [
                    *grid(network=["conv6"], method=METHODS, sparsity=[0.5, 0.9]),
                    *grid(network=["conv6"], method=EMERGES),
                ],
                epochs=1,
                overrides={"network.width": 0.125},
            ),
        ),
    ),
)
