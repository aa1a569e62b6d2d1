"""The command `zero-shot`: a task asked without demonstrations."""

from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.accuracy import tell_prompted
from chainrule.commands.options import Asking, Columns, Device, Dtype, Json


def zero_shot(
    model: Positional[str],
    task: Positional[str],
    /,
    columns: OmitArgPrefixes[Columns] = Columns(),
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: OmitArgPrefixes[Asking] = Asking(),
    limit: int | None = None,
    show: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Put the task as a question or a cloze: the answer is what the model finds most probable. Its accuracy on test.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        answer: The most probable label word, or the most probable next word of the whole vocabulary.
        limit: So many test items, drawn always alike.
        show: Print so many exact prompts and what was answered.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.adaptation.measure import measure
    from chainrule.adaptation.prompted import zero_shot
    from chainrule.language_model import load

    read = columns.load(task)
    predictor = zero_shot(load(model, device=device, dtype=dtype), read, answer=answer, **vars(asking))
    score = measure(predictor, read, limit)
    tell_prompted([predictor], read, [score], limit, show, json)
