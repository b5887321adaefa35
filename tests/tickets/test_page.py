"""The page "Tickets" is enough to read any ticket: NumPy, safetensors, and its text.

`Reader` was written from the page and shares no code with the library or with the
page's own blocks, which are executed here too.
"""

import hashlib
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from iterand_jax import Subnetwork, iterand, save_ticket
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.draws import Draws
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of
from tests.test_docs import of_page


class Reader:
    """The fields and arrays of a file, and what they mean."""

    def __init__(self, path):
        with safe_open(path, framework="np") as file:
            self.fields = json.loads(file.metadata()["iterand_jax_ticket"])
            self.arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def numbers(self, code):
        content = zlib.decompress(bytes(code[1:]), wbits=-15)
        width, found, total = int(code[0]), [], 0
        if width:
            count = len(content) // width
            for i in range(count):
                each = (content[plane * count + i] for plane in range(width))
                found.append(sum(byte << 8 * n for n, byte in enumerate(each)))
            return found
        for byte in content:
            total += byte
            if byte != 255:
                found.append(total)
                total = 0
        return found

    def bits(self, kind, path, count):
        plain = self.arrays.get(f"{kind}/{path}")
        if plain is not None:
            text = "".join(f"{byte:08b}" for byte in plain.tolist())
            return np.array([digit == "1" for digit in text[:count]], bool)
        code = self.arrays[f"{kind}_code/{path}"]
        form = int(code[0])
        if form <= 8:
            inflate = zlib.decompressobj(wbits=-15)
            content = inflate.decompress(bytes(code[1:]))
            text = "".join(f"{byte:08b}"[:form] for byte in content)
            return np.array([digit == "1" for digit in text[:count]], bool)
        return self.runs(code[1:], count, others=form == 10)

    def runs(self, code, count, *, others):
        inflate = zlib.decompressobj(wbits=-15)  # a filled code has zeros behind
        inflate.decompress(bytes(code[1:]))
        end = len(code) - len(inflate.unused_data)
        bits, place = np.full(count, others), -1
        for gap in self.numbers(code[:end]):
            place += gap + 1
            bits[place] = not others
        return bits

    def leaf(self, path, shape):
        """(mask or None, weights or None where they have to be sampled again)."""
        whole = self.arrays.get(f"leaf/{path}")
        if whole is not None:
            return None, whole.reshape(shape)
        mask = self.bits("mask", path, int(np.prod(shape)))
        kept = self.kept(path, int(mask.sum()))
        if kept is None:
            return mask.reshape(shape), None
        weights = np.zeros(mask.size, kept.dtype)
        weights[mask] = kept
        return mask.reshape(shape), weights.reshape(shape)

    def kept(self, path, count):
        if f"kept/{path}" in self.arrays:
            return self.arrays[f"kept/{path}"]
        if not {f"sign/{path}", f"sign_code/{path}"} & set(self.arrays):
            return None
        signs = np.where(self.bits("sign", path, count), -1, 1)
        if f"scale/{path}" in self.arrays:
            return (signs * self.arrays[f"scale/{path}"]).astype(np.float32)
        levels = self.arrays[f"levels/{path}"]
        at_least = self.bits("level", path, (levels.size - 1) * count)
        return signs.astype(np.float32) * levels[at_least.reshape(-1, count).sum(0)]

    def checksums(self, rebuilt):
        """Whether both are those of the content, and of what was rebuilt from it."""
        fields = dict(self.fields)
        expected = fields.pop("sha256"), fields["rebuilt_sha256"]
        text = np.frombuffer(json.dumps(fields, sort_keys=True).encode(), np.uint8)
        found = digest(self.arrays | {"metadata": text}), digest(rebuilt)
        return found == expected


def digest(entries):
    sha = hashlib.sha256()
    for name in sorted(entries):
        array = entries[name]
        shape = ", ".join(map(str, array.shape)) + "," * (array.ndim == 1)
        sha.update(f"{name}:{array.dtype.name}:({shape});".encode() + array.tobytes())
    return sha.hexdigest()


