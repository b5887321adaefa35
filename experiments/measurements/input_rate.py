"""The throughput of the ImageNet loader, in images/s.

    python -m experiments.measurements.input_rate

It writes synthetic JPEG files, prepares them as ImageNet, and times Grain making
training batches of 128 from them, without training at the same time. The photographs
are noise whose amplitude falls as 1/f^1.2, about as a photograph's does, of 500 x 375
pixels at quality 93, so that a file has about 119 KB; ImageNet's have 115 KB on
average. The time to decode depends on both numbers. The files are in memory: a slow
disk is not measured.
"""

import contextlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from experiments.measurements import records
from iterand_jax.data import imagenet, prepare
from iterand_jax.runtime import cli
from iterand_jax.runtime.hosts import cores

NEEDED = 2500  # images/s of ResNet50 on an A100
BATCH_SIZE = 128
SIZE = 224
WINDOWS = 5  # timed; the median is reported
IMAGES = 512  # per epoch
QUALITY = 93  # of JPEG


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "workers",
        None,
        "numbers of processes, separated by commas, as 0,1,2,4; default: 0, and powers "
        "of 2 up to the number of cores",
    )
    records.define_out()


def main() -> None:
    """Measures, prints a table and the settings to use, and writes the record."""
    given = flags.FLAGS.workers
    if given and not all(map(str.isdecimal, given)):
        raise ValueError(
            f"--workers={','.join(given)}; possible: numbers separated by commas"
        )
    counts = [int(n) for n in given] if given else powers()
    with tempfile.TemporaryDirectory() as folder:
        size = write_dataset(Path(folder), IMAGES)
        rates = {str(n): measure(folder, n, BATCH_SIZE) for n in counts}
    record = {
        "images_per_second": rates,
        "needed": NEEDED,
        "bytes_per_image": round(size),
        "image": f"noise of amplitude 1/f^1.2, 500 x 375, JPEG quality {QUALITY}",
        "crop": SIZE,
        "batch_size": BATCH_SIZE,
        "windows": WINDOWS,
        "cores": cores(),
        **records.origin(),
    }
    print(report(rates, cores()))
    records.write(flags.FLAGS.out, record)


def powers() -> list[int]:
    """0, 1, 2, 4, ... up to the number of cores, and that number."""
    return sorted({0, cores(), *(1 << i for i in range(cores().bit_length()))})


def report(rates: dict[str, float], cores: int) -> str:
    """The table of a measurement, and the settings to use.

    If some numbers of workers suffice, the smallest is scaled down; otherwise the
    fastest is scaled up to the number of cores, unless more workers were no faster.
    """
    lines = ["workers  images/s"]
    lines += [f"{workers:>7}  {rate:8,.0f}" for workers, rate in rates.items()]
    measured = {int(workers): rate for workers, rate in rates.items()}
    enough = [workers for workers, rate in measured.items() if rate >= NEEDED]
    best = min(enough) if enough else max(measured, key=lambda n: measured[n])
    threads = max(best, 1)  # decoding: with 0 workers, a thread of this process
    per_worker = measured[best] / min(threads, cores)
    wanted = math.ceil(NEEDED / per_worker)
    lines.append(
        f"ResNet50 takes about {NEEDED:,} images/s on an A100: {wanted} workers with a "
        f"core each, at {per_worker:,.0f} images/s each."
    )
    rises = max(measured) <= threads < cores
    if enough or (rises and wanted <= cores):
        return "\n".join([*lines, f"Set --config.dataset.workers={wanted}."])
    setting = cores if rises else best
    expected = per_worker * cores if rises else measured[best]
    lines.append(
        f"The cores here ({cores}) feed {expected / NEEDED:.0%} of that: set "
        f"--config.dataset.workers={setting}, and expect {expected:,.0f} images/s at "
        "most."
    )
    return "\n".join(lines)


def measure(folder: str, workers: int, batch_size: int) -> float:
    """Images/s of training batches, the median of some windows after a warm-up."""
    source = imagenet.open_imagenet(folder).read("train")
    batches = imagenet.train_batches(source, seed=0, size=SIZE, batch_size=batch_size)
    window = max(4, 2 * workers)
    with contextlib.closing(imagenet.iterate(batches, workers=workers)) as iterator:
        # More batches than are prefetched, so that none was made before timing began.
        for _ in range(3 * window):
            next(iterator)
        rates = []
        for _ in range(WINDOWS):
            start = time.perf_counter()
            for _ in range(window):
                next(iterator)
            rates.append(window * batch_size / (time.perf_counter() - start))
    return statistics.median(rates)


def write_dataset(folder: Path, images: int) -> float:
    """Prepares a dataset of photographs; returns the mean file size in bytes."""
    sizes = []
    for split, number in (("train", images), ("val", 1)):
        path = folder / "files" / split / "n01440764"
        path.mkdir(parents=True)
        for index, encoded in enumerate(photographs(number)):
            (path / f"n01440764_{index}.JPEG").write_bytes(encoded)
            sizes.append(len(encoded))
    prepare.prepare(imagenet.NAME, str(folder), str(folder / "files"))
    return statistics.mean(sizes)


def photographs(number: int, height: int = 375, width: int = 500) -> Iterator[bytes]:
    """JPEG files of noise with the spectrum of photographs, in three equal channels."""
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    frequency = np.hypot(rows[:, None], columns)
    frequency[0, 0] = 1
    for index in range(number):
        generator = np.random.default_rng(index)
        grey = generator.standard_normal((height, width, 1))
        colours = generator.standard_normal((height, width, 3))
        noise = np.fft.rfft2(0.8 * grey + 0.6 * colours, axes=(0, 1))
        noise = noise * frequency[..., None] ** -1.2
        pixels = np.fft.irfft2(noise, s=(height, width), axes=(0, 1))
        pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 118
        buffer = io.BytesIO()
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(buffer, "JPEG", quality=QUALITY)
        yield buffer.getvalue()


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", unwinds=True)


if __name__ == "__main__":
    run()
