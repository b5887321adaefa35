import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.training.checkpoint import Checkpoints, sha256, state_leaves

STATE = {
    "weights": {"kernel": jnp.linspace(-1, 1, 1000), "bias": None},
    "step": jnp.int32(5),
    "empty": {},
}


def abstract():
    return jax.eval_shape(lambda: STATE)


def save(folder, steps, keep=3):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        state = STATE | {"step": jnp.int32(step)}
        checkpoints.save(step, state, {"redrawn": 10 * step})
    checkpoints.close()


def restore(folder):
    checkpoints = Checkpoints(folder, keep=3)
    try:
        return checkpoints.restore(abstract())
    finally:
        checkpoints.close()


def damage(folder, step, how):
    files = [p for p in (folder / str(step) / "state").rglob("*") if p.is_file()]
    data = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    if how == "truncated":
        data.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    else:
        shutil.rmtree(folder / str(step) / "state")


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restore(tmp_path / "checkpoints") is None


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    save(tmp_path / "c", [5, 10])
    state, record = restore(tmp_path / "c")
    assert record == {"redrawn": 100}
    assert state["step"] == 10
    assert state["weights"]["bias"] is None
    assert state["empty"] == {}
    np.testing.assert_array_equal(
        state["weights"]["kernel"], STATE["weights"]["kernel"]
    )


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path / "c", [1, 2, 3, 4], keep=2)
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"3", "4"}


def test_a_saved_state_does_not_change_with_its_donated_buffers(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    state = STATE | {"weights": {"kernel": jnp.ones(100_000), "bias": None}}
    checkpoints.save(1, state, {})
    doubled = double(state["weights"]["kernel"])
    checkpoints.wait()
    restored, _ = checkpoints.restore(jax.eval_shape(lambda: state_of(doubled)))
    checkpoints.close()
    assert np.all(restored["weights"]["kernel"] == 1)


def state_of(kernel):
    return STATE | {"weights": {"kernel": kernel, "bias": None}}


@pytest.mark.parametrize("how", ["truncated", "flipped", "removed"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path, caplog, how
):
    folder = tmp_path / "c"
    save(folder, [5, 10])
    damage(folder, 10, how)
    state, record = restore(folder)
    assert state["step"] == 5
    assert record == {"redrawn": 50}
    assert str(folder / "10") in caplog.text
    assert (tmp_path / "damaged_checkpoints" / "10").is_dir()
    save(folder, [10])
    assert restore(folder)[0]["step"] == 10


def test_only_damaged_checkpoints_are_an_error_that_names_them(tmp_path):
    folder = tmp_path / "c"
    save(folder, [5, 10])
    damage(folder, 5, "flipped")
    damage(folder, 10, "truncated")
    with pytest.raises(ValueError, match=r"c/10.*c/5"):
        restore(folder)


def test_the_digest_sees_path_dtype_shape_and_bytes():
    leaves = state_leaves({"a": jnp.zeros((2, 3))})
    digests = {
        sha256(x)
        for x in (
            leaves,
            {"b": leaves["a"]},
            {"a": leaves["a"].reshape(3, 2)},
            {"a": leaves["a"].view(np.int32)},
            {"a": -leaves["a"]},
        )
    }
    assert len(digests) == 5
