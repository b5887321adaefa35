"""Tickets that are damaged or forged: the same arrays, or one ValueError of one line.

Valid tickets of every form are changed at random: bytes of the file; fields of its
metadata and arrays, without a valid checksum and with one, as anybody can compute it;
and claims that would be expensive if they were believed. All are read in a child
process with limits of memory and time.
"""

import dataclasses
import functools
import json
import random
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors

import iterand_jax
from experiments.measurements.faults import mutators
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.trial import REFUSED, Trial, outcome_of
from iterand_jax.tickets import container, packing, replay
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.draws import Draws
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of, sha256

PROMISE = (
    "Any bytes as a ticket give the arrays of the ticket that they were, or one "
    "ValueError of one line; at most 1 GiB of address space and 20 seconds"
)
MEGABYTES, SECONDS = 1024, 20
ROOMS = ("mask", "sign", "scale", "kept", "draw", "gap", "leaf", "", *packing.OF_BITS)
SIGNED = 5  # one change in so many is of the file's bytes; of the others the same share
#             is without a valid checksum

Content = tuple[dict[str, Any], dict[str, np.ndarray]]


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many changed tickets."""
    draw = random.Random(seed)
    valid = {name: make(folder / name) for name, make in FORMS.items()}
    with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=warm) as child:
        for number in range(count):
            name = draw.choice(list(FORMS))
            kind, content = changed(folder / name, draw)
            path = folder / "changed"
            path.write_bytes(content)
            called = child.call(outcome, path, valid[name])
            yield called.trial(
                kind, (SAME, REFUSED), f"number {number} of seed {seed}, a {name}"
            )


SAME = "the same arrays"


def outcome(path: Path, digest: str) -> str:
    """What reading a ticket does; `digest` is of what it held."""
    try:
        ticket = iterand_jax.load_ticket(path)
        repr(ticket)
    except Exception as error:
        return outcome_of(error, most=600)
    return SAME if digest_of(ticket) == digest else "other arrays: "


def digest_of(ticket: Ticket) -> str:
    """Of the masks and variables of a ticket, as it records it itself.

    Of a vocabulary it does not: with another checksum, another one is another ticket.
    """
    trees = {"masks": ticket.masks, **ticket.variables}
    leaves = {path: container.as_bits(leaf) for path, leaf in leaves_of(trees).items()}
    return sha256(leaves)


def changed(path: Path, draw: random.Random) -> tuple[str, bytes]:
    """(kind, content) of a ticket that is changed at random."""
    if draw.randrange(SIGNED) == 0:
        return mutators.changed_bytes(path.read_bytes(), draw)
    change = draw.choice([_fields, _fields, _arrays, _arrays, _claims])
    kind, fields, arrays = change(*container.read(path), draw)
    if draw.randrange(SIGNED):
        fields = signed(fields, arrays)
        kind += ", with a checksum"
    header = {container.METADATA: mutators.text_of(fields)}
    return kind, safetensors.save(arrays, header)


def signed(fields: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The fields with a valid checksum, where they can have one."""
    if not isinstance(fields, dict):
        return fields
    own = {name: value for name, value in fields.items() if name != "sha256"}
    own = json.loads(mutators.text_of(own)) if _is_shallow(own) else own
    try:
        return own | {"sha256": container.content_digest(own, arrays)}
    except (RecursionError, TypeError):
        return own


def _is_shallow(value: Any) -> bool:
    try:
        json.dumps(value)
    except RecursionError:
        return False
    return True


def _fields(
    fields: dict[str, Any], arrays: dict[str, np.ndarray], draw: random.Random
) -> tuple[str, Any, dict[str, np.ndarray]]:
    kind, fields = mutators.changed_json(fields, draw)
    return f"metadata: {kind}", fields, arrays


