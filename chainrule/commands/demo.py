"""The command `demo`: section 14.3 of the notes on a made-up world."""

from pathlib import Path

from chainrule.commands.options import Folder, Json, check_seed


def demo(
    out: Folder = Path("demo"),
    seed: int = 0,
    full: bool = False,
    json: Json = False,
) -> None:
    """Train a model on a made-up world in minutes, and try every adaptation on it.

    Section 14.3 of the CS229 notes from start to end. Interrupted, the same command continues.

    Options:
        out: Folder for the text, the model, the report and results.json.
        seed: Each seed makes another world.
        full: Add five seeds, and a control: a second model, trained on shuffled reviews.

    Example:
        chainrule demo --out demo
    """
    from chainrule.demo.story import run_demo
    from chainrule.storage.files import nothing_left_if_refused
    from chainrule.storage.locks import only_writer
    from chainrule.terminal import print_json

    check_seed(seed)
    saved, underway = ("run/training/*/state.json",), ("run/data/*.bin",)
    with only_writer(out), nothing_left_if_refused(out, saved=saved, underway=underway):
        results = run_demo(out, seed, full=full, quiet=json)
    if json:
        print_json(results)
