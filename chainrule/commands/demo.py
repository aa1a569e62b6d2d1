"""The command `demo`: section 14.3 on a made-up world."""

from pathlib import Path

from chainrule.commands.options import Json


def demo(out: Path = Path("demo"), seed: int = 0, full: bool = False, json: Json = False) -> None:
    """Section 14.3 from nothing: a made-up world, pretraining on it, samples, the chain rule, and every adaptation.

    Args:
        out: The folder that the corpus, the model, the report and results.json go to.
        seed: Of the world and of the training.
        full: Five seeds, and a second pretraining whose reviews mix the polarities, as a control.
        json: Print one JSON document.
    """
    from chainrule.demo.story import tell
    from chainrule.terminal import print_json

    results = tell(out, seed, full=full, quiet=json)
    if json:
        print_json(results)
