"""The command `zero-shot`: accuracy without demonstrations."""

from typing import Literal

from chainrule.commands.accuracy import print_prompted
from chainrule.commands.options import Columns, Json, Limit, Loading, Model, TaskFile, check_at_least
from chainrule.prompting.asking import Asking


def zero_shot(
    model: Model,
    task: TaskFile,
    /,
    columns: Columns = Columns(),
    limit: Limit = None,
    show: int = 0,
    answer: Literal["labels", "vocabulary"] = "labels",
    asking: Asking = Asking(),
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    """Let a model label the test items from the prompt alone, and show its accuracy.

    Options:
        show: Print N prompts as the model reads them, with answers.

    Prompt:
        answer: Choose the most probable label, or generate a word and match it.

    Example:
        chainrule zero-shot runs/books reviews.toml --show 3
    """
    from chainrule.prompting.in_context import zero_shot
    from chainrule.tasks.measure import measure

    check_at_least(1, limit=limit)
    check_at_least(0, show=show)
    read = columns.load(task)
    predictor = zero_shot(loading.load(model), read, answer=answer, **vars(asking))
    score = measure(predictor, read, limit)
    print_prompted([predictor], read, [score], limit, show, json)
