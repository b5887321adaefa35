"""Writes a ticket from a state dict of PyTorch: what others trained, in our networks.

python -m iterand_jax.convert FILE --network=NAME --output=TICKET [--width=X]
    [--sparsity=X|--kept=X --ranked_by=score|magnitude] [--rename=OLD=NEW]
"""

from absl import flags

from iterand_jax.runtime import cli

RANKED_BY = ("score", "magnitude")
RANKS = ("count", "quantile", "floor")
VALUES = ("masked", "binary", "scaled")


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("network", None, "the name of a network")
    cli.define_path("output", None, "the ticket, a file or its URL")
    flags.DEFINE_float("width", 1.0, "the width factor of the network")
    flags.DEFINE_float(
        "sparsity", None, "the fraction of weights that is removed by scores"
    )
    flags.DEFINE_float("kept", None, "the fraction that is kept, instead of --sparsity")
    flags.DEFINE_enum(
        "ranked_by", None, RANKED_BY, "whether scores or their magnitudes are ranked"
    )
    flags.DEFINE_enum(
        "rank",
        "count",
        RANKS,
        "how many of n scores a sparsity p removes: see docs/convert.md",
    )
    flags.DEFINE_list(
        "scope",
        [],
        "patterns of paths that share a threshold; default: one for each leaf",
    )
    flags.DEFINE_enum("kept_values", "masked", VALUES, "what a mask makes of weights")
    flags.DEFINE_integer(
        "image_size",
        None,
        "pixels of a side; default: from the shapes of the layers",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "mean",
        None,
        "of each channel, of pixels / 255; default: inputs are normalized already",
    )
    flags.DEFINE_list("std", None, "of each channel, of pixels / 255; with --mean")
    flags.DEFINE_list(
        "rename",
        [],
        "OLD=NEW for parts of names between dots; several: separated by commas",
    )
    flags.DEFINE_list("ignore", [], "patterns of names that are left out")


def _numbers(name: str) -> tuple[float, ...] | None:
    given = flags.FLAGS[name].value
    try:
        return None if given is None else tuple(map(float, given))
    except ValueError:
        raise ValueError(
            f"--{name}={','.join(given or ())}; possible: numbers separated by commas"
        ) from None


def main(path: str = "") -> None:
    """Converts the file that the argument names."""
    from iterand_jax.tickets import conversion, states, tree
    from iterand_jax.tickets.ticket import load

    values = flags.FLAGS
    if not path:
        raise ValueError("give the state dict: python -m iterand_jax.convert FILE")
    if values.sparsity is not None and values.kept is not None:
        raise ValueError("give one of --sparsity=X and --kept=X")
    output = tree.target(values.output)
    sparsity = values.sparsity if values.kept is None else 1 - values.kept
    state = states.state_of(states.read(path), values.rename, values.ignore)
    ticket, notes = conversion.convert(
        state,
        values.network,
        conversion.Pruning(
            sparsity=sparsity,
            ranked_by=values.ranked_by,
            rank=values.rank,
            scope=tuple(values.scope),
            values=values.kept_values,
        ),
        width=values.width,
        image_size=values.image_size,
        mean=_numbers("mean"),
        std=_numbers("std"),
    )
    ticket.save(output)
    load(values.output)  # one that cannot be read back is refused here
    print("\n".join([repr(ticket), *(f"  {note}" for note in notes)]))
    print(f"wrote {values.output}")


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        required=("network", "output"),
        positional=1,
        again="starts again",
        prints_result=False,
        loads=("iterand_jax.tickets.conversion",),
    )


if __name__ == "__main__":
    run()
