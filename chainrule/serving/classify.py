"""`/classify`: labels and their probabilities, by a finetuned classifier, or by a language model prompted for a task of
`--task`. The answer has vLLM's form where a row has one label; of several labels, a number or an answer it has ours."""

from collections.abc import Generator, Sequence
from functools import lru_cache, partial
from typing import Any

from chainrule.prompting.in_context import in_context
from chainrule.prompting.prompted import Prompted
from chainrule.serving.answers import new_id, now
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Either, Form, ListOf, Text, Texts, Whole
from chainrule.serving.requests import RequestError
from chainrule.serving.served import Served, ServedMasked, ServedModel
from chainrule.tasks.examples import Row
from chainrule.tasks.predictor import Predictor

_MOST = 2048  # rows in a request
_ROW = Either((Text(), Texts()), "a text, or an object of columns whose values are texts")
_ROWS = f"a text, an object of columns whose values are texts, or a list of 1 to {_MOST} of them"
FORM = Form(
    {
        "model": Text(),
        "input": Either((_ROW, ListOf(_ROW, 1, _MOST, _ROWS)), _ROWS),
        "task": Text(),
        "shots": Whole(0, 1000),
        "seed": Whole(0, 2**63),
        "user": Text(),
    },
    required=("input",),
)
_AT_ONCE = 8  # rows labelled before others have their turn


class Classifying:
    """What `/classify` does. The prompts of a task are made once for each model, number of shots and seed."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._prompted = lru_cache(maxsize=16)(self._in_context)

    async def __call__(self, fields: Fields) -> dict[str, Any]:
        """A label for each input; RequestError for what is not served."""
        given = fields.raw("input")
        rows: list[Row | str] = given if isinstance(given, list) else [given]
        name, task = fields.text("model"), fields.text("task")
        shots, seed = fields.integer("shots", 0), fields.integer("seed", 0)
        if task is None:
            if "shots" in fields or "seed" in fields:
                raise RequestError("shots, seed: wanted a task beside them; leave them out", "shots")
            served = self._served.classifier(name)
            labels: Sequence[str] = served.classifier.labels
            found = await served.run(partial(_label, served.classifier, rows))
            return _answer(served.name, labels, found)
        if task not in self._served.tasks:
            raise RequestError(
                f"task: wanted one of {', '.join(map(repr, self._served.tasks)) or 'none: give --task'}, got {task!r}",
                "task",
                status=404,
            )
        model = self._served.pretrained(name)

        def label() -> Generator[None, None, tuple[Sequence[str], list[dict[str, Any]]]]:
            predictor = self._prompted(model, task, shots, seed)
            yield
            return predictor.labels, (yield from _label(predictor, rows))

        prompted_labels, data = await model.run(label)
        return _answer(model.name, prompted_labels, data)

    def _in_context(self, model: ServedModel | ServedMasked, task: str, shots: int, seed: int) -> Prompted:
        return in_context(model.lm, self._served.tasks[task], shots, seed=seed)


def _label(predictor: Predictor, rows: Sequence[Row | str]) -> Generator[None, None, list[dict[str, Any]]]:
    """Of each row what `predictor` says: `label` and `probs`; of several labels at once `labels` and `probs`; of a
    number `value`; of an answer that is generated `label` alone."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows), _AT_ONCE):
        for answer, probabilities in predictor.stream(rows[start : start + _AT_ONCE]):
            said: dict[str, Any] = {"index": len(found)}
            if isinstance(answer, float):
                said["value"] = answer
            elif isinstance(answer, tuple):
                said["labels"] = list(answer)
            else:
                said["label"] = answer
            if len(probabilities):
                said |= {"probs": probabilities.tolist(), "num_classes": len(probabilities)}
            found.append(said)
        yield
    return found


def _answer(name: str, labels: Sequence[str], data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": new_id("classify"),
        "object": "list",
        "created": now(),
        "model": name,
        "labels": list(labels),
        "data": list(data),
    }
