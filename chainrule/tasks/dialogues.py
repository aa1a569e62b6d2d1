"""Files of conversations, as TRL reads them: `messages`, or `prompt` and `completion`, each a text or messages.

ShareGPT's form is read too: `conversations` of messages with `from` and `value`. Each answer of the assistant to a user
is an example of its own: what stands before it is its prompt. Knows records and messages, no model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os.path import commonprefix
from pathlib import Path
from typing import Any

from chainrule.errors import DataError
from chainrule.storage.columns import Record
from chainrule.storage.records import Log, OnError
from chainrule.tasks.prompt import ANSWER, HISTORY, Prompt
from chainrule.tasks.rows import read_rows

PROMPT, COMPLETION = "prompt", "completion"
MESSAGES = ("messages", "conversations")  # names of the column
_ROLES = {"human": "user", "gpt": "assistant"}  # in ShareGPT's form


@dataclass(frozen=True)
class Exchanges:
    """Answers and what they answer, as parallel lists; `conversations`: where each comes from, "file:line"."""

    rows: Sequence[Mapping[str, str]]  # the user's message, and the messages before it as JSON
    answers: Sequence[str]
    conversations: Sequence[str]
    prompt: Prompt


def is_dialogue(values: Mapping[str, Any]) -> bool:
    """Whether a record's columns are those of a conversation."""
    return not values.keys().isdisjoint(MESSAGES) or {PROMPT, COMPLETION} <= values.keys()


def read_exchanges(path: Path, *, encoding: str, on_error: OnError, log: Log) -> Exchanges:
    """Those of a file; DataError, with file and line, for a conversation without an answer, and for one of another form
    than the first; with on_error="skip" these are left out, and `log` is called with their number."""
    form: bool | None = None  # whether the first conversation was of messages

    def exchanges(record: Record) -> list[tuple[Mapping[str, str], str, str]]:
        nonlocal form
        found = [(row, answer, record.where) for row, answer in _exchanges(record)]
        chat = HISTORY in found[0][0]
        form = chat if form is None else form
        if chat != form:
            kinds = ("texts", "messages")
            raise DataError(f"{record.where}: wanted {kinds[form]}, as before, got {kinds[chat]}: write all alike")
        return found

    found = read_rows(path, exchanges, wanted="conversations", encoding=encoding, on_error=on_error, log=log)
    rows, answers, sources = zip(*chain.from_iterable(found), strict=True)
    # Space that all answers begin with is the template's; other space around an answer does not count.
    begins = [answer[: len(answer) - len(answer.lstrip())] for answer in answers]
    begin = "" if form else commonprefix(begins)  # noqa: RUF071 (of characters, not of paths)
    prompt = Prompt(f"{{{PROMPT}}}{begin}{{{ANSWER}}}", history=bool(form))
    return Exchanges(rows, [answer.strip() for answer in answers], sources, prompt)


def _exchanges(record: Record) -> Iterator[tuple[Mapping[str, str], str]]:
    """The rows of a record and their answers, at least one."""
    values = record.values
    name = next((each for each in MESSAGES if each in values), None)
    if name is not None:
        yield from _of_messages(record, _messages(record, name), 0)
    elif isinstance(values.get(PROMPT), list) or isinstance(values.get(COMPLETION), list):
        before = _messages(record, PROMPT)
        yield from _of_messages(record, before + _messages(record, COMPLETION), len(before))
    else:
        prompt, answer = record.text(PROMPT), record.text(COMPLETION)
        for name, text in ((PROMPT, prompt), (COMPLETION, answer)):
            if not text.strip():
                raise DataError(f"{record.where}: wanted a text, {name!r} is empty: write one, or leave the row out")
        yield {PROMPT: prompt}, answer


def _of_messages(record: Record, messages: list[dict[str, str]], first: int) -> Iterator[tuple[Mapping[str, str], str]]:
    """The answers from message `first` on."""
    count = 0
    for index in range(first, len(messages)):
        if messages[index]["role"] != "assistant":
            continue
        asked, answer = messages[index - 1] if index else None, messages[index]["content"]
        if asked is None or asked["role"] != "user" or not asked["content"].strip() or not answer.strip():
            raise DataError(
                f"{record.where}: wanted each message of the assistant to answer one of the user, got one that is"
                f" empty, or follows {'nothing' if asked is None else asked['role']!r}: correct it"
            )
        yield {PROMPT: asked["content"], HISTORY: json.dumps(messages[: index - 1], ensure_ascii=False)}, answer
        count += 1
    if not count:
        raise DataError(f"{record.where}: wanted an answer of the assistant, got none: write one, or leave the row out")


def _messages(record: Record, name: str) -> list[dict[str, str]]:
    """A column of messages, each with a role and a content."""
    found = record.values.get(name)
    if isinstance(found, str):  # a .csv has them as JSON
        try:
            found = json.loads(found)
        except ValueError:
            found = None
    messages = [_message(message) for message in found] if isinstance(found, list) else [None]
    if None in messages:
        raise DataError(
            f'{record.where}: wanted {name!r} to be messages, as [{{"role": "user", "content": "…"}}, …], got'
            f" {str(record.values.get(name))[:40]!r}: correct it"
        )
    return [message for message in messages if message is not None]


def _message(message: Any) -> dict[str, str] | None:
    """A role and a content, which may be written as parts of text; None for what is no message."""
    if not isinstance(message, dict):
        return None
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {"role": _ROLES.get(role, role) if "from" in message else role, "content": content}
