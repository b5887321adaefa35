"""Table 4 (Figure 3 of the main text): ImageNet."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")

PRUNED = grid(
    network=NETWORKS[1:], method=["iterand", "edge_popup"], distribution=["SC"]
)
DENSE = grid(network=NETWORKS[:2], method=["sgd"], distribution=["KU"])


def small(network, **overrides):
    """The ImageNet variant of a network, narrow, trained on CIFAR-10."""
    name = {"network.name": f"imagenet_{network}"}
    return {**name, "network.width": 0.125, **overrides}


EXPERIMENT = Experiment(
    name="table4",
    title="Table 4 (Figure 3 of the main text): top-1 accuracy on ImageNet",
    configs={network: f"imagenet_{network}" for network in NETWORKS},
    rows=[*DENSE, *PRUNED],
    seeds=1,
    figure=Lines(x="parameters_kept", panel=None, log=True),
    metrics=("test_accuracy", "sparsity_percent", "parameters_kept"),
    note="Parameters are those kept, in millions: the paper counts the kernels of "
    "convolutions, we count the linear layer too.",
    miniature=Miniature(
        note="ImageNet's form of ResNet18 and ResNet34 at width 0.125 on the images of "
        "CIFAR-10, 1 epoch instead of 105; K_per is 300 / 100. It shows that the "
        "command works, nothing of the paper's accuracies or their order",
        configs={"resnet18": "cifar_resnet18", "resnet34": "cifar_resnet34"},
        parts=(
            Part(DENSE[:1], epochs=1, overrides=small("resnet18")),
            Part(DENSE[1:], epochs=1, overrides=small("resnet34")),
            Part(PRUNED[:2], epochs=1, overrides=small("resnet34", sparsity=0.7)),
        ),
    ),
)
