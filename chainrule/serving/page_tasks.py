"""Tasks for the page: a task's rows, the prompt of a row and its labels' probabilities, accuracy while it is measured,
the task as a file. Knows requests; prompting/ makes the prompts, uncertainty/ the intervals.

A task is one of those that are served, by its name, or rows that were pasted, a text, a tab and a label a line. Its
prompt may be replaced, and its demonstrations are chosen one by one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chainrule.errors import ChainruleError, DataError
from chainrule.language_model import Pretrained
from chainrule.prompting.asking import Asking
from chainrule.prompting.demonstrations import the_same
from chainrule.prompting.prompted import Prompted
from chainrule.serving.endpoints import Endpoint, Post
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Form, Ids, Kind, OneOf, Text, Texts, Whole
from chainrule.serving.page_tokens import shown_tokens
from chainrule.serving.served import Served, ServedMasked, ServedModel
from chainrule.serving.streaming import Streamed
from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.measure import held_out
from chainrule.tasks.prompt import Prompt
from chainrule.tasks.splits import stratified_order
from chainrule.tasks.task_file import Settings, read_task_file, task_file
from chainrule.training.spans import Span
from chainrule.uncertainty import accuracy, difference

LISTED = 200  # rows of train and of test that the page lists
PASTED = "rows.jsonl"  # the file that a pasted task's rows are saved in
MOST_PASTED = 5_000  # rows
_ROWS_AT_ONCE = 8  # predicted between two answers of a running accuracy

_TASK: Mapping[str, Kind] = {
    "task": Text(),
    "rows": Text(),
    "prompt": Form({"template": Text(), "separator": Text(), "words": Texts()}),
}
_ASKED: Mapping[str, Kind] = {
    **_TASK,
    "model": Text(),
    "demonstrations": Ids(least=0),
    "calibrate": OneOf(("none", "content-free", "train")),
}


def task_endpoints(served: Served) -> list[Endpoint]:
    """What the page asks about tasks, under /page/task."""

    async def described(fields: Fields) -> Any:
        return await asyncio.to_thread(lambda: description(task_of(served, fields)))

    async def row(fields: Fields) -> Any:
        model, asked = served.pretrained(fields.text("model")), await asyncio.to_thread(_asked, served, fields)
        text = fields.texts_by_name("row")
        return await model.run(lambda: asked_about(model.lm, asked, text))

    async def saved(fields: Fields) -> Any:
        files = await asyncio.to_thread(lambda: saved_files(task_of(served, fields), fields.text("rows")))
        return {"files": files}

    async def measured(fields: Fields) -> Any:
        asked = await asyncio.to_thread(_asked, served, fields)
        limit = fields.integer("limit")
        return Streamed(accuracies(served.pretrained(fields.text("model")), asked, limit))

    return [
        Post("/page/task", "A task's prompt and rows", described, Form(_TASK)),
        Post("/page/task/row", "A row's prompt and labels", row, Form({**_ASKED, "row": Texts()})),
        Post("/page/task/file", "A task as files", saved, Form(_TASK)),
        Post(
            "/page/task/accuracy",
            "How often the label is right, while it is measured",
            measured,
            Form({**_ASKED, "limit": Whole(1, 10**9)}),
            streams=True,
        ),
    ]


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


def _asked(served: Served, fields: Fields) -> AskedTask:
    task = task_of(served, fields)
    demonstrations = fields.whole_numbers("demonstrations")
    for index in demonstrations:
        if not 0 <= index < len(task.train):
            raise ChainruleError(
                f"demonstrations: wanted rows from 0 to {len(task.train) - 1}, got {index}; choose others"
            )
    calibrate = fields.text("calibrate", "none")
    return AskedTask(task, tuple(demonstrations), Asking(calibrate=calibrate))  # type: ignore[arg-type]


def task_of(served: Served, fields: Fields) -> Task:
    """The task that a request names, or of the rows that it brings, with the request's prompt.

    Raises ChainruleError for a task that is not served or has no classes, for rows that are none, and for a prompt that
    cannot be used.
    """
    name, rows = fields.text("task"), fields.text("rows")
    if (name is None) == (rows is None):
        raise ChainruleError("task: wanted the name of a served task or pasted rows, one of both; choose one")
    if rows is not None:
        task = pasted_task(rows)
    elif name in served.tasks:
        task = served.tasks[name]
    else:
        raise fields.error("task", f"one of {', '.join(served.tasks) or 'no tasks: start with --task FILE'}")
    if task.kind != "classification":
        raise ChainruleError(
            f"task: wanted one with classes, got one of kind {task.kind!r}; use the command line for it"
        )
    prompt = fields.fields("prompt")
    if "template" not in prompt:
        return task if task.prompt is not None else replace(task, prompt=Prompt.default(task.text, task.label))
    words = prompt.texts_by_name("words")
    return replace(
        task,
        prompt=Prompt(
            prompt.required_text("template"),
            prompt.text("separator", Prompt.separator),
            {label: word for label, word in words.items() if word and label in task.labels},
        ),
    )


def pasted_records(rows: str) -> list[dict[str, str]]:
    """A record for each line, its text and its label on both sides of the last tab; empty lines are left out."""
    found = []
    for number, line in enumerate(rows.split("\n"), 1):  # splitlines would divide at U+2028 in a text too
        if not line.strip():
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip() or not label.strip():
            raise DataError(f"line {number}: wanted a text, a tab and a label, got {line[:40]!r}; correct it")
        found.append({"text": text.strip(), "label": label.strip()})
    if len(found) > MOST_PASTED:
        raise DataError(
            f"rows: wanted at most {MOST_PASTED:,}, got {len(found):,}; write a task file, serve it with --task"
        )
    return found


def pasted_task(rows: str) -> Task:
    """The task of pasted rows: read from a file as the saved one will be, so that both hold out the same fifth."""
    content = pasted_file(rows)
    with TemporaryDirectory() as folder:
        path = Path(folder) / PASTED
        path.write_text(content, encoding="utf-8")
        try:
            return replace(Task.read(Settings(path, ("text",), "label")), prompt=Prompt.default(("text",), "label"))
        except DataError as error:
            raise DataError(str(error).replace(str(path), "rows")) from None


def pasted_file(rows: str) -> str:
    """The pasted rows as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in pasted_records(rows))


