"""What models answer for the page about a task: for one row, with the prompt and the probabilities behind it, and for
the test rows while they are counted. Knows no request; prompting/ makes the prompts, uncertainty/ the intervals.

A language model is asked by a prompt, without demonstrations and with those that were chosen; a finetuned classifier
beside it answers the rows of a task of its own kind. Of what is generated, or is several labels or a number, there is
the answer and whether it is the expected one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError
from chainrule.finetuning.classifier import Classifier
from chainrule.language_model import Pretrained
from chainrule.prompting.asking import Asking
from chainrule.prompting.demonstrations import the_same
from chainrule.prompting.prompted import Prompted
from chainrule.serving.page_tokens import shown_tokens
from chainrule.serving.served import ServedClassifier, ServedMasked, ServedModel
from chainrule.tasks.answers import Answer, in_words
from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.figures import TITLES, estimates_of, in_unit
from chainrule.tasks.measure import held_out, right_answers
from chainrule.training.spans import Span
from chainrule.uncertainty import accuracy, difference

PROMPTED = ("classification", "free")  # kinds of task that a prompt can ask about
_ROWS_AT_ONCE = 8  # predicted between two answers of a running accuracy


@dataclass(frozen=True)
class AskedTask:
    """What the page asks of a task: its demonstrations (indices into train) in the order of the prompt."""

    task: Task
    demonstrations: tuple[int, ...]
    asking: Asking

    def predictor(self, lm: Pretrained, demonstrations: Sequence[int]) -> Prompted:
        """With these demonstrations, the last of them next to the row."""
        chosen = list(reversed(demonstrations))
        return Prompted(lm, self.task, self.task.train, len(chosen), the_same(chosen), self.asking)

    @property
    def sets(self) -> dict[str, tuple[int, ...]]:
        """The demonstrations of each way to ask by a prompt: none, and those that were chosen."""
        if self.task.kind not in PROMPTED:
            return {}
        return {"zero_shot": ()} | ({"in_context": self.demonstrations} if self.demonstrations else {})


def answers_task(classifier: Classifier, task: Task) -> bool:
    """Whether a classifier's answers are those of the task: of its kind, with its labels, from its columns."""
    same = classifier.kind == task.kind and set(classifier.labels) == set(task.labels)
    return same and set(classifier.columns) <= set(task.text)


def prompted_answers(lm: Pretrained, asked: AskedTask, row: Row) -> Generator[None, None, dict[str, Any]]:
    """A row's exact prompt as tokens, and what is answered: each label's log p, bias and probability before and after
    calibration, or a generated text. Without demonstrations, and with them where there are some."""
    found = {}
    for name, demonstrations in asked.sets.items():
        predictor = asked.predictor(lm, demonstrations)
        found[name] = (yield from _generated(predictor, row)) if predictor.generates else _scored(predictor, row)
        yield
    return found


def _generated(predictor: Prompted, row: Row) -> Generator[None, None, dict[str, Any]]:
    (prompt,) = predictor.prompts([predictor.task.row(row)])
    (answer,) = yield from predictor.predict_in_steps([row])
    return {
        "tokens": shown_tokens(predictor.lm.tokenizer, list(map(int, prompt.tokens))),
        "demonstrations": len(prompt.chosen),
        "cut": prompt.cut,
        "answer": answer,
    }


def _scored(predictor: Prompted, row: Row) -> dict[str, Any]:
    found = predictor.scored(row)
    option = found.prompt.options[0]
    tokens = option.tokens if isinstance(option, Span) else found.prompt.tokens
    columns = (found.log_probs, found.bias, found.uncalibrated, found.probabilities)
    return {
        "tokens": shown_tokens(predictor.lm.tokenizer, [int(token) for token in tokens]),
        "demonstrations": len(found.prompt.chosen),
        "cut": found.prompt.cut,
        "labels": [
            {"label": label, "word": ending, "log_prob": log_prob, "bias": bias, "before": before, "after": after}
            for label, ending, log_prob, bias, before, after in zip(
                predictor.labels, found.prompt.endings, *(column.tolist() for column in columns), strict=True
            )
        ],
    }


