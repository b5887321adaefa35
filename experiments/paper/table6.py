"""Table 6: sparsity on CIFAR-10."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid

NETWORKS = ("conv6", "resnet18")


def rows(networks, sparsities):
    """IteRand and edge-popup, with signed constants."""
    return grid(network=networks, method=["iterand", "edge_popup"], sparsity=sparsities)


EXPERIMENT = Experiment(
    name="table6",
    title="Table 6: test accuracy on CIFAR-10 by sparsity",
    configs={network: f"cifar_{network}" for network in NETWORKS},
    rows=rows(NETWORKS, (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)),
    seeds=3,
    figure=Lines(x="sparsity"),
    miniature=Miniature(
        note="Conv6 at width 0.25 for 2 epochs instead of width 1 for 100; K_per in "
        "proportion",
        parts=(
            Part(
                rows(["conv6"], (0.1, 0.5, 0.9)),
                epochs=2,
                overrides={"network.width": 0.25},
            ),
        ),
        seeds=3,
    ),
)
