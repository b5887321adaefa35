"""Figure 1 of the appendix: the randomization period K_per."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid

NETWORKS = ("conv6", "resnet18", "resnet34")


def rows(networks, periods):
    """IteRand with each K_per, then edge-popup as the baseline."""
    for network in networks:
        yield from grid(
            network=[network], method=["iterand"], distribution=["KU"], k_per=periods
        )
        yield from grid(network=[network], method=["edge_popup"], distribution=["KU"])


EXPERIMENT = Experiment(
    name="figure1",
    title="Figure 1 of the appendix: validation accuracy on CIFAR-10 by K_per",
    configs={network: f"cifar_{network}" for network in NETWORKS},
    rows=list(rows(NETWORKS, (1, 30, 300, 3000, 30000))),
    seeds=3,
    figure=Lines(x="k_per", log=True),
    metrics=("validation_accuracy",),
    orders=(),
    note="The paper prints only curves: accuracy is best at a K_per near 300, above "
    "edge-popup, and falls back to its level by 30000.",
    miniature=Miniature(
        note="Conv6 at width 0.25 for 2 epochs instead of 100: the K_per 1, 6, 60 and "
        "600 make as many randomizations as the paper's 30 (nearly), 300, 3000, 30000",
        parts=(
            Part(
                list(rows(["conv6"], (1, 6, 60, 600))),
                epochs=2,
                overrides={"network.width": 0.25},
            ),
        ),
    ),
)
