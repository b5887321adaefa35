"""Tickets: a subnetwork in one small file, restored bit for bit.

A ticket is a safetensors file: a common container with readers in many languages, whose
header can be read without the arrays, and whose readers detect truncation. Its metadata
is JSON (network, inputs, normalization, how the weights were sampled) with two
checksums: of the file's content, and of the rebuilt subnetwork. Its arrays are those of
`packing`, the running statistics as batch_stats/PATH, and, for texts, the vocabulary,
compressed by zlib.

Pruned weights are read back as 0.0, whatever their sign was.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from iterand_jax.data.text import Vocabulary
from iterand_jax.runtime import compilation, modes
from iterand_jax.runtime.checks import described
from iterand_jax.tickets import (
    assembly,
    claims,
    container,
    packing,
    places,
    tree,
    writing,
)
from iterand_jax.tickets import inputs as inputs_of
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of

__all__ = ["Ticket"]

PyTree = Any
SMALL = 2**18  # bytes of arrays that are read before their network is known


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Ticket:
    """A subnetwork that can be applied; its arrays are on the host.

    Attributes:
      description: network, inputs, and how the weights were sampled.
      params: the network's parameters, 0.0 where pruned.
      masks: booleans, True for kept, in the structure of params; None for a leaf
        without a mask.
      batch_stats: running statistics, {} for networks without.
      words: of the vocabulary, for a network that reads texts; None for others.

    Writing and reading a ticket preserves it bit for bit:

    >>> import tempfile
    >>> import iterand_jax
    >>> network = {"name": "conv2", "num_classes": 10, "width": 1 / 16}
    >>> network |= {"affine": False, "dtype": "float32"}
    >>> description = Description(network=network, inputs=(((1, 8, 8, 1), "float32"),))
    >>> weights = jax.tree.map(lambda w: np.ones(w.shape, "f4"), description.abstract())
    >>> masks = jax.tree.map(lambda w: np.arange(w.size).reshape(w.shape) % 2, weights)
    >>> ticket = Ticket.of(description, weights["params"], masks["params"], {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = save(ticket, Path(folder) / "ticket.safetensors")
    ...     loaded = iterand_jax.load_ticket(Path(folder) / "ticket.safetensors")
    >>> jax.tree.all(jax.tree.map(np.array_equal, loaded.params, ticket.params))
    True
    >>> loaded.masks["Conv_0"]["kernel"].ravel()[:4].tolist()
    [False, True, False, True]
    >>> loaded.apply(np.zeros((3, 8, 8, 1))).shape
    (3, 10)
    """

    description: Description
    params: PyTree
    masks: PyTree
    batch_stats: PyTree
    words: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        description: Description,
        weights: PyTree,
        masks: PyTree,
        batch_stats: PyTree,
        words: Sequence[str] | None = None,
    ) -> "Ticket":
        """The ticket of weights and masks (nonzero for kept, None for no mask).

        Args:
          description: of the network.
          weights: its parameters.
          masks: in the structure of weights.
          batch_stats: running statistics, {} for none.
          words: of the vocabulary, in the order of their numbers.

        >>> described = Description(network={"name": "mine"}, inputs=())
        >>> kernel, mask = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1])
        >>> Ticket.of(described, {"kernel": kernel}, {"kernel": mask}, {}).params
        {'kernel': array([0., 2., 3.])}

        A file of it is read with `load(path, like={"kernel": kernel})`.
        """
        masks = jax.tree.map(lambda mask: np.asarray(mask) != 0, masks)
        params = jax.tree.map(
            lambda mask, w: w if mask is None else np.where(mask, w, w.dtype.type(0)),
            masks,
            jax.tree.map(np.asarray, weights),
            is_leaf=lambda leaf: leaf is None,
        )
        return cls(
            description=description,
            params=params,
            masks=masks,
            batch_stats=jax.tree.map(np.asarray, batch_stats),
            words=None if words is None else tuple(words),
        )

    def __repr__(self) -> str:
        """What it is of, how much is kept, and where the weights come from."""
        leaves, masks = leaves_of(self.params), leaves_of(self.masks)
        total = sum(leaf.size for leaf in leaves.values())
        of_masks = sum(mask.size for mask in masks.values())
        kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
        about = self.description
        network = about.network.get("name", "a tree of arrays")
        lines = [
            f"Ticket of {network}: {total:,} parameters in {len(leaves)} leaves",
            f"  masks keep {kept:,} of {of_masks:,} weights in {len(masks)} leaves",
            f"  weights: {'as stored' if about.draws is None else about.draws.summary}",
        ]
        if self.batch_stats:
            lines.append(f"  batch_stats: {len(leaves_of(self.batch_stats))} arrays")
        if self.words is not None:
            lines.append(f"  vocabulary: {len(self.words):,} words")
        return "\n".join(lines)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The network's variables (params and batch statistics), on the host."""
        statistics = {"batch_stats": self.batch_stats} if self.batch_stats else {}
        return {"params": self.params, **statistics}

    def apply(self, *inputs: Any) -> Array:
        """The logits, float32, (N, num_classes).

        Args:
          *inputs: for images, one array (N, H, W, C) of pixels from 0 to 255, uint8 or
            floats, of the size that the network was trained with; they are normalized
            here. For data that is not images, one array (N, ...). For texts two: token
            ids (N, T) and lengths (N,), int32, as returned by `tokenize`; each T is
            compiled once.

        Raises:
          ValueError: wrong shapes, or token ids or lengths out of range.

        >>> network = {"name": "lstm", "num_classes": 1, "width": 1 / 16}
        >>> network |= {"affine": False, "dtype": "float32"}
        >>> inputs = (((1, 9), "int32"), ((1,), "int32"))
        >>> described = Description(network=network, inputs=inputs)
        >>> zeros = jax.tree.map(lambda w: np.zeros(w.shape), described.abstract())
        >>> unmasked = jax.tree.map(lambda w: None, zeros["params"])
        >>> ticket = Ticket.of(described, zeros["params"], unmasked, {})
        >>> ticket.apply(np.ones((2, 9), np.int32), np.array([9, 4]))
        Array([[0.],
               [0.]], dtype=float32)
        """
        inputs_of.check(self.description, inputs)
        return self._program(self._on_device, *inputs)

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of `apply` for texts: token ids (N, T) and lengths (N,), int32.

        They are padded to the longest text; words outside the vocabulary have the id 1.

        Raises:
          ValueError: the network of this ticket does not take texts, or `texts` is a
            string instead of a list.

        >>> described = Description(network={"name": "lstm"}, inputs=())
        >>> ticket = Ticket.of(described, {}, {}, {}, words=["film", "good"])
        >>> ticket.tokenize(["a good film", "good"])
        (array([[1, 3, 2],
               [3, 0, 0]], dtype=int32), array([3, 1], dtype=int32))
        """
        if self._vocabulary is None:
            name = self.description.network.get("name")
            raise ValueError(f"the ticket of the network {name} has no vocabulary")
        if isinstance(texts, str):
            raise ValueError(f"texts is one text, {texts[:30]!r}; possible: a list")
        return self._vocabulary.padded(texts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as one file, which `iterand_jax.load_ticket` reads.

        Args:
          path: of the file: local in a folder that is there, or a URL.

        Raises:
          ValueError: it cannot be written there.

        >>> described = Description(network={"name": "mine"}, inputs=())
        >>> kernel, mask = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1])
        >>> ticket = Ticket.of(described, {"kernel": kernel}, {"kernel": mask}, {})
        >>> ticket.save("memory://tickets/mine.safetensors")
        """
        save(self, tree.target(path))

    @functools.cached_property
    def _vocabulary(self):
        return None if self.words is None else Vocabulary(self.words)

    @functools.cached_property
    def _program(self):
        description = self.description
        options = compilation.compiler_options(description.dtype.name)
        return jax.jit(description.logits, compiler_options=options)

    @functools.cached_property
    def _on_device(self):
        return jax.device_put(self.variables)


