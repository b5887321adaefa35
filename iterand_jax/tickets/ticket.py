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
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from iterand_jax.data.text import WORDS, Vocabulary, as_lines, from_lines
from iterand_jax.runtime import compilation, modes
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets import packing
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of, path_string, sha256

__all__ = ["Ticket"]

PyTree = Any
VERSION = 1
METADATA = "iterand_jax_ticket"
VOCABULARY = "vocabulary"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
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
        self._check(inputs)
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
            name = self.description.network["name"]
            raise ValueError(f"the ticket of the network {name} has no vocabulary")
        if isinstance(texts, str):
            raise ValueError(f"texts is one text, {texts[:30]!r}; possible: a list")
        return self._vocabulary.padded(texts)

    @functools.cached_property
    def _vocabulary(self):
        return None if self.words is None else Vocabulary(self.words)

    @functools.cached_property
    def _program(self):
        description = self.description
        options = compilation.compiler_options(description.network["dtype"])
        return jax.jit(description.logits, compiler_options=options)

    @functools.cached_property
    def _on_device(self):
        return jax.device_put(self.variables)

    def _check(self, inputs) -> None:
        expected = [("N", *shape[1:]) for shape, _ in self.description.inputs]
        shapes = [np.shape(x) for x in inputs]
        ranks = [len(shape) for shape in shapes]
        texts = np.issubdtype(self.description.inputs[0][1], np.integer)
        if ranks != [len(shape) for shape in expected] or (
            not texts and shapes[0][1:] != expected[0][1:]
        ):
            raise ValueError(f"inputs of shapes {shapes}; possible: {expected}")
        if texts:
            self._check_texts(*inputs)

    def _check_texts(self, tokens, lengths) -> None:
        (texts, longest), (counted,) = np.shape(tokens), np.shape(lengths)
        if texts != counted:
            raise ValueError(f"{counted} lengths for {texts} texts")
        words = getattr(self.description.build(), "vocabulary_size", WORDS + 2)
        limits = {"token ids": (tokens, words - 1), "lengths": (lengths, longest)}
        for name, (array, limit) in limits.items():
            if isinstance(array, jax.core.Tracer) or not np.size(array):
                continue  # the values are not known
            least, most = np.min(array), np.max(array)
            if least < 0 or most > limit:
                raise ValueError(
                    f"{name} from {least} to {most}; possible: 0 to {limit}"
                )


def save(ticket: Ticket, path: Path) -> dict[str, np.ndarray]:
    """Writes a ticket; returns its arrays by their names in the file."""
    from safetensors import numpy as safetensors

    # Safetensors writes the memory buffer, which is wrong for a transposed array.
    packed = _pack(ticket)
    arrays = {name: np.asarray(array, order="C") for name, array in packed.items()}
    fields = {"version": VERSION, **ticket.description.to_json()}
    fields["rebuilt_sha256"] = _rebuilt_digest(ticket)
    fields["sha256"] = _content_digest(fields, arrays)
    metadata = {METADATA: json.dumps(fields, sort_keys=True)}
    write_atomically(path, safetensors.save(arrays, metadata))
    return arrays


@modes.fixed()
def load(path: str | os.PathLike[str], network: nn.Module | None = None) -> Ticket:
    """Reads a ticket and rebuilds its weights, bit for bit.

    A custom network is passed as an argument, registered, or in an imported module.

    Weights that follow from a seed are rebuilt by replaying the draws of the run: from
    under a second for a small network to minutes for a large one that was re-randomized
    a thousand times.

    Raises:
      ValueError: the file is missing, truncated, not a ticket or of another version, or
        a checksum does not match.
    """
    fields, arrays = _read(Path(path))
    if fields.get("version") != VERSION:
        raise ValueError(
            f"{path} is a ticket of version {fields.get('version')!r}; "
            f"possible: {VERSION!r}"
        )
    if fields.pop("sha256", None) != _content_digest(fields, arrays):
        raise ValueError(f"{path} is damaged: its checksum does not match")
    description = Description.from_json(fields, network)
    try:
        ticket = _unpack(description, arrays)
    except ValueError as error:
        network = description.network["name"]
        raise ValueError(
            f"{path} cannot be rebuilt as the network {network}: {error}"
        ) from error
    if fields["rebuilt_sha256"] != _rebuilt_digest(ticket):
        raise ValueError(
            f"{path} is intact, but jax {jax.__version__} samples other weights here "
            f"than where it was written"
        )
    return ticket


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(METADATA)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"cannot read the ticket {path}: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete ticket: {error}") from error
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but not a ticket")
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its metadata is not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is damaged: its metadata is not a JSON object")
    return fields, arrays


def _pack(ticket: Ticket) -> dict[str, np.ndarray]:
    draws, masks = ticket.description.draws, leaves_of(ticket.masks)
    numbers: dict[str, np.ndarray] = {}
    if draws is not None and draws.can_be_replayed():
        numbers = leaves_of(draws.numbers(ticket.params))
    arrays: dict[str, np.ndarray] = {}
    for path, weights in leaves_of(ticket.params).items():
        leaf = packing.Leaf(weights, masks.get(path), numbers.get(path))
        arrays |= packing.pack(path, leaf)
    statistics = leaves_of(ticket.batch_stats)
    arrays |= {f"batch_stats/{path}": leaf for path, leaf in statistics.items()}
    if ticket.words is not None:
        lines = zlib.compress(as_lines(ticket.words).encode(), 9)
        arrays[VOCABULARY] = np.frombuffer(lines, np.uint8)
    return arrays


def _unpack(description: Description, arrays: Mapping[str, np.ndarray]) -> Ticket:
    abstract = description.abstract()
    leaves = {
        path: packing.unpack(path, like, arrays)
        for path, like in leaves_of(abstract["params"]).items()
    }
    structure = jax.tree.structure(abstract["params"])
    weights, masks, numbers = (
        jax.tree.unflatten(structure, column)
        for column in zip(*leaves.values(), strict=True)
    )
    # Leaves with draw numbers are rebuilt by a replay; the others were stored.
    if leaves_of(numbers):
        if description.draws is None:
            raise ValueError("kept weights are missing")
        drawn = description.draws.weights(numbers)
        weights = jax.tree.map(
            lambda w, d: w if d is None else d, weights, drawn, is_leaf=_is_none
        )
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[f"batch_stats/{path_string(path)}"],
        abstract.get("batch_stats", {}),
    )
    words = None
    if VOCABULARY in arrays:
        words = from_lines(zlib.decompress(arrays[VOCABULARY].tobytes()).decode())
    return Ticket.of(description, weights, masks, statistics, words)


def _is_none(leaf) -> bool:
    return leaf is None


def _rebuilt_digest(ticket: Ticket) -> str:
    trees = {"masks": ticket.masks, **ticket.variables}
    return sha256(leaves_of(trees))


def _content_digest(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    text = np.frombuffer(json.dumps(fields, sort_keys=True).encode(), np.uint8)
    return sha256({"metadata": text, **arrays})
