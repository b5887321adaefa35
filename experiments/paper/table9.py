"""Table 9: large networks on ImageNet."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid

NETWORKS = ("wide_resnet50_2", "resnet50_x2")
METHODS = ("iterand", "edge_popup")

EXPERIMENT = Experiment(
    name="table9",
    title="Table 9: top-1 accuracy of large networks on ImageNet",
    configs={network: f"imagenet_{network}" for network in NETWORKS},
    rows=grid(network=NETWORKS, method=METHODS),
    seeds=1,
    figure=Lines(x="method"),
    metrics=("test_accuracy", "parameters"),
    note="Parameters are all, in millions.",
    miniature=Miniature(
        note="WideResNet-50-2 at width 0.0625 on the images of CIFAR-10, 1 epoch "
        "instead of 105; K_per is 300 / 100. It shows that the command works, nothing "
        "of the paper's accuracies or their order",
        configs={"wide_resnet50_2": "cifar_resnet18"},
        parts=(
            Part(
                grid(network=NETWORKS[:1], method=METHODS),
                epochs=1,
                overrides={
                    "network.name": "imagenet_wide_resnet50_2",
                    "network.width": 0.0625,
                    "sparsity": 0.7,
                },
            ),
        ),
    ),
)
