"""BiLSTM on the IMDB reviews: Tables 10 and 11 of the paper.

    python -m iterand_jax.main --config=configs/imdb_bilstm.py
    --config.method=iterand|edge_popup|sgd --config.seed=0|1|2|3|4

Test accuracy of the paper over 5 runs: IteRand 88.51 +- 0.24, edge-popup 88.34 +- 0.19
(both SC), SGD 87.62 +- 0.22.

About 10 minutes on one modern GPU: an estimate, 4,095 steps at 10 steps/s and the
validation after each epoch.
"""

from iterand_jax.configs import imdb_lstm


def get_config():
    """The LSTM's run with a second direction."""
    config = imdb_lstm.get_config()
    config.network.name = "bilstm"
    return config