def classified(classifier: Classifier, row: Row) -> dict[str, Any]:
    """What a finetuned classifier answers for a row: the answer in words, and each label's probability."""
    ((answer, probabilities),) = classifier.stream([row])
    chosen = answer if isinstance(answer, tuple) else (answer,)
    return {
        "answer": in_words(answer),
        "labels": [
            {"label": label, "after": p, "chosen": label in chosen}
            for label, p in zip(classifier.labels, probabilities.tolist(), strict=False)
        ],
    }


Ask = Callable[[Sequence[Row]], Any]  # rows to an awaitable list of their answers and probabilities


async def figures_so_far(
    asked: AskedTask, model: ServedModel | ServedMasked | None, classifier: ServedClassifier | None, limit: int | None
) -> AsyncGenerator[dict[str, Any], None]:
    """How good the answers to the test rows are so far, with intervals; some rows more each time.

    The rows are those of `chainrule zero-shot --limit`, in a random order, so that each part is a sample of them. The
    last answer has the paired difference between in-context and zero-shot. Between two answers other requests run.
    """
    task = asked.task
    items = held_out(task, limit)
    items = items.take(np.random.default_rng(0).permutation(len(items)).tolist())
    asks = await _who_answers(asked, model, classifier)
    answers: dict[str, list[Answer]] = {name: [] for name in asks}
    outputs: dict[str, list[Any]] = {name: [] for name in asks}
    for start in range(0, len(items), _ROWS_AT_ONCE):
        part = items.take(range(start, min(start + _ROWS_AT_ONCE, len(items))))
        for name, ask in asks.items():
            for answer, output in await ask(part.rows):
                answers[name].append(answer)
                outputs[name].append(output)
        done = items.take(range(start + len(part)))
        said: dict[str, Any] = {"done": len(done), "n": len(items), "ended": len(done) == len(items)}
        for name in asks:
            said[name] = await asyncio.to_thread(_figures, task, done, answers[name], outputs[name])
        if len(done) == len(items) and {"zero_shot", "in_context"} <= set(asks):
            said["difference"] = _difference(items, answers)
        yield said


async def _who_answers(
    asked: AskedTask, model: ServedModel | ServedMasked | None, classifier: ServedClassifier | None
) -> dict[str, Ask]:
    asks: dict[str, Ask] = {}
    if model is not None:
        for name, chosen in asked.sets.items():
            predictor = await model.run(partial(asked.predictor, model.lm, chosen))
            asks[name] = partial(_ask_model, model, predictor)
    if classifier is not None:
        asks["finetuned"] = partial(_ask_classifier, classifier)
    return asks


async def _ask_model(
    model: ServedModel | ServedMasked, predictor: Prompted, rows: Sequence[Row]
) -> list[tuple[Answer, None]]:
    return [(label, None) for label in await model.run(partial(predictor.predict_in_steps, rows))]


async def _ask_classifier(classifier: ServedClassifier, rows: Sequence[Row]) -> list[tuple[Answer, Any]]:
    return await classifier.run(lambda: list(classifier.classifier.stream(rows)))


def _figures(task: Task, items: Examples, answers: Sequence[Answer], outputs: Sequence[Any]) -> dict[str, Any]:
    """Of labels and free answers how many are right, and the accuracy; of others the figures of their kind."""
    if task.kind in PROMPTED:
        right = right_answers(answers, items)
        return {"right": int(right.sum()), **_accuracy(right, items)}
    try:
        found = estimates_of(task.kind, task.labels, items, [answers], np.array([outputs]))
    except ChainruleError:  # too few rows so far, or all the same
        return {"figures": []}
    return {
        "figures": [
            {"name": TITLES[name], "value": in_unit(name, one.value), "low": in_unit(name, one.low),
             "high": in_unit(name, one.high)}
            for name, one in found.items()
        ]
    }  # fmt: skip


def _accuracy(right: NDArray[np.bool_], items: Examples) -> dict[str, Any]:
    """With an interval, unless all rows so far are of one group."""
    if items.groups is not None and len(set(items.groups)) == 1:
        return {"accuracy": float(right.mean()), "low": 0.0, "high": 1.0}
    value, low, high = accuracy([right], items.groups)
    return {"accuracy": value, "low": low, "high": high}


def _difference(items: Examples, answers: dict[str, list[Answer]]) -> dict[str, Any] | None:
    if items.groups is not None and len(set(items.groups)) == 1:
        return None
    right = {name: right_answers(answers[name], items) for name in ("in_context", "zero_shot")}
    return difference([right["in_context"]], [right["zero_shot"]], items.groups)._asdict()
