"""A report on the data of a task. Knows rows and a tokenizer, no model."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError, DataError
from chainrule.tasks.answers import Answer
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt
from chainrule.terminal import print_table
from chainrule.tokens.tokenizer import Tokenizer

_WHOLE = re.compile(r"^([+-]?\d+)\.0+$")


def inspect_task(task: Task, tokenizer: Tokenizer | None = None, context: int = 0) -> dict[str, Any]:
    """Classes and counts, duplicates, overlap, and one prompt; with a tokenizer lengths against `context`, and borders.

    Raises DataError, with file and line, for a text that the tokenizer cannot encode.
    """
    found: dict[str, Any] = {
        "kind": task.kind,
        "train": len(task.train),
        "test": len(task.test),
        **({"numbers": _numbers(task)} if task.kind == "regression" else {"classes": _classes(task)}),
        "duplicates": {"train": _duplicates(task, task.train), "test": _duplicates(task, task.test)},
        "overlap": task.dropped,
    }
    if task.kind == "multilabel":
        found["without_labels"] = {"train": task.train.labels.count(()), "test": task.test.labels.count(())}
    if twins := _twins(task.labels):
        found["twins"] = twins
    if tokenizer is not None:
        found["lengths"] = _lengths(task, tokenizer, context)
    if task.prompt is not None:
        found["prompt"] = _shown(task.prompt, task.test, tokenizer)
    try:
        task.checked_prompt()
    except ChainruleError as error:
        found["no_prompting"] = str(error)
    return found


def _classes(task: Task) -> list[dict[str, Any]]:
    train, test = (Counter(_each_label(part)) for part in (task.train, task.test))
    return [{"label": label, "train": train[label], "test": test[label]} for label in task.labels]


def _each_label(examples: Examples) -> Iterator[str]:
    """The labels of all rows; of a row with several each of them."""
    for answer in examples.labels:
        yield from answer if isinstance(answer, tuple) else (answer,)


def _numbers(task: Task) -> dict[str, dict[str, float]]:
    """Where the numbers lie, of train and test."""
    found = {}
    for name, part in (("train", task.train), ("test", task.test)):
        numbers = np.array(part.labels, np.float64)
        least, half, most = np.quantile(numbers, [0.0, 0.5, 1.0]).tolist()
        spread = {"mean": float(numbers.mean()), "deviation": float(numbers.std())}
        found[name] = {"least": least, "half": half, "most": most, **spread}
    return found


def _twins(labels: Sequence[str]) -> list[list[str]]:
    """Labels that differ only by case, space or a .0 after a number: perhaps one class, written in two ways."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        plain = "".join(label.split()).casefold()
        alike.setdefault(_WHOLE.sub(r"\1", plain), []).append(label)
    return [twins for twins in alike.values() if len(twins) > 1]


def _duplicates(task: Task, examples: Examples) -> dict[str, int]:
    """How many rows repeat the texts of an earlier one, and how many of these have another label."""
    first: dict[tuple[str, ...], Answer] = {}
    otherwise = 0
    for row, label in zip(examples.rows, examples.labels, strict=True):
        otherwise += first.setdefault(tuple(row[column] for column in task.text), label) != label
    return {"rows": len(examples) - len(first), "otherwise": otherwise}


def _lengths(task: Task, tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """Positions of the context that rows need: BOS and their tokens; the last token of a prompt is only scored."""
    found: dict[str, Any] = {"context": context}
    parts = (task.train, task.test)
    sources = [source for part in parts for source in part.sources]
    texts = [task.finetune_text(row) for part in parts for row in part.rows]
    found["texts"] = _quantiles(_tokens(tokenizer, texts, sources) + 1, context)
    if task.prompt is not None:
        answered = [
            task.prompt.filled(row, label) for part in parts for row, label in zip(part.rows, part.labels, strict=True)
        ]
        found["prompts"] = _quantiles(_tokens(tokenizer, answered, sources), context)
    return found


def _tokens(tokenizer: Tokenizer, texts: Sequence[str], sources: Sequence[str]) -> NDArray[np.int64]:
    """How many tokens each text has, (N,)."""
    try:
        return np.array([len(tokens) for tokens in tokenizer.encode_batch(texts)])
    except ChainruleError:
        for text, source in zip(texts, sources, strict=True):  # find the one
            try:
                tokenizer.encode(text)
            except ChainruleError as error:
                raise DataError(f"{source}: {error}") from None
        raise


def _quantiles(lengths: NDArray[np.int64], context: int) -> dict[str, int]:
    half, most, longest = np.quantile(lengths, [0.5, 0.9, 1.0], method="higher").tolist()
    return {"half": half, "nine_tenths": most, "longest": longest, "too_long": int((lengths > context).sum())}


def _shown(prompt: Prompt, examples: Examples, tokenizer: Tokenizer | None) -> str:
    """The first row's prompt, with ‖ before what is scored; with a tokenizer BOS in front, and | between tokens."""
    row, label = examples.rows[0], examples.labels[0]
    (question,) = prompt.questions([], row, [label])
    if tokenizer is None:
        return f"{question.before}‖{question.continuation}"
    from chainrule.scoring.continuations import pair_of  # imports torch

    halves = pair_of(tokenizer, question.before, question.continuation)
    return "‖".join("|".join(tokenizer.token_texts(half)) for half in halves).replace("\n", "↵\n")


def print_task(found: dict[str, Any]) -> None:
    """What `inspect_task` found, for a person."""
    rows = [(entry["label"], f"{entry['train']}", f"{entry['test']}") for entry in found.get("classes", [])]
    duplicates = found["duplicates"]
    if none := found.get("without_labels"):
        rows.append(("without a label", f"{none['train']}", f"{none['test']}"))
    if "numbers" in found:
        train, test = found["numbers"]["train"], found["numbers"]["test"]
        rows += [(name, f"{train[name]:.4g}", f"{test[name]:.4g}") for name in train]
    table = [
        *rows,
        ("all", f"{found['train']}", f"{found['test']}"),
        ("duplicates", f"{duplicates['train']['rows']}", f"{duplicates['test']['rows']}"),
        ("of these with another label", *(f"{duplicates[part]['otherwise']}" for part in ("train", "test"))),
    ]
    print_table(("", "train", "test"), table)
    print(f"{found['overlap']} training rows are in test too, and were left out.")
    for twins in found.get("twins", []):
        print(
            f"Warning: the labels {', '.join(map(repr, twins))} differ only by case, space or .0, and are"
            f" {len(twins)} classes: write them alike if they are one."
        )
    for name, lengths in found.get("lengths", {}).items():
        if name != "context":
            print(
                f"{name}: half need up to {lengths['half']} of the context's {found['lengths']['context']} positions,"
                f" nine tenths {lengths['nine_tenths']}, the longest {lengths['longest']};"
                f" {lengths['too_long']} do not fit"
            )
    if "prompt" in found:
        print(f"\nA prompt; what comes after ‖ is scored:\n\n{found['prompt']}\n")
    if "no_prompting" in found:
        print(found["no_prompting"])
