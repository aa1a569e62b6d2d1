"""Makes the predictors of zero-shot and in-context learning: which demonstrations a prompt has, and how it asks."""

from typing import Literal

from chainrule.errors import ChainruleError
from chainrule.language_model import Pretrained
from chainrule.prompting import demonstrations
from chainrule.prompting.asking import Answer, Asking, Calibrate, Normalise, check_choice
from chainrule.prompting.demonstrations import Choose
from chainrule.prompting.prompted import Prompted
from chainrule.scoring.features import Features
from chainrule.scoring.longer import Longer
from chainrule.tasks.examples import Examples, Row, Task

Select = Literal["random", "balanced", "nearest"]
By = Literal["features", "bm25"]


def zero_shot(
    lm: Pretrained,
    task: Task,
    *,
    answer: Answer = "labels",
    calibrate: Calibrate = "none",
    normalise: Normalise = "sum",
    longer: Longer = "cut",
    chat: bool = False,
) -> Prompted:
    """A predictor by the prompt alone: `in_context` without demonstrations, and with its options."""
    return in_context(lm, task, 0, answer=answer, calibrate=calibrate, normalise=normalise, longer=longer, chat=chat)


def in_context(
    lm: Pretrained,
    task: Task,
    shots: int = 16,
    *,
    select: Select = "random",
    by: By = "features",
    labels: int | None = None,
    seed: int = 0,
    order: int = 0,
    answer: Answer = "labels",
    calibrate: Calibrate = "none",
    normalise: Normalise = "sum",
    longer: Longer = "cut",
    chat: bool = False,
) -> Prompted:
    """A predictor with `shots` demonstrations in front of each row, out of `labels` examples of train (None: all).

    select: "random", "balanced" (the same number of each class), or "nearest" to the row, `by` the hidden states where
    its answer would begin, or by words (BM25); the most similar is the last, next to the question. `seed` draws the
    labelled examples and the demonstrations, `order` the order of these. Where the context is too short, the first
    demonstrations are dropped; then the row's beginning is cut, or the row refused (`longer`). See `Asking` for the
    rest.

    Raises ChainruleError for options out of range, for more shots than labels, and for a task that cannot be prompted.
    """
    check_choice("select", select, Select)
    check_choice("by", by, By)
    check_choice("answer", answer, Answer)
    asking = Asking(calibrate, normalise, longer, chat)
    pool = task.subset(labels, seed)
    if not 0 <= shots <= len(pool):
        raise ChainruleError(
            f"--shots: wanted from 0 to {len(pool)} (the labels that may be used), got {shots}; ask for fewer shots,"
            " or allow more labels"
        )
    if select == "balanced" and task.kind == "free":
        raise ChainruleError("--select: wanted random or nearest for a task without classes, got balanced")
    if select == "nearest" and shots:
        choose = _nearest(lm, task, pool, by)
    else:
        strata = pool.labels if select == "balanced" else [""] * len(pool)
        drawn = demonstrations.balanced(strata, shots, seed)
        choose = demonstrations.the_same(demonstrations.reordered(drawn, seed, order))
    return Prompted(lm, task, pool, shots, choose, asking, answer)


def _nearest(lm: Pretrained, task: Task, pool: Examples, by: By) -> Choose[Row]:
    prompt = task.checked_prompt()

    def question(row: Row) -> str:
        """The prompt's text about the row, up to the hidden state that predicts the answer."""
        return (prompt.before(row) + prompt.after(row)).rstrip(" ")

    def words(row: Row) -> str:
        return " ".join(row[column] for column in task.text)

    text = question if by == "features" else words
    examples = [text(row) for row in pool.rows]
    nearest = (
        demonstrations.nearest_by_features(Features(lm.model, lm.tokenizer), examples)
        if by == "features"
        else demonstrations.nearest_by_words(examples)
    )
    return lambda rows, count: nearest([text(row) for row in rows], count)
