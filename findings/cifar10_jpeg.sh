#!/usr/bin/env bash
# Question: what did JPEG do to a CIFAR-10 of which only the JPEG files are there, and to
#   which classes most?
# Guess: one quality for all files; trucks and frogs lose most; a second pass at the same
#   quality changes nearly every image a little, by 40 dB.
# Seen: (28 November 2026, Pillow 13.0.0, this copy only) quality 75, 4:2:0, no image
#   twice. The columns at the 8 x 8 blocks' edges differ by 19 % more than those inside
#   for airplanes and birds, by 5 % for automobiles and 6 % for trucks, whose own edges
#   hide it: smooth classes carry the mark of JPEG. A second pass leaves 60 % of the
#   images unchanged (76 % of deer, 37 % of trucks): clipped colors are what it moves.
# Usage: TFDS_DATA_DIR=FOLDER findings/cifar10_jpeg.sh. It is the table "Data".
set -euo pipefail
export DATA=${1:-${TFDS_DATA_DIR:?the folder of cifar10/3.0.2 as array records}}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
"venv/bin/pip" install --quiet tensorflow-datasets==4.9.10 array-record==0.8.6 \
  importlib-resources==7.1.0 pillow==13.0.0
"venv/bin/python" - <<'PYTHON'
import collections
import hashlib
import io
import os

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

builder = tfds.builder(
    "cifar10", data_dir=os.environ["DATA"], file_format="array_record"
)
names = builder.info.features["label"].names
raw = {"image": tfds.decode.SkipDecoding()}
forms, seen, repeats = collections.Counter(), {}, collections.Counter()
rows = {name: collections.defaultdict(list) for name in names}
for split in ("train", "test"):
    source = builder.as_data_source(split, decoders=raw)
    for record in source.__getitems__(range(len(source))):
        image = Image.open(io.BytesIO(record["image"]))
        pixels = np.asarray(image).astype(np.int32)
        tables = tuple(table[0] for table in image.quantization.values())
        forms[image.format, tables, tuple(layer[1:3] for layer in image.layer)] += 1
        digest = hashlib.sha256(pixels.tobytes()).digest()
        if digest in seen:
            repeats[f"{split} of {seen[digest]}"] += 1
        seen.setdefault(digest, split)
        if split == "test":
            continue
        again = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(again, "JPEG", quality=75)
        other = np.asarray(Image.open(again)).astype(np.int32)
        steps = np.abs(np.diff(pixels, axis=1)).mean((0, 2))  # between columns
        edges = steps[7::8]
        row = rows[names[record["label"]]]
        row["bytes"].append(len(record["image"]))
        row["detail"].append(steps.mean())
        row["edge"].append(edges.mean())
        row["inside"].append(np.delete(steps, slice(7, None, 8)).mean())
        row["again"].append(((pixels - other) ** 2).mean())
        row["same"].append((pixels == other).all())
print("files:", dict(forms))
print("repeats:", dict(repeats))
for name, row in rows.items():
    mean = {key: np.mean(values) for key, values in row.items()}
    print(
        f"{name:11} {mean['bytes']:6.0f} bytes, edges of blocks "
        f"{mean['edge'] / mean['inside']:.3f} of the steps inside, a second pass "
        f"{10 * np.log10(255**2 / mean['again']):.1f} dB, unchanged {np.mean(row['same']):.2%}"
    )
edges = {n: np.mean(r["edge"]) / np.mean(r["inside"]) for n, r in rows.items()}
same = {n: float(np.mean(r["same"])) for n, r in rows.items()}
assert list(forms) == [("JPEG", (8, 9), ((2, 2), (1, 1), (1, 1)))]
assert not repeats
assert sorted(edges, key=edges.get)[:2] == ["automobile", "truck"]
assert {n for n in edges if edges[n] > 1.18} == {"airplane", "bird"}
assert min(same, key=same.get) == "truck" and max(same, key=same.get) == "deer"
PYTHON
