"""Rules for trees without a model, by the names and numbers of axes of their leaves."""

import dataclasses

from iterand_jax.rules.rule import Rule, UnnamedRule

__all__ = ["DEFAULT_RULES", "OUTPUTS_FIRST_RULES", "UNRECORDED_RULES"]

DEFAULT_RULES = (
    Rule("*/kernel", prune=True, min_ndim=2, ndims=(2, 4)),
    Rule("*/embedding", prune=True, out_axis=0, min_ndim=2, ndims=(2,)),
    UnnamedRule("*", prune=False),
)
"""By Flax's names: kernels and embeddings are pruned, biases and normalization not.

Leaves of other names are not pruned either; `Subnetwork.init` warns of those that have
two or more axes, such as a matrix called w, until a rule names them.

A kernel of two axes is (inputs, outputs), one of four (height, width, inputs, outputs).
Others are refused: three axes may be a convolution, an attention projection or a stack
of layers. Four axes may also be matrices stacked twice, or a stack of one-dimensional
convolutions. Their bias shows it, of more than one axis, and they are refused; without
a bias they are taken for a convolution. `rules_of` reads all of these from the model.

An embedding lookup sums over nothing, so its fan-in is a convention: the number of
features, as PyTorch's initializers compute it for a (words, features) table. (With the
number of words, entries would scale as 1 / sqrt(words), too small a signal for the
layers above.)
"""

OUTPUTS_FIRST_RULES = (
    Rule("*/weight", prune=True, out_axis=0, min_ndim=2, ndims=(2, 4)),
    Rule("*/weight_[ih]h*", prune=True, out_axis=0, min_ndim=2, ndims=(2,)),
    UnnamedRule("*", prune=False),
)
"""For models whose weights are (outputs, inputs, ...), as Equinox's and PyTorch's are.

A weight of two axes is (outputs, inputs), one of four (outputs, inputs, height, width);
others, and four axes with a bias of more than one, are refused. LSTM and GRU cells have
weight_ih and weight_hh.

A normalization's scale is left alone if it is known as such: in a layer of Equinox, or
by a bias of the same shape. In a tree of arrays alone, a scale of two axes without a
bias cannot be distinguished from a matrix. `rules_of` reads an Equinox model.
"""

UNRECORDED_RULES = tuple(
    dataclasses.replace(rule, ndims=None) for rule in DEFAULT_RULES
)
"""Of tickets and checkpoints from before fan-ins were recorded.

All axes of a kernel but the last are inputs, whatever they mean.
"""