def test_the_text_reads_a_vocabulary_and_a_network(tmp_path):
    network = {"name": "lstm", "num_classes": 1, "width": 1 / 64, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"},
        inputs=(((1, 9), "int32"), ((1,), "int32")),
    )
    weights = jax.tree.map(
        lambda w: np.full(w.shape, 0.5, np.float32), description.abstract()["params"]
    )
    masks = jax.tree.map(lambda w: np.arange(w.size).reshape(w.shape) % 4 > 0, weights)
    ticket = Ticket.of(description, weights, masks, {}, ["good", "naïve", "?!"])
    tickets.save(ticket, tmp_path / "text")
    reader = Reader(tmp_path / "text")
    words = zlib.decompress(reader.arrays["vocabulary"].tobytes()).decode()
    assert words.splitlines() == ["good", "naïve", "?!"]
    rebuilt = {}
    for path, leaf in leaves_of(weights).items():
        mask, found = reader.leaf(path, leaf.shape)
        rebuilt |= {f"params/{path}": found, f"masks/{path}": mask}
    assert reader.checksums(rebuilt)


def code_of_the_page():
    """The functions of the page that read a ticket, of the file in this folder."""
    wanted = ("reads-a-ticket", "samples-again")
    found = [b for b in of_page("tickets") if b.options.get("class") in wanted]
    reads, samples = (block.code for block in found)
    return reads.rpartition("print(")[0] + samples


def drawn_weights(key, subnetwork, params, refreshes):
    """Weights and masks after refreshes every three steps, by other scores each."""
    method = iterand(subnetwork, k_per=3, sampling_rate=0.3)
    scores, weights = method.init(key, params)
    for number in range(1, refreshes + 1):
        scores, _ = method.init(jax.random.fold_in(key, number), params)
        weights, _ = method.refresh(key, 3 * number, scores, weights)
    return weights, subnetwork.masks(scores)


@pytest.mark.parametrize("refreshes", [0, 5])
def test_the_page_samples_the_weights_of_a_tree_again(refreshes, tmp_path, monkeypatch):
    key, subnetwork = jax.random.key(7), Subnetwork(0.5, "kaiming_uniform")
    weights, masks = drawn_weights(
        key, subnetwork, {"kernel": jnp.zeros((60, 40))}, refreshes
    )
    rates = {"step": 3 * refreshes + 1, "k_per": 3, "sampling_rate": 0.3}
    save_ticket(
        *(tmp_path / "ticket.safetensors", weights, masks),
        **{"subnetwork": subnetwork, "key": key} | (rates if refreshes else {}),
    )
    monkeypatch.chdir(tmp_path)
    page = {}
    exec(code_of_the_page(), page)
    assert ("draw/kernel" in page["arrays"]) == bool(refreshes)
    assert not any(name.startswith("kept") for name in page["arrays"])
    found = page["sampled"]("kernel", (60, 40))
    assert found.dtype == np.float32
    assert np.array_equal(found, weights["kernel"] * masks["kernel"])


def test_the_page_samples_the_weights_of_a_run_again(tmp_path, monkeypatch):
    draws = Draws(3, "kaiming_uniform", 13, 4, 0.25, fan_ins={"kernel": 30})
    numbers = np.random.default_rng(0).integers(0, 3, (30, 20)).astype(np.int32)
    weights = draws.weights({"kernel": numbers})["kernel"]
    mask = np.arange(600).reshape(30, 20) % 5 > 2
    described = Description(network={"name": "mine"}, inputs=(), draws=draws)
    ticket = Ticket.of(described, {"kernel": weights}, {"kernel": mask}, {})
    tickets.save(ticket, Path(tmp_path / "ticket.safetensors"))
    monkeypatch.chdir(tmp_path)
    page = {}
    exec(code_of_the_page(), page)
    assert "draw/kernel" in page["arrays"]
    found = page["sampled"]("kernel", (30, 20))
    assert np.array_equal(found, weights * mask)
    reader = Reader(tmp_path / "ticket.safetensors")
    assert reader.checksums({"params/kernel": found, "masks/kernel": mask})