def _arrays(
    fields: dict[str, Any], arrays: dict[str, np.ndarray], draw: random.Random
) -> tuple[str, Any, dict[str, np.ndarray]]:
    def renamed(name: str) -> str:
        return f"{draw.choice(ROOMS)}/{name.partition('/')[2]}"

    kind, arrays = mutators.changed_arrays(arrays, renamed, draw)
    return kind, fields, arrays


def _claims(
    fields: dict[str, Any], arrays: dict[str, np.ndarray], draw: random.Random
) -> tuple[str, Any, dict[str, np.ndarray]]:
    """Claims that would cost much if they were believed."""
    kinds: dict[str, Callable[[], None]] = {
        "two billion refreshes": lambda: _refresh(fields, draw),
        "a wide network": lambda: fields["network"].update(
            width=10 ** draw.randrange(3, 300), num_classes=2**31 - 1
        ),
        "large inputs": lambda: fields.update(
            inputs=[[[1, *[10 ** draw.randrange(9)] * 3], "float32"]]
        ),
        "a vocabulary of zeros": lambda: arrays.update(
            vocabulary=np.frombuffer(zlib.compress(bytes(2**26), 9), np.uint8)
        ),
        "a vocabulary of lines": lambda: arrays.update(
            vocabulary=np.frombuffer(zlib.compress(b"ab\n" * 2**23, 9), np.uint8)
        ),
        "codes of zeros": lambda: _inflate(arrays, draw),
        "large leaves": lambda: _enlarge(fields, draw),
        "many leaves": lambda: _multiply(fields, arrays),
    }
    kind = draw.choice([*kinds, "a long field"])
    if kind == "a long field":
        place, of = draw.choice(LISTED), draw.choice(list(mutators.LONG))
        value = mutators.LONG[of](draw.choice((100, 3000, 30_000)))
        return f"claims: {kind}", listed(fields, place, value), arrays
    kinds[kind]()
    return f"claims: {kind}", fields, arrays


LISTED = (
    *("version", "rebuilt_sha256", "network", "network name", "network sizes"),
    *("inputs", "mean", "std", "leaves", "run", "run x", "other", "draws"),
    *("draws fan_ins", "draws key", "draws seed"),
)
"""The fields of a ticket in which a long value may be put, one within another."""


