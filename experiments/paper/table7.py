"""Table 7: comparison with iterative magnitude pruning (IMP), 3 retrainings."""

from experiments.paper.experiment import (
    ITERAND_IS_BETTER,
    Experiment,
    Lines,
    Miniature,
    Order,
    Part,
    grid,
)

NETWORKS = ("vgg11", "resnet20")
METHODS = ("iterand", "edge_popup", "imp")

EXPERIMENT = Experiment(
    name="table7",
    title="Table 7: test accuracy on CIFAR-10 against iterative magnitude pruning",
    configs={
        **{network: f"cifar_{network}" for network in NETWORKS},
        **{f"{network} imp": f"cifar_{network}_imp" for network in NETWORKS},
    },
    rows=grid(network=NETWORKS, method=METHODS, sparsity=(0.5, 0.7, 0.9, 0.95, 0.99)),
    seeds=3,
    orders=(ITERAND_IS_BETTER, Order("method", "imp", "iterand")),
    figure=Lines(x="sparsity"),
    miniature=Miniature(
        note="ResNet20 at width 0.25 instead of 1, for 1 epoch instead of 100, or of "
        "160 in each of the four trainings of IMP; K_per in proportion. In its one "
        "epoch IMP reaches no milestone, so its learning rate is constant, and it "
        "rewinds to initialization instead of the weights after an epoch",
        parts=(
            Part(
                grid(network=["resnet20"], method=METHODS, sparsity=[0.5]),
                epochs=1,
                overrides={"network.width": 0.25},
            ),
        ),
        seeds=3,
    ),
)