def description(task: Task) -> dict[str, Any]:
    """A task's columns, labels and prompt, and some of its rows: of train in an order whose beginning is balanced."""
    assert task.prompt is not None
    order = stratified_order(task.train.labels, seed=0)[:LISTED].tolist()
    return {
        "text": task.text,
        "labels": task.labels,
        "template": task.prompt.template,
        "separator": task.prompt.separator,
        "words": {label: task.prompt.word(label) for label in task.labels},
        "train": {"count": len(task.train), "rows": _listed(task, task.train, order)},
        "test": {"count": len(task.test), "rows": _listed(task, task.test, range(min(LISTED, len(task.test))))},
    }


def _listed(task: Task, examples: Examples, indices: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"index": index, "row": _texts(task, examples.rows[index]), "label": examples.labels[index]}
        for index in indices
    ]


def _texts(task: Task, row: Row) -> dict[str, str]:
    return {column: row[column] for column in task.text}


def asked_about(lm: Pretrained, asked: AskedTask, row: Row) -> dict[str, Any]:
    """A row's exact prompt as tokens, and each label's log p, bias and probability before and after calibration:
    without demonstrations, and with them where there are some."""
    return {
        name: _scored(lm, asked, demonstrations, row)
        for name, demonstrations in (("zero_shot", ()), ("in_context", asked.demonstrations))
        if name == "zero_shot" or demonstrations
    }