def save(ticket: Ticket, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Writes a ticket; returns its arrays by their names in the file.

    Raises:
      ValueError: an array of a dtype that a file cannot hold, or a description that
        `load` would refuse.
    """
    return writing.write(path, ticket.description, _content(ticket))


def _content(ticket: Ticket) -> dict[str, Any]:
    """The fields beside the description, as `assembly.unpack` returns them."""
    fields = [field.name for field in dataclasses.fields(ticket)]
    return {name: getattr(ticket, name) for name in fields if name != "description"}


def load(
    path: str | os.PathLike[str],
    network: nn.Module | None = None,
    *,
    like: PyTree = None,
    batch_stats: PyTree = None,
    **of_hub: Any,
) -> Ticket:
    """Reads a ticket and rebuilds its weights, bit for bit.

    A custom network is passed as an argument, registered, or in an imported module.
    Any other tree is read in the structure of `like`.

    Weights that follow from a seed are rebuilt by replaying the draws of the run: from
    under a second for a small network to minutes for a large one that was re-randomized
    a thousand times.

    Args:
      path: of the file, or a URL of it.
      network: that the ticket names and does not contain.
      like: a tree of the parameters' structure, shapes and dtypes (arrays or
        `jax.ShapeDtypeStruct`). Without it, params of a tree are {path: array}.
      batch_stats: a tree of the running statistics' structure; without it they are
        {path: array} where no network says their structure.
      **of_hub: revision, token, cache_dir and local_files_only, as in `places.local`.

    Raises:
      ValueError: in one line: the file is missing, truncated, not a ticket, of another
        version, a checksum does not match, or it is of another tree than `like`.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise ValueError(
            f"network is {described(network)}; possible: a Linen module, None, or a "
            f"tree as like=TREE"
        )
    with places.local(path, **of_hub) as file:
        return _read(file, network, like, batch_stats)


