"""Table 10: recurrent networks on the IMDB reviews."""

from experiments.paper.experiment import (
    ITERAND_IS_BETTER,
    Experiment,
    Lines,
    Miniature,
    Order,
    Part,
    grid,
)

NETWORKS = ("lstm", "bilstm")
METHODS = ("iterand", "edge_popup", "sgd")

EXPERIMENT = Experiment(
    name="table10",
    title="Table 10: test accuracy on the IMDB reviews",
    configs={network: f"imdb_{network}" for network in NETWORKS},
    rows=grid(network=NETWORKS, method=METHODS),
    seeds=5,
    orders=(ITERAND_IS_BETTER, Order("method", "edge_popup", "sgd")),
    figure=Lines(x="method"),
    miniature=Miniature(
        note="The LSTM at width 0.25 for 5 epochs instead of width 1 for 15; K_per in "
        "proportion",
        parts=(
            Part(
                grid(network=["lstm"], method=METHODS),
                epochs=5,
                overrides={"network.width": 0.25},
            ),
        ),
        seeds=3,
    ),
)
