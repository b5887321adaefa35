"""Figure 2 of the appendix: the period K_per and the sampling rate r together."""

from experiments.paper.experiment import Experiment, HeatMap, Miniature, Part, grid


def rows(network, periods, rates):
    """IteRand with each K_per and r; KU as in Figure 1, as the paper names none."""
    return grid(
        network=[network],
        method=["iterand"],
        distribution=["KU"],
        k_per=periods,
        sampling_rate=rates,
    )


EXPERIMENT = Experiment(
    name="figure2",
    title="Figure 2 of the appendix: test accuracy on CIFAR-10 by K_per and r",
    configs={"resnet18": "cifar_resnet18", "conv6": "cifar_conv6"},
    rows=rows("resnet18", (1, 30, 300, 3000), (0.001, 0.01, 0.1, 1.0)),
    seeds=3,
    figure=HeatMap(x="k_per", y="sampling_rate"),
    orders=(),
    note="The paper prints only colours: accuracy follows r / K_per.",
    miniature=Miniature(
        note="Conv6 at width 0.25 for 2 epochs instead of ResNet18 for 100: the K_per "
        "6 and 60 make as many randomizations as the paper's 300 and 3000",
        parts=(
            Part(
                rows("conv6", (6, 60), (0.1, 1.0)),
                epochs=2,
                overrides={"network.width": 0.25},
            ),
        ),
    ),
)
