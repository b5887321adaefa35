import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_finds_a_subnetwork(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    shares = re.findall(r"([\d.]+)% of the digits", capsys.readouterr().out)
    assert len(shares) == 10
    assert float(shares[-1]) > 90


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_to_files(target):
    assert (ROOT / target).exists()


def test_the_papers_numbers_are_the_papers(papers_numbers):
    table = README.split("| config | network and data", 1)[1].split("\n\n", 1)[0]
    told = set(re.findall(r"\d\d\.\d\d+", table))
    assert len(told) > 30
    assert told <= set().union(*papers_numbers.values())


SIZES = json.loads((ROOT / "results" / "ticket_sizes.json").read_text())
KINDS = ("signed_constant", "edge_popup", "iterand_as_measured", "iterand_at_worst")
LABELS = {
    "cifar_conv6": "Conv6, sparsity 0.5",
    "cifar_resnet18": "ResNet18 (CIFAR form), 0.6",
    "imagenet_resnet50": "ResNet50 (ImageNet form), 0.7",
}


def test_the_sizes_of_tickets_are_those_of_the_record():
    table = README.split("| MB at width 1", 1)[1].split("\n\n", 1)[0]
    rows = []
    for name, sizes in SIZES["bytes"].items():
        dense = sizes["float32"]
        cells = [f"{sizes[k] / 1e6:.3f} ({dense / sizes[k]:.0f}x)" for k in KINDS]
        cells = [LABELS[name], f"{dense / 1e6:.2f}", *cells]
        rows.append(f"| {' | '.join(cells)} |")
    assert table.splitlines()[2:] == rows


def test_what_the_sizes_were_measured_in_is_that_of_the_record():
    run, sizes = SIZES["measured_in"], SIZES["bytes"]
    text = " ".join(README.split("*As measured*", 1)[1].split("## ", 1)[0].split())
    told = (
        f"from a Conv6 run (width {run['width']}, {run['epochs']} epochs, "
        f"{run['refreshes']} refreshes as in 100 epochs with K_per 300), where "
        f"{run['never_redrawn']:.0%} of the kept weights".replace("%", " %")
    )
    assert run["network"] == "conv6"
    assert told in text
    assert (
        f"every one of {sizes['cifar_conv6']['refreshes']} (CIFAR) or "
        f"{sizes['imagenet_resnet50']['refreshes']:,} (ImageNet) refreshes" in text
    )


def test_the_changelog_has_the_sizes_of_the_record():
    sizes = SIZES["bytes"]["cifar_resnet18"]
    signed, dense = sizes["signed_constant"] / 1e6, sizes["float32"] / 1e6
    text = " ".join((ROOT / "CHANGELOG.md").read_text().split())
    assert f"{signed:.3f} MB of masks and signs against {dense:.2f} MB" in text
