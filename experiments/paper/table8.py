"""Table 8: how much wider edge-popup has to be to match IteRand's accuracy."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid


def rows(network, iterand, edge_popup):
    """Both methods with Kaiming uniform weights, each at its own widths."""
    return [
        *grid(network=[network], method=["iterand"], width=iterand),
        *grid(network=[network], method=["edge_popup"], width=edge_popup),
    ]


KAIMING = {"distribution": "kaiming_uniform"}

EXPERIMENT = Experiment(
    name="table8",
    title="Table 8: test accuracy on CIFAR-10, edge-popup at 1.3 times the width",
    configs={"resnet18": "cifar_resnet18", "conv6": "cifar_conv6"},
    rows=rows("resnet18", (0.5, 1.0), (0.5, 0.65, 1.0, 1.3)),
    overrides=KAIMING,
    seeds=3,
    figure=Lines(x="width", log=True),
    miniature=Miniature(
        note="Conv6 for 2 epochs instead of ResNet18 for 100; K_per in proportion",
        parts=(Part(rows("conv6", (0.25,), (0.25, 0.325)), epochs=2),),
        seeds=3,
    ),
)