def _scored(lm: Pretrained, asked: AskedTask, demonstrations: Sequence[int], row: Row) -> dict[str, Any]:
    predictor = asked.predictor(lm, demonstrations)
    found = predictor.scored(row)
    option = found.prompt.options[0]
    tokens = option.tokens if isinstance(option, Span) else found.prompt.tokens
    columns = (found.log_probs, found.bias, found.uncalibrated, found.probabilities)
    return {
        "tokens": shown_tokens(lm.tokenizer, [int(token) for token in tokens]),
        "demonstrations": len(found.prompt.chosen),
        "cut": found.prompt.cut,
        "labels": [
            {"label": label, "word": ending, "log_prob": log_prob, "bias": bias, "before": before, "after": after}
            for label, ending, log_prob, bias, before, after in zip(
                predictor.labels, found.prompt.endings, *(column.tolist() for column in columns), strict=True
            )
        ],
    }


async def accuracies(
    model: ServedModel | ServedMasked, asked: AskedTask, limit: int | None
) -> AsyncGenerator[dict[str, Any], None]:
    """How often the label is right on the test rows so far, and with an interval; some rows more each time.

    The rows are those of `chainrule zero-shot --limit`, in a random order, so that each part is a sample of them. The
    last answer has the paired difference between in-context and zero-shot. Between two answers other requests run.
    """
    import numpy as np

    items = held_out(asked.task, limit)
    items = items.take(np.random.default_rng(0).permutation(len(items)).tolist())
    sets: dict[str, tuple[int, ...]] = {"zero_shot": ()}
    if asked.demonstrations:
        sets["in_context"] = asked.demonstrations
    predictors = {name: await model.run(partial(asked.predictor, model.lm, chosen)) for name, chosen in sets.items()}
    right: dict[str, list[bool]] = {name: [] for name in sets}
    for start in range(0, len(items), _ROWS_AT_ONCE):
        part = items.take(range(start, min(start + _ROWS_AT_ONCE, len(items))))
        for name, predictor in predictors.items():
            labels = await model.run(partial(predictor.predict, part.rows))
            right[name] += [one == truth for one, truth in zip(labels, part.labels, strict=True)]
        done = start + len(part)
        answer: dict[str, Any] = {"done": done, "n": len(items), "ended": done == len(items)}
        answer |= {name: _estimate(found, items, done) for name, found in right.items()}
        if done == len(items) and len(sets) == 2:
            answer["difference"] = _difference(right, items)
        yield answer


def _estimate(right: Sequence[bool], items: Examples, done: int) -> dict[str, Any]:
    """With an interval, unless all rows so far are of one group."""
    groups = None if items.groups is None else items.groups[:done]
    if groups is not None and len(set(groups)) == 1:
        return {"right": sum(right), "accuracy": sum(right) / done, "low": 0.0, "high": 1.0}
    value, low, high = accuracy([right], groups)
    return {"right": sum(right), "accuracy": value, "low": low, "high": high}


def _difference(right: dict[str, list[bool]], items: Examples) -> dict[str, Any] | None:
    if items.groups is not None and len(set(items.groups)) == 1:
        return None
    return difference([right["in_context"]], [right["zero_shot"]], items.groups)._asdict()


def saved_files(task: Task, rows: str | None) -> list[dict[str, str]]:
    """The task as files that `chainrule zero-shot` reads: the task file, and pasted rows beside it.

    The data of a served task stay where they are: its file names them by their whole paths.
    """
    task.checked_prompt()
    if rows is not None:
        settings = Settings(Path(PASTED), task.text, task.label, prompt=task.prompt)
        content = task_file(settings, task.labels, Path())
        return [{"name": "task.toml", "text": content}, {"name": PASTED, "text": pasted_file(rows)}]
    assert task.path is not None, "a served task was read from a file"
    is_file = task.path.suffix == ".toml"
    settings = read_task_file(task.path) if is_file else Settings(task.path, task.text, task.label)
    content = task_file(replace(settings, prompt=task.prompt), task.labels, None)
    return [{"name": f"{task.path.stem}.toml", "text": content}]
