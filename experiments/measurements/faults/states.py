"""State dicts of PyTorch that are damaged or forged: a ticket, or one line.

Valid state dicts with scores, with masks and in bfloat16 are changed at random: bytes
of the file; arrays and their names; the header of a safetensors file; the entries of
an archive of `torch.save`, whose checksums are computed again. A state dict has no
checksum of its own, so other numbers make another ticket; what must hold is that it is
one, which is read back as it was converted. PyTorch has to be installed.
"""

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

import iterand_jax
from experiments.measurements.faults import mutators
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.tickets import digest_of
from experiments.measurements.faults.trial import REFUSED, Trial, outcome_of
from iterand_jax.tickets import conversion, states
from iterand_jax.tickets.conversion import Pruning

PROMISE = (
    "Any bytes as a state dict of PyTorch give a ticket that is read back as it was "
    "converted, or one ValueError of one line; at most 1 GiB of address space and 20 "
    "seconds"
)
MEGABYTES, SECONDS = 1024, 20
TICKET = "a ticket"
LEAVES = ("weight", "bias", "scores", "mask", "weight_orig", "weight_mask", "x", "")
SHAPES = {  # of Conv2 at width 1/16 for images of 8 pixels
    "features.0": (4, 3, 3, 3),
    "features.2": (4, 4, 3, 3),
    "classifier.0": (16, 64),
    "classifier.2": (16, 16),
    "classifier.4": (3, 16),
}
Arrays = dict[str, np.ndarray]


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many changed state dicts."""
    draw = random.Random(seed)
    with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=warm) as child:
        for number in range(count):
            form, kept_by = draw.choice(list(FORMS)), draw.choice(list(KEPT_BY))
            kind, content = changed(form, KEPT_BY[kept_by](), draw)
            path, output = folder / "changed", folder / "ticket"
            path.write_bytes(content)
            called = child.call(outcome, path, output, kept_by)
            yield called.trial(
                f"{form}: {kind}",
                (TICKET, REFUSED),
                f"number {number} of seed {seed}, by {kept_by}",
            )


def changed(form: str, arrays: Arrays, draw: random.Random) -> tuple[str, bytes]:
    """(kind, content) of a state dict in a form that is changed at random."""
    if draw.random() < 0.4:
        kind, arrays = mutators.changed_arrays(
            arrays,
            lambda name: f"{name.rpartition('.')[0]}.{draw.choice(LEAVES)}",
            draw,
        )
        return kind, FORMS[form](arrays)
    content = FORMS[form](arrays)
    if draw.random() < 0.5 or form == "old torch":
        return mutators.changed_bytes(content, draw)
    change = _header if form == "safetensors" else _entry
    return change(content, draw)


def _header(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A safetensors file with another header."""
    end = 8 + int.from_bytes(content[:8], "little")
    kind, header = mutators.changed_json(json.loads(content[8:end]), draw)
    text = mutators.text_of(header).encode()
    return f"header: {kind}", len(text).to_bytes(8, "little") + text + content[end:]


def _entry(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """An archive with another entry, which has a valid checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in entries if name.endswith(".pkl")]
    chosen = draw.choice([*entries, *pickles * 5])
    kind, entries[chosen] = mutators.changed_bytes(entries[chosen], draw)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    what = "pickle" if chosen.endswith(".pkl") else "entry"
    return f"{what}: {kind}", target.getvalue()


def outcome(path: Path, output: Path, kept_by: str) -> str:
    """What converting a file does."""
    scored = kept_by == "scores"
    pruning = Pruning(sparsity=0.5, ranked_by="score") if scored else Pruning()
    try:
        state = states.state_of(states.read(path))
        ticket, _ = conversion.convert(state, "conv2", pruning, width=1 / 16)
        ticket.save(output)
        same = digest_of(iterand_jax.load_ticket(output)) == digest_of(ticket)
    except Exception as error:
        return outcome_of(error, most=3000)
    return TICKET if same else "another ticket: "


def warm() -> None:
    """Converts each form once, which imports and compiles."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "state", Path(folder) / "ticket"
        for form, write in FORMS.items():
            for kept_by, arrays in KEPT_BY.items():
                path.write_bytes(write(arrays()))
                found = outcome(path, output, kept_by)
                assert found == TICKET, f"{form} by {kept_by}: {found}"


def _weights(suffix: str = "") -> Arrays:
    rng = np.random.default_rng(0)
    return {
        f"{name}.weight{suffix}": rng.standard_normal(shape, np.float32)
        for name, shape in SHAPES.items()
    }


def _by_scores() -> Arrays:
    rng = np.random.default_rng(1)
    scores = {
        f"{name}.scores": rng.standard_normal(shape, np.float32)
        for name, shape in SHAPES.items()
    }
    return _weights() | scores


def _by_masks() -> Arrays:
    masks = {
        f"{name}.weight_mask": (np.arange(np.prod(shape)) % 2).reshape(shape)
        for name, shape in SHAPES.items()
    }
    return _weights("_orig") | {k: m.astype(np.float32) for k, m in masks.items()}


def _in_bfloat16() -> Arrays:
    return {name: array.astype(jnp.bfloat16) for name, array in _weights().items()}


def _saved(arrays: Mapping[str, np.ndarray], **options: Any) -> bytes:
    """What torch.save writes of arrays."""
    import torch

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            bits = torch.from_numpy(array.view(np.int16).copy())
            return bits.view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    content = io.BytesIO()
    state = {"state_dict": {name: tensor(a) for name, a in arrays.items()}, "epoch": 3}
    torch.save(state, content, **options)
    return content.getvalue()


KEPT_BY: Mapping[str, Callable[[], Arrays]] = {
    "scores": _by_scores,
    "masks": _by_masks,
    "nothing, in bfloat16": _in_bfloat16,
}
FORMS: Mapping[str, Callable[[Arrays], bytes]] = {
    "safetensors": lambda arrays: safetensors.save(arrays),
    "torch": _saved,
    "old torch": lambda a: _saved(a, _use_new_zipfile_serialization=False),
}
