"""Rules for trees without a model, by the names and numbers of axes of their leaves."""

from iterand_jax.rules.rule import Rule

__all__ = ["DEFAULT_RULES", "OUTPUTS_FIRST_RULES"]

DEFAULT_RULES = (
    Rule("*/kernel", prune=True, min_ndim=2, ndims=(2, 4)),
    Rule("*/embedding", prune=True, out_axis=0, min_ndim=2, ndims=(2,)),
    Rule("*", prune=False),
)
"""By Flax's names: kernels and embeddings are pruned, biases and normalization not.

A kernel of two axes is (inputs, outputs), one of four (height, width, inputs, outputs).
Others are refused: three axes may be a convolution, an attention projection or a stack
of layers. `rules_of` reads them from the model.

An embedding lookup sums over nothing, so its fan-in is a convention: the number of
features, as PyTorch's initializers compute it for a (words, features) table. (With the
number of words, entries would scale as 1 / sqrt(words), too small a signal for the
layers above.)
"""

OUTPUTS_FIRST_RULES = (
    Rule("*/weight", prune=True, out_axis=0, min_ndim=2, ndims=(2, 4)),
    Rule("*/weight_[ih]h*", prune=True, out_axis=0, min_ndim=2, ndims=(2,)),
    Rule("*", prune=False),
)
"""For models whose weights are (outputs, inputs, ...), as Equinox's and PyTorch's are.

A weight of two axes is (outputs, inputs), one of four (outputs, inputs, height, width);
others are refused, and so is one with a bias of the same shape, as normalization
layers have. LSTM and GRU cells have weight_ih and weight_hh. `rules_of` reads an
Equinox model.
"""
