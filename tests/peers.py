"""Other libraries that tests compare with."""

import pytest


def torchvision():
    """torchvision, or a skip where it is not installed.

    Tests need none of its compiled operators, which do not load beside a PyTorch of
    another build, as one for CPUs. Its import then asks for two declarations.
    """
    torch = pytest.importorskip(
        "torch", reason="the peers need PyTorch: pip install -e '.[peer]'"
    )
    try:
        return pytest.importorskip(
            "torchvision", reason="needs torchvision: pip install -e '.[peer]'"
        )
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    schema = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", schema)
    import torchvision

    return torchvision
