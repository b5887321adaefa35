"""Table 5 and Appendix C.2: training time, and the cost of a re-randomization."""

from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid

METHODS = ("iterand", "edge_popup", "sgd")
NARROW = {"network.width": 0.125}

EXPERIMENT = Experiment(
    name="table5",
    title="Table 5 and Appendix C.2: the time of a training, and of one randomization",
    configs={"resnet18": "cifar_resnet18", "resnet50": "imagenet_resnet50"},
    rows=[
        *grid(network=["resnet18"], method=METHODS),
        {"network": "resnet50", "method": "iterand"},
    ],
    seeds=1,
    figure=Lines(x="method"),
    metrics=("training_seconds", "randomization_ms"),
    orders=(),
    note="The paper finds that IteRand trains less than 1 % longer than edge-popup. "
    "Our seconds are those of training steps and randomizations, without "
    "compilation, validation and checkpoints. The devices differ from the paper's: "
    "the methods are to be compared with each other. ResNet50 is ImageNet's; the paper "
    "prints its randomization alone.",
    miniature=Miniature(
        note="Conv6 at width 0.125 for 1 epoch instead of ResNet18 for 100; K_per is "
        "300 as in the paper, which makes one randomization in 351 steps",
        configs={"conv6": "cifar_conv6"},
        parts=(
            Part(
                grid(network=["conv6"], method=METHODS[:1]),
                epochs=1,
                overrides={**NARROW, "k_per": 300},
            ),
            Part(
                grid(network=["conv6"], method=METHODS[1:]), epochs=1, overrides=NARROW
            ),
        ),
        seeds=3,
    ),
)
