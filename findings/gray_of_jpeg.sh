#!/usr/bin/env bash
# Question: is there one gray image of a color JPEG?
# Guess: OpenCV and Pillow differ by 1 at most, from rounding.
# Seen: (28 November 2026, OpenCV 5.0.0.93, Pillow 13.0.0) of the same file the two
#   differ by more than 10 levels where a color leaves the range, as OpenCV takes the
#   file's luminance and Pillow's convert("L") recomputes it of clipped colors. Pillow
#   alone has both: with draft("L") it gives OpenCV's. Gray of a PNG differs by 1 in
#   half of the pixels, as the weights are rounded in another way, and a CMYK JPEG in
#   nearly all. Part of the table "Data".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
venv/bin/pip install --quiet opencv-python-headless==5.0.0.93 pillow==13.0.0 \
  numpy==2.4.6
venv/bin/python - <<'PYTHON'
import io

import cv2
import numpy as np
from PIL import Image

pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def file(image_format, mode="RGB"):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(buffer, image_format, quality=90)
    return buffer.getvalue()


def opencv(encoded, flags):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags).astype(int)


def pillow(encoded, mode, draft=None):
    image = Image.open(io.BytesIO(encoded))
    image.draft(draft, image.size)
    return np.asarray(image.convert(mode)).astype(int)


jpeg, png, cmyk = file("JPEG"), file("PNG"), file("JPEG", "CMYK")
gray, color = cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR_RGB
pairs = {
    "color JPEG in color": (opencv(jpeg, color), pillow(jpeg, "RGB")),
    "color JPEG in gray": (opencv(jpeg, gray), pillow(jpeg, "L")),
    "the same, Pillow with draft": (opencv(jpeg, gray), pillow(jpeg, "L", "L")),
    "color PNG in gray": (opencv(png, gray), pillow(png, "L")),
    "CMYK JPEG in color": (opencv(cmyk, color), pillow(cmyk, "RGB")),
}
seen = {}
for name, (one, other) in pairs.items():
    gap = np.abs(one - other)
    seen[name] = (int(gap.max()), float((gap > 0).mean()))
    print(f"{name}: {seen[name][1]:.1%} of the values differ, by {gap.max()} at most")
assert [most for most, _ in seen.values()] == [0, 12, 0, 1, 1], seen
assert seen["color PNG in gray"][1] > 0.4
assert seen["CMYK JPEG in color"][1] > 0.9
PYTHON
