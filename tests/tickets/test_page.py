"""The page "Tickets" is enough to read any ticket: NumPy, safetensors, and its text.

`Reader` was written from the page and shares no code with the library or with the
page's own blocks, which are executed here too.
"""

import hashlib
import itertools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from iterand_jax import Rule, Subnetwork, iterand, save_ticket
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
        if form == 11:
            return self.groups(code[1:], count)
        return self.runs(code[1:], count, others=form == 10)

    def filled(self, code):
        inflate = zlib.decompressobj(wbits=-15)  # a filled code has zeros behind
        inflate.decompress(bytes(code[1:]))
        return self.numbers(code[: len(code) - len(inflate.unused_data)])

    def groups(self, code, count):
        n, m, stride = int(code[0]), int(code[1]), int.from_bytes(code[2:6], "little")
        places = sorted(itertools.combinations(range(m), n), key=lambda c: c[::-1])
        digits = max(d for d in range(1, 9) if d == 1 or len(places) ** d <= 256)
        bits, group = np.zeros(count, bool), 0
        for number in self.filled(code[6:]):
            for digit in range(min(digits, count // m - group)):
                first = group // stride * m * stride + group % stride
                for place in places[number // len(places) ** digit % len(places)]:
                    bits[first + place * stride] = True
                group += 1
        return bits

    def runs(self, code, count, *, others):
        bits, place = np.full(count, others), -1
        for gap in self.filled(code):
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


def a_tree():
    """Weights and masks that take every form of array, and of code."""
    rng = np.random.default_rng(0)

    def masked(share, weights):
        return weights.astype(np.float32), (rng.random(weights.shape) < share) * 1.0

    signs = np.where(rng.random((200, 50)) < 0.5, -1, 1) * np.sqrt(np.float32(2 / 200))
    coats = rng.choice([1.0, 2.0, 3.0], signs.shape, p=[0.9, 0.06, 0.04])
    leaves = {
        "half": masked(0.5, signs),
        "rare": masked(0.01, signs),
        "often": masked(0.99, signs),
        "large": masked(0.35, np.tile(signs, (2, 10))),
        "coats": masked(0.3, signs * coats),
        "positive": masked(0.3, abs(signs)),
        "normal": masked(0.2, rng.standard_normal((50, 40))),
        "bias": (np.float32([0.5, -0.0, 3]), None),
        "steps": (np.int32([[7]]), None),
        "halves": (jnp.array([0.1, -2.5], jnp.bfloat16), None),
    }
    weights = {"deep": {name: leaf for name, (leaf, _) in leaves.items()}}
    return weights, {"deep": {name: mask for name, (_, mask) in leaves.items()}}


def test_the_text_reads_every_form_of_array_and_code(tmp_path):
    weights, masks = a_tree()
    statistics = {"mean": np.float32([1, 2, 3]), "count": np.float32(5)}
    save_ticket(tmp_path / "tree", weights, masks, batch_stats=statistics)
    reader = Reader(tmp_path / "tree")
    assert reader.fields["version"] == 3
    kinds = {name.split("/")[0] for name in reader.arrays}
    bits = {"mask", "mask_code", "sign", "sign_code", "scale", "level_code", "levels"}
    assert kinds == bits | {"kept", "leaf", "batch_stats"}
    forms = {int(a[0]) for name, a in reader.arrays.items() if "_code/" in name}
    assert {9, 10} < forms
    assert forms & {5, 6, 7, 8}
    rebuilt = {}
    for name, (shape, dtype) in reader.fields["leaves"].items():
        if name.startswith("batch_stats/"):
            rebuilt[name] = reader.arrays[name]
            continue
        path = name.removeprefix("params/")
        mask, found = reader.leaf(path, shape)
        rebuilt[name] = found
        key = path.split("/")[1]
        expected = np.asarray(weights["deep"][key])
        if mask is not None:
            rebuilt[f"masks/{path}"] = mask
            assert np.array_equal(mask, masks["deep"][key])
            expected = np.where(mask, expected, np.float32(0))
        elif dtype == "bfloat16":
            expected = expected.view(np.uint16)
        assert found.tobytes() == expected.tobytes(), name
    assert reader.checksums(rebuilt)
    rebuilt["params/deep/half"] = -rebuilt["params/deep/half"]
    assert not reader.checksums(rebuilt)


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


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "5:16"])
def test_the_text_reads_masks_in_groups(pattern, tmp_path):
    rng, tree = np.random.default_rng(0), {"b": np.zeros(3, np.float32)}
    tree |= {
        "dense": rng.standard_normal((16, 50)).astype(np.float32),
        "conv": rng.standard_normal((3, 3, 64, 10)).astype(np.float32),
    }
    rules = [Rule("b", False), Rule("*", True, in_axis=-2, out_axis=-1)]
    subnetwork = Subnetwork(pattern=pattern, distribution=None, rules=rules)
    masks = subnetwork.masks(subnetwork.init(jax.random.key(0), tree)[0])
    save_ticket(tmp_path / "tree", tree, masks)
    reader = Reader(tmp_path / "tree")
    assert reader.fields["version"] == 4
    grouped = 0
    for name in ("dense", "conv"):
        mask, found = reader.leaf(name, tree[name].shape)
        grouped += int(reader.arrays.get(f"mask_code/{name}", [0])[0]) == 11
        assert np.array_equal(mask, masks[name] != 0)
        assert np.array_equal(found, np.where(mask, tree[name], np.float32(0)))
    assert grouped
