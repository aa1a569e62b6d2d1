"""The command `in-context`: a task asked with demonstrations in the prompt."""

from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.accuracy import tell_prompted
from chainrule.commands.options import Asking, Columns, Device, Dtype, Json

if TYPE_CHECKING:
    from chainrule.adaptation.prompted import Prompted


def in_context(
    model: Positional[str],
    task: Positional[str],
    /,
    columns: OmitArgPrefixes[Columns] = Columns(),
    shots: int = 16,
    select: Literal["random", "balanced", "nearest"] = "random",
    by: Literal["features", "bm25"] = "features",
    labels: int | None = None,
    seeds: int = 1,
    spread: bool = False,
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: OmitArgPrefixes[Asking] = Asking(),
    limit: int | None = None,
    show: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Show labelled examples in the prompt, and then ask. The accuracy on the test items.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        shots: How many demonstrations stand in the prompt.
        select: Which: drawn at random, as many of each class, or the nearest to the row.
        by: Nearest by the features φ, or by the words (BM25).
        labels: Out of how many labelled examples; all of train by default.
        seeds: How many draws of the demonstrations.
        spread: Tell the spread due to the demonstrations, their order, and the test items apart: 15 times the work.
        answer: The most probable label word, or the most probable next word of the whole vocabulary.
        limit: So many test items, drawn always alike.
        show: Print so many exact prompts and what was answered.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule import statistics
    from chainrule.adaptation.measure import correctness, measure
    from chainrule.adaptation.prompted import in_context
    from chainrule.language_model import load

    if seeds < 1:
        raise ValueError(f"--seeds: wanted at least 1, got {seeds}")
    read, lm = columns.load(task), load(model, device=device, dtype=dtype)

    def predictor(seed: int, order: int = 0) -> "Prompted":
        how: dict[str, Any] = {"select": select, "by": by, "labels": labels, "answer": answer, **vars(asking)}
        return in_context(lm, read, shots, seed=seed, order=order, **how)

    predictors = [predictor(seed) for seed in range(seeds)]
    scores = [measure(each, read, limit) for each in predictors]
    parts = statistics.spread(correctness(predictor, read, limit=limit))._asdict() if spread else None
    tell_prompted(predictors, read, scores, limit, show, json, parts)
