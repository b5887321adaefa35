"""Leaves that are trained, fixed or given: what changes, and what stays readable."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork, load_ticket
from iterand_jax.analysis import report
from iterand_jax.methods import Method, build_method, edge_popup
from iterand_jax.rules import DEFAULT_RULES
from iterand_jax.training import building, exporting, leaves, train, workdir
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.replica import MISSING_FILE
from iterand_jax.training.startup import Startup
from iterand_jax.trees import leaves_of
from tests import helpers

SOURCE = helpers.reviews_source()
EMBEDDING = "Embed_0/embedding"
PARAMS = {"a": {"kernel": jnp.ones((4, 2))}, "b": {"kernel": jnp.ones((2, 3))}}
FIELDS = {"k_per": 1, "sampling_rate": 1.0}


def method_of(name, *entries, given=()):
    treatments = leaves.parse(entries)
    rules = (*(t.rule for t in treatments), *DEFAULT_RULES)
    method = build_method(name, Subnetwork(0.5, "kaiming_uniform", rules), FIELDS)
    return leaves.treated(method, treatments, given)


def start(method):
    return method.init(jax.random.key(0), PARAMS)


def gradients(method, trainable, frozen):
    def total(trainable):
        params = method.params(trainable, frozen, 0)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

    return leaves_of(jax.grad(total)(trainable))


@pytest.mark.parametrize("name", ["edge_popup", "iterand"])
def test_a_trained_leaf_gets_the_gradient_of_a_weight(name):
    method = method_of(name, "b/*=trained")
    scores, weights = start(method)
    assert leaves_of(scores).keys() == {"a/kernel", "b/kernel"}
    assert leaves_of(weights).keys() == {"a/kernel"}
    of_scores = gradients(method, scores, weights)
    np.testing.assert_array_equal(of_scores["a/kernel"], weights["a"]["kernel"])
    np.testing.assert_array_equal(of_scores["b/kernel"], jnp.ones((2, 3)))
    assert method.masks(scores, weights, 0)["b"]["kernel"] is None
    whole = method.weights(scores, weights)
    np.testing.assert_array_equal(whole["b"]["kernel"], PARAMS["b"]["kernel"])


def test_what_is_not_trained_is_drawn_and_refreshed_as_without():
    plain, method = method_of("iterand", "b/*"), method_of("iterand", "b/*=trained")
    scores, weights = start(method)
    plain_scores, plain_weights = start(plain)
    key = jax.random.key(1)
    new, redrawn = method.refresh(key, 1, scores, weights)
    expected, plain_redrawn = plain.refresh(key, 1, plain_scores, plain_weights)
    assert int(redrawn) == int(plain_redrawn) == 4
    assert new["b"]["kernel"] is None
    np.testing.assert_array_equal(new["a"]["kernel"], expected["a"]["kernel"])
    assert np.any(new["a"]["kernel"] != weights["a"]["kernel"])


def test_a_fixed_leaf_of_trained_weights_gets_no_gradient():
    method = method_of("sgd", "b/*=fixed")
    weights, frozen = start(method)
    assert leaves_of(weights).keys() == {"a/kernel"}
    assert gradients(method, weights, frozen).keys() == {"a/kernel"}
    whole = leaves_of(method.params(weights, frozen, 0))
    np.testing.assert_array_equal(whole["b/kernel"], PARAMS["b"]["kernel"])
    assert leaves_of(method.weights(weights, frozen)).keys() == whole.keys()


def test_noise_penalty_and_projection_are_of_what_the_method_trains():
    key = jax.random.key(0)
    rules = leaves.parse(["b/*=trained"])
    subnetwork = Subnetwork(0.0, rules=(rules[0].rule, *DEFAULT_RULES))
    plain = build_method("relaxed_bernoulli", subnetwork, {"gate_penalty": 1.0})
    bounded = dataclasses.replace(plain, project=lambda t: jax.tree.map(jnp.sign, t))
    method = leaves.treated(bounded, rules)
    gates, weights = start(method)
    alone, whole = start(plain)
    seen = method.noisy(key, gates, weights, 0)
    np.testing.assert_array_equal(seen["b"]["kernel"], PARAMS["b"]["kernel"])
    expected = plain.noisy(key, alone, whole, 0)
    np.testing.assert_array_equal(seen["a"]["kernel"], expected["a"]["kernel"])
    assert method.penalty(gates) == plain.penalty(alone)
    half = {"a": gates["a"], "b": jax.tree.map(lambda leaf: leaf / 2, gates["b"])}
    after = leaves_of(method.project(half))
    np.testing.assert_array_equal(after["a/kernel"], np.sign(gates["a"]["kernel"]))
    np.testing.assert_array_equal(after["b/kernel"], half["b"]["kernel"])

    def negated(key, weights, frozen, step):
        return jax.tree.map(jnp.negative, weights)

    dense = dataclasses.replace(method_of("sgd"), noisy=negated)
    fixed = leaves.treated(dense, leaves.parse(["b/*=fixed"]))
    seen = fixed.noisy(key, *start(fixed), 0)
    np.testing.assert_array_equal(seen["b"]["kernel"], -start(dense)[0]["b"]["kernel"])


@pytest.mark.parametrize(
    ("name", "entries"), [("sgd", ["b/*=trained"]), ("edge_popup", ["b/*=fixed"])]
)
def test_what_a_method_does_anyway_changes_nothing(name, entries):
    treatments = leaves.parse(entries)
    rules = (*(t.rule for t in treatments), *DEFAULT_RULES)
    method = build_method(name, Subnetwork(0.5, rules=rules), {})
    assert leaves.treated(method, treatments) is method


def test_the_first_pattern_that_matches_counts():
    method = method_of("edge_popup", "b/kernel", "*/kernel=trained")
    with pytest.raises(ValueError, match="prune none of the leaves"):
        start(method)
    method = method_of("edge_popup", "b/kernel", "b*=trained")
    assert leaves_of(start(method)[0]).keys() == {"a/kernel"}


@pytest.mark.parametrize("name", ["edge_popup", "sgd"])
def test_given_weights_are_those_of_the_parameters(name):
    method = method_of(name, given=["b/kernel"])
    weights = leaves_of(method.weights(*start(method)))
    np.testing.assert_array_equal(weights["b/kernel"], PARAMS["b"]["kernel"])
    assert np.any(weights["a/kernel"] != PARAMS["a"]["kernel"])
    drawn = start(method_of(name))[0]
    np.testing.assert_array_equal(
        leaves_of(start(method)[0])["a/kernel"], drawn["a"]["kernel"]
    )


def test_a_method_with_other_trees_is_refused():
    popup = edge_popup(Subnetwork())

    def flat(key, params):
        scores, weights = popup.init(key, params)
        return leaves_of(scores), list(leaves_of(weights).values())

    method: Method = dataclasses.replace(popup, init=flat)
    method = leaves.treated(method, leaves.parse(["b/*=trained"]))
    with pytest.raises(ValueError, match="affine: the method does not train scores"):
        start(method)


@pytest.mark.parametrize("entry", ["=trained", "a=scored", "a=", 3])
def test_what_is_not_possible_is_refused_in_one_line(entry):
    message = re.escape(f"unpruned: {entry!r} is not possible; possible: PATTERN, ")
    with pytest.raises(ValueError, match=message + "PATTERN=trained, PATTERN=fixed$"):
        leaves.parse([entry])


@pytest.mark.parametrize("patterns", [("nothing",), ("a*", "a/kernel=fixed")])
def test_a_pattern_that_is_the_first_for_no_leaf_is_refused(patterns):
    last = patterns[-1].partition("=")[0]
    message = f"unpruned: '{last}' is the first to match no leaf; possible: a/kernel, b"
    with pytest.raises(ValueError, match=message):
        leaves.check_patterns(leaves.parse(patterns), PARAMS)


VECTORS = {"a": (1.0, 2.0, 3.0), "good": (4.0, 5.0, 6.0), "other": (9.0, 9.0, 9.0)}


def write_vectors(path):
    lines = (f"{word} {' '.join(map(str, row))}\n" for word, row in VECTORS.items())
    path.write_text("".join(lines))


@pytest.fixture
def vectors_file(tmp_path):
    path = tmp_path / "vectors.txt"
    write_vectors(path)
    return path


CELLS = [
    ("edge_popup", f"{EMBEDDING}=trained", True),
    ("edge_popup", f"{EMBEDDING}=fixed", False),
    ("edge_popup", None, False),  # its vectors are masked
    ("iterand", f"{EMBEDDING}=trained", True),
    ("sgd", f"{EMBEDDING}=fixed", False),
    ("sgd", None, True),
]


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize(("method", "entry", "changes"), CELLS)
def test_a_run_trains_and_keeps_the_vectors_as_it_says(
    method, entry, changes, reviews_config, vectors_file, tmp_path
):
    """Killed and continued it gives the same; its ticket, evaluation and analysis."""
    config = reviews_config(
        method=method,
        epochs=1,
        unpruned=(entry,) if entry else None,
        **{"network.vectors": str(vectors_file), "test_best": "loss"},
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(resolve(config)))
    built = helpers.build(config, SOURCE)
    given, read = built.read_vectors()
    begun = leaves_of(built.weights(built.init_state(built.root, given)))[EMBEDDING]
    words = built.feed.files()["vocabulary.txt"].split()
    assert read.missing == tuple(word for word in words if word not in VECTORS)
    assert len(read.missing) == len(words) - 2
    for row, word in enumerate(words, start=2):
        np.testing.assert_array_equal(begun[row], VECTORS.get(word, (0, 0, 0)))
    assert not np.any(begun[:2])
    with helpers.killed(at=10):  # the checkpoint is of step 6
        helpers.train(config, folder, SOURCE)
    vectors_file.unlink()  # a run that continues has them
    outcome = helpers.train(config, folder, SOURCE)
    whole = tmp_path / "whole"
    write_vectors(vectors_file)
    assert outcome.state_sha256 == helpers.train(config, whole, SOURCE).state_sha256
    assert (folder / MISSING_FILE).read_text().split() == list(read.missing)
    run, state, _ = workdir.restore(folder)
    ended = leaves_of(run.weights(state))[EMBEDDING]
    assert np.any(ended != begun) == changes
    path = tmp_path / "ticket.safetensors"
    exporting.export(folder, "ticket", path)
    params = leaves_of(load_ticket(path).params)
    expected = leaves_of(run.params(state))
    for name, leaf in expected.items():
        np.testing.assert_array_equal(params[name], leaf)
    again = Evaluator(built)(state, "test")
    assert again.accuracy == outcome.test_accuracy
    if method != "sgd":
        of_run, of_ticket = report.report(folder), report.report(path)
        paths = [layer.path for layer in of_run.layers]
        assert (EMBEDDING in paths) == (entry is None)
        assert [layer.kept for layer in of_ticket.layers] == [
            layer.kept for layer in of_run.layers
        ]


def test_scored_vectors_are_not_resampled(reviews_config, vectors_file):
    config = reviews_config(**{"network.vectors": str(vectors_file), "unpruned": None})
    message = rf"network.vectors=.*: {EMBEDDING} has scores, and the method iterand .*"
    with pytest.raises(ValueError, match=message + rf"unpruned=\('{EMBEDDING}=fixed'"):
        helpers.build(config, SOURCE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot read the vectors in .*vectors\.txt: No such file"),
        ("", r"line 1 of the vectors .* has 0 numbers; possible: 3"),
        ("a 1 2\n", r"line 1 of the vectors .* has 2 numbers; possible: 3"),
        ("a 1 2 3 4\n", r"line 1 of the vectors .* has 4 numbers; possible: 3"),
    ],
)
def test_a_wrong_file_is_refused_before_the_workdir_is_taken(
    text, message, reviews_config, vectors_file, tmp_path
):
    vectors_file.unlink()
    if text is not None:
        vectors_file.write_text(text)
    config = resolve(
        reviews_config(method="sgd", **{"network.vectors": str(vectors_file)})
    )
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        train._train(config, SOURCE, folder, Startup(), (), building.NOTHING_GIVEN)
    assert not folder.exists()


def test_vectors_of_images_and_of_magnitude_pruning_are_refused(
    tiny_config, imp_config
):
    with pytest.raises(ValueError, match=r"network.vectors=v: .* digits has no words"):
        resolve(tiny_config(**{"network.vectors": "v"}))
    fixed = imp_config(unpruned=("Dense_2/kernel=fixed",))
    with pytest.raises(ValueError, match=r"method imp .*unpruned=\['Dense_2/kernel'\]"):
        resolve(fixed)
