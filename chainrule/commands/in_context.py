"""The command `in-context`: accuracy with demonstrations in the prompt."""

from typing import TYPE_CHECKING, Any, Literal

from chainrule.commands.accuracy import print_prompted
from chainrule.commands.options import Columns, Json, Limit, Loading, Model, TaskFile, check_at_least, refuse_without
from chainrule.prompting.asking import Asking

if TYPE_CHECKING:
    from chainrule.prompting.prompted import Prompted


def in_context(
    model: Model,
    task: TaskFile,
    /,
    columns: Columns = Columns(),
    shots: int = 16,
    select: Literal["random", "balanced", "nearest"] = "random",
    by: Literal["features", "bm25"] = "features",
    labels: int | None = None,
    seeds: int = 1,
    spread: bool = False,
    limit: Limit = None,
    show: int = 0,
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: Asking = Asking(),
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    """Let a model label the test items after examples in the prompt; show its accuracy.

    Demonstrations:
        shots: Number of labelled examples in the prompt.
        select: Random, as many of each class, or the most similar to the text.
        by: Similar by hidden states, or by words (BM25).
        labels: Choose among N training examples (default all).
        seeds: Average over N random choices.
        spread: Also the variation due to demonstrations, their order and test items; 15 times slower.

    Options:
        show: Print N prompts as the model reads them, with answers.

    Prompt:
        answer: Choose the most probable label, or generate a word and match it.

    Example:
        chainrule in-context runs/books reviews.toml --shots 8 --seeds 3
    """
    from chainrule import uncertainty
    from chainrule.prompting.in_context import in_context
    from chainrule.tasks.measure import correctness, measure

    check_at_least(0, shots=shots, show=show)
    check_at_least(1, labels=labels, seeds=seeds, limit=limit)
    if select != "nearest":
        refuse_without("--select nearest", by=(by, "features"))
    read, lm = columns.load(task), loading.load(model)

    def predictor(seed: int, order: int = 0) -> "Prompted":
        how: dict[str, Any] = {"select": select, "by": by, "labels": labels, "answer": answer, **vars(asking)}
        return in_context(lm, read, shots, seed=seed, order=order, **how)

    predictors = [predictor(seed) for seed in range(seeds)]
    scores = [measure(each, read, limit) for each in predictors]
    parts = uncertainty.spread(correctness(predictor, read, limit=limit))._asdict() if spread else None
    print_prompted(predictors, read, scores, limit, show, json, parts)
