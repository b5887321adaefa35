"""Table 3 (Figure 2 of the main text): width on CIFAR-10."""

from experiments.paper.experiment import (
    ITERAND_IS_BETTER,
    Experiment,
    Lines,
    Miniature,
    Order,
    Part,
    grid,
)

NETWORKS = ("conv6", "resnet18", "resnet34")
WIDTHS = (0.25, 0.5, 1.0, 2.0)
PRUNING = ("iterand", "edge_popup")


def rows(networks, widths, methods=PRUNING):
    """IteRand and edge-popup with both distributions, then SGD."""
    for network in networks:
        yield from grid(
            network=[network], method=methods, distribution=["SC", "KU"], width=widths
        )
        yield from grid(
            network=[network], method=["sgd"], distribution=["KU"], width=widths
        )


SMALL = {
    "network": ["conv6"],
    "method": PRUNING,
    "distribution": ["SC", "KU"],
}

EXPERIMENT = Experiment(
    name="table3",
    title="Table 3 (Figure 2 of the main text): test accuracy on CIFAR-10 by width",
    configs={network: f"cifar_{network}" for network in NETWORKS},
    rows=list(rows(NETWORKS, WIDTHS)),
    seeds=3,
    figure=Lines(x="width", log=True),
    orders=(ITERAND_IS_BETTER, Order("distribution", "SC", "KU")),
    miniature=Miniature(
        note="Conv6 at widths 0.25 (2 epochs) and 0.5 (1 epoch) instead of 100 epochs; "
        "K_per in proportion, so that there are as many randomizations",
        parts=(
            Part(grid(**SMALL, width=[0.25]), epochs=2),
            Part(grid(**SMALL, width=[0.5]), epochs=1),
        ),
        seeds=3,
    ),
)
