#!/usr/bin/env bash
# Question: do OpenCV and Pillow give the same pixels of a PNG with 16 bits or
#   transparency, as uint8 RGB?
# Guess: 16-bit gray differs (OpenCV takes the high byte, Pillow clips); the rest agrees.
# Seen: (28 November 2026, OpenCV 5.0.0.93, Pillow 13.0.0) the guess was right. Of the
#   65,536 gray levels Pillow's convert("RGB") makes 255 of all above 254, while 16-bit
#   color, gray and palettes with transparency, and RGBA have the same pixels: both drop
#   the transparency. Part of the table "Data".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
venv/bin/pip install --quiet opencv-python-headless==5.0.0.93 pillow==13.0.0 \
  numpy==2.4.6
venv/bin/python -W ignore - <<'PYTHON'
import io

import cv2
import numpy as np
from PIL import Image

gray = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
high = (gray >> 8).astype(np.uint8)
palette = Image.fromarray(high, "L").convert("P")
files = {
    "16-bit gray": cv2.imencode(".png", gray)[1].tobytes(),
    "16-bit color": cv2.imencode(".png", np.dstack([gray, gray.T, gray]))[1].tobytes(),
}
for name, image, options in (
    ("gray with alpha", Image.fromarray(np.dstack([high, high.T]), "LA"), {}),
    ("RGBA", Image.fromarray(np.dstack([high, high, high.T, high.T]), "RGBA"), {}),
    ("palette with alpha", palette, {"transparency": bytes(range(256))}),
):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    files[name] = buffer.getvalue()
seen = {}
for name, encoded in files.items():
    by_opencv = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    image = Image.open(io.BytesIO(encoded))
    by_pillow = np.asarray(image.convert("RGB"))
    seen[name] = float((by_opencv != by_pillow).mean())
    print(f"{name} (Pillow's mode {image.mode}): {seen[name]:.1%} of the values differ")
assert seen.pop("16-bit gray") > 0.9
assert set(seen.values()) == {0}, seen
PYTHON
