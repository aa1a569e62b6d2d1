"""Tasks for the page: a task's rows and prompt, its answers by prompts and by a classifier, the task as a file. Knows
requests.

A task is one of those that are served, by its name, or rows that were pasted, a text, a tab and a label a line. Its
prompt may be replaced, and its demonstrations are chosen one by one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError
from chainrule.prompting.asking import Asking
from chainrule.serving.endpoints import Endpoint, Post
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Form, Ids, Kind, OneOf, Text, Texts, Whole
from chainrule.serving.page_predictions import (
    PROMPTED,
    AskedTask,
    answers_task,
    classified,
    figures_so_far,
    prompted_answers,
)
from chainrule.serving.page_rows import PASTED, pasted_file, pasted_task
from chainrule.serving.served import Served, ServedClassifier, ServedMasked, ServedModel
from chainrule.serving.streaming import Streamed
from chainrule.tasks.answers import in_words, strata
from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tasks.splits import stratified_order
from chainrule.tasks.task_file import Settings, read_task_file, task_file

LISTED = 200  # rows of train and of test that the page lists

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
    "classifier": Text(),
}


def task_endpoints(served: Served) -> list[Endpoint]:
    """What the page asks about tasks, under /page/task."""

    async def described(fields: Fields) -> Any:
        return await asyncio.to_thread(lambda: description(served, task_of(served, fields)))

    async def row(fields: Fields) -> Any:
        asked = await asyncio.to_thread(_asked, served, fields)
        text = fields.texts_by_name("row")
        found: dict[str, Any] = {}
        model, classifier = _who(served, fields, asked.task)
        if model is not None:
            found = await model.run(partial(prompted_answers, model.lm, asked, text))
        if classifier is not None:
            answer = await classifier.run(lambda: classified(classifier.classifier, text))
            found["finetuned"] = {"name": classifier.name, **answer}
        return found

    async def saved(fields: Fields) -> Any:
        files = await asyncio.to_thread(lambda: saved_files(task_of(served, fields), fields.text("rows")))
        return {"files": files}

    async def measured(fields: Fields) -> Any:
        asked = await asyncio.to_thread(_asked, served, fields)
        return Streamed(figures_so_far(asked, *_who(served, fields, asked.task), fields.integer("limit")))

    return [
        Post("/page/task", "A task's prompt and rows", described, Form(_TASK)),
        Post("/page/task/row", "A row's prompt and answers", row, Form({**_ASKED, "row": Texts()})),
        Post("/page/task/file", "A task as files", saved, Form(_TASK)),
        Post(
            "/page/task/accuracy",
            "How good the answers are, while it is measured",
            measured,
            Form({**_ASKED, "limit": Whole(1, 10**9)}),
            streams=True,
        ),
    ]


def _who(
    served: Served, fields: Fields, task: Task
) -> tuple[ServedModel | ServedMasked | None, ServedClassifier | None]:
    """The language model that a prompt asks, where the kind of the task has one, and the classifier that is named.

    Raises ChainruleError where nobody is left to answer, and for a classifier of another task.
    """
    model = served.pretrained(fields.text("model")) if task.kind in PROMPTED and _has_models(served, fields) else None
    name = fields.text("classifier")
    classifier = None if name is None else served.classifier(name)
    if classifier is not None and not answers_task(classifier.classifier, task):
        raise ChainruleError(f"classifier: wanted one of this task's kind, labels and columns, got {name!r}")
    if model is None and classifier is None:
        answering = "a language model or a finetuned classifier" if task.kind in PROMPTED else "a finetuned classifier"
        raise ChainruleError(
            f"task: a task of kind {task.kind!r} is answered by {answering}; serve one of it beside it:"
            " chainrule serve MODEL CLASSIFIER --task FILE"
        )
    return model, classifier


def _has_models(served: Served, fields: Fields) -> bool:
    return bool(served.models or served.masked) or "model" in fields


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

    Raises ChainruleError for a task that is not served, for rows that are none, and for a prompt that cannot be used.
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


def description(served: Served, task: Task) -> dict[str, Any]:
    """A task's kind, columns, labels and prompt, the classifiers that answer it, and some of its rows: of train in an
    order whose beginning is balanced."""
    assert task.prompt is not None
    order = stratified_order(strata(task.kind, task.train.labels), seed=0)[:LISTED].tolist()
    return {
        "kind": task.kind,
        "prompted": task.kind in PROMPTED,
        "classifiers": [name for name, each in served.classifiers.items() if answers_task(each.classifier, task)],
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
        {"index": index, "row": _texts(task, examples.rows[index]), "label": in_words(examples.labels[index])}
        for index in indices
    ]


def _texts(task: Task, row: Row) -> dict[str, str]:
    return {column: row[column] for column in task.text}


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