def listed(fields: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The fields with a value in one of `LISTED`."""
    outer, _, inner = place.partition(" ")
    if inner:
        value = {**(fields.get(outer) or {}), inner: value}
    return {**fields, outer: value}


def _refresh(fields: dict[str, Any], draw: random.Random) -> None:
    if fields["draws"]:
        step = draw.choice((2**31 - 1, 10**9, 5001))
        fields["draws"].update(step=step, k_per=1, sampling_rate=1.0)


def _inflate(arrays: dict[str, np.ndarray], draw: random.Random) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    code = (
        bytes([draw.randrange(12)]) + deflate.compress(bytes(2**26)) + deflate.flush()
    )
    for name in arrays:
        if "_code/" in name or name.startswith(("gap/", "draw/")):
            arrays[name] = np.frombuffer(code, np.uint8)


def _enlarge(fields: dict[str, Any], draw: random.Random) -> None:
    for leaf in (fields.get("leaves") or {}).values():
        leaf[0] = [10 ** draw.randrange(9) for _ in range(draw.randrange(70))]


def _multiply(fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    for n in range(300):
        if "leaves" in fields:
            fields["leaves"][f"params/l{n}"] = [[n + 1], "float32"]
        if fields["draws"] and fields["draws"].get("fan_ins") is not None:
            fields["draws"]["fan_ins"][f"l{n}"] = n + 1.0
        arrays[f"mask/l{n}"] = np.zeros(-(-(n + 1) // 8), np.uint8)


def warm() -> None:
    """Reads each valid ticket once, which imports and compiles."""
    with tempfile.TemporaryDirectory() as folder:
        for name, make in FORMS.items():
            path = Path(folder) / name
            digest = make(path)
            found = outcome(path, digest)
            assert found == SAME, f"{name}: {found}"


def of_network(
    path: Path,
    *,
    distribution: str,
    k_per: int,
    name: str,
    width: float = 1 / 16,
    pixels: int = 8,
) -> str:
    """Writes a ticket of a network; returns the digest of what it holds."""
    rng = np.random.default_rng(0)
    network = {"name": name, "num_classes": 3, "width": width, "affine": False}
    described = Description(
        network=network | {"dtype": "float32"},
        inputs=(((1, pixels, pixels, 3), "float32"),),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.3),
        run={"dataset": "digits", "method": "iterand", "sparsity": 0.5, "step": 9},
    )
    words = None
    if name == "lstm":
        inputs = (((1, 9), "int32"), ((1,), "int32"))
        described = dataclasses.replace(described, inputs=inputs, mean=None, std=None)
        words = ["good", "naïve", "?!"]
    abstract = described.abstract()
    fan_ins = iterand_jax.Subnetwork().fan_ins(abstract["params"])
    draws = Draws(3, distribution, 4 * k_per + 1, k_per, 0.25, fan_ins)
    numbers = jax.tree.map(
        lambda x: rng.integers(0, 3 if k_per else 1, x.shape).astype(np.int32),
        abstract["params"],
    )
    weights = draws.weights(numbers)
    masks = jax.tree.map(lambda x: rng.random(x.shape) < 0.4, abstract["params"])
    statistics = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(x.dtype),
        abstract.get("batch_stats", {}),
    )
    described = dataclasses.replace(described, draws=draws)
    ticket = Ticket.of(described, weights, masks, statistics, words)
    tickets.save(ticket, path)
    return digest_of(ticket)


def _of_tree(path: Path) -> str:
    """Writes a ticket of a tree with several dtypes, resampled as in a run."""
    key, subnetwork = jax.random.key(5), iterand_jax.Subnetwork(0.5, "kaiming_uniform")
    tree = {
        "kernel": np.ones((40, 30), np.float32),
        "other": {"kernel": jax.numpy.ones((8, 4), jax.numpy.bfloat16)},
        "bias": np.arange(3, dtype=np.float32),
        "steps": np.int32(7),
    }
    scores, weights = subnetwork.init(replay.initial_key(key), tree)
    for step in (2, 4, 6):
        weights = subnetwork.rerandomize(
            jax.random.fold_in(key, step), scores, weights, 0.3
        )
    iterand_jax.save_ticket(
        *(path, weights, subnetwork.masks(scores), {"mean": np.ones(3, np.float32)}),
        subnetwork=subnetwork,
        key=replay.initial_key(key),
        refresh_key=key,
        step=7,
        k_per=2,
        sampling_rate=0.3,
    )
    return digest_of(iterand_jax.load_ticket(path))


def _of_pattern(path: Path) -> str:
    """Writes a ticket of a tree whose masks are in groups."""
    subnetwork = iterand_jax.Subnetwork(pattern="2:4", distribution="signed_constant")
    tree = {"kernel": np.ones((64, 50), np.float32)}
    scores, weights = subnetwork.init(jax.random.key(5), tree)
    iterand_jax.save_ticket(path, weights, subnetwork.masks(scores))
    return digest_of(iterand_jax.load_ticket(path))


_conv2 = functools.partial(of_network, name="conv2")
FORMS: Mapping[str, Callable[[Path], str]] = {
    "ticket of signs": functools.partial(
        _conv2, distribution="signed_constant", k_per=0
    ),
    "ticket of a seed": functools.partial(
        _conv2, distribution="kaiming_normal", k_per=0
    ),
    "ticket of draws": functools.partial(
        _conv2, distribution="kaiming_uniform", k_per=4
    ),
    "ticket of texts": functools.partial(
        of_network, name="lstm", distribution="signed_constant", k_per=0
    ),
    "ticket of a tree": _of_tree,
    "ticket of a pattern": _of_pattern,
}