@modes.fixed()
def _read(
    path: Path, network: nn.Module | None, like: PyTree, batch_stats: PyTree
) -> Ticket:
    of_network = claims.network_of(network, like, batch_stats)
    fields, forms = container.read_header(path, of_network)
    if fields.get("version") not in writing.VERSIONS:
        raise ValueError(
            f"{path} is a ticket of version {fields.get('version')!r:.60}; "
            f"possible: {', '.join(map(str, writing.VERSIONS))}"
        )
    checksum = fields.pop("sha256", None)
    # A large file is read once its network is known to need so much.
    arrays = None
    if sum(form.size * form.dtype.itemsize for form in forms.values()) <= SMALL:
        arrays = container.whole_arrays(path, checksum, fields)
    name = "a tree"
    try:
        description = Description.from_json(fields, network)
        named = " ".join(str(description.network.get("name", "")).split())
        name = f"the network {named:.60}"
        name = name if description.leaves is None else "a tree"
        if description.leaves is not None and network is not None:
            raise ValueError("it is of a tree of arrays; possible: like=TREE")
        abstract = tree.abstract(description, forms, like, batch_stats)
        claims.check(description, *abstract, tree.in_their_forms(description, forms))
        if arrays is None:
            arrays = container.whole_arrays(path, checksum, fields)
        content = assembly.unpack(description, arrays, *abstract)
        ticket = Ticket(description=description, **content)
        same = fields["rebuilt_sha256"] == writing.rebuilt_digest(content)
    except container.DamagedError:
        raise
    except Exception as error:  # of a made-up file any
        raise ValueError(
            f"{path} cannot be rebuilt as {name}: {container.one_line(error)}"
        ) from error
    if not same:
        raise ValueError(f"{path} is intact, but {_differs(ticket, arrays)}")
    return ticket


def _differs(ticket: Ticket, arrays: Mapping[str, np.ndarray]) -> str:
    """What is true of a ticket with another checksum of its weights than it says."""
    paths = leaves_of(ticket.params)
    if not any(packing.is_drawn(path, arrays) for path in paths):
        return (
            "does not rebuild to the weights it was written from: its checksum of "
            "them differs, and none of them is sampled"
        )
    return (
        f"its checksum is of other weights than jax {jax.__version__} samples here: "
        f"another version wrote it, or its draws or that checksum were changed"
    )
