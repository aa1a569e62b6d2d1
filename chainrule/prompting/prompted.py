"""A predictor that puts each row into a prompt for a language model, behind demonstrations or without.

Knows rows, prompts and log-probabilities; nothing is trained. Shapes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import ChainruleError, ModelError
from chainrule.language_model import LanguageModel, Pretrained, require_causal
from chainrule.model.formats.adapter_files import Adapter
from chainrule.prompting import demonstrations
from chainrule.prompting.answers import finished, first_word, generate_answers, word_ended
from chainrule.prompting.asking import Answer, Asking
from chainrule.prompting.calibrate import CONTENT_FREE, Floats, bias, probabilities
from chainrule.prompting.demonstrations import Choose
from chainrule.prompting.files import PromptForm
from chainrule.prompting.label_scores import label_scores
from chainrule.prompting.row_prompts import PromptMaker, RowPrompt
from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.chat import Chat

_ROWS_AT_ONCE = 1024  # in memory, at most
_OPTIONS_AT_ONCE = 4096  # label words in memory, at most, each with its prompt's tokens
_REFERENCES = 128  # training texts used by calibration
_ANSWER_TOKENS = 64  # the most of a generated answer
ANOTHER = "take another model"


class Shown(NamedTuple):
    """A prompt and the model's answer."""

    prompt: str  # exactly, without BOS
    answer: str  # the label, or the generated answer
    probabilities: dict[str, float]  # of each label; none where the answer was generated


class Scored(NamedTuple):
    """How a row's probabilities came about, label by label."""

    prompt: RowPrompt
    log_probs: Floats  # (C,) log p of each label's ending after the prompt, normalised as asked; nats
    bias: Floats  # (C,) what calibration subtracts, in nats; 0 without calibration
    uncalibrated: Floats  # (C,) softmax(log_probs)
    probabilities: Floats  # (C,) softmax(log_probs - bias)


class Prompted:
    """A prompted predictor, without demonstrations or with some. Made by `zero_shot` and `in_context`.

    `labels`: the classes; none where answers are free. `generates`: whether answers are generated, not the most
    probable of the labels. `fewest` and `most` are the numbers of demonstrations that fitted into the prompts so far,
    `cut` counts the rows whose beginning was cut, `left_out` those that a finetuning left out; `notes` is the same in
    words. `adapter`: what is saved in place of the model, which the adapter is merged into.
    """

    def __init__(
        self,
        lm: Pretrained,
        task: Task,
        pool: Examples,
        shots: int,
        choose: Choose[Row],
        asking: Asking,
        answer: Answer = "labels",
    ) -> None:
        prompt = task.checked_prompt()
        lm.model.config.check_language_head()
        self.lm, self.task, self.shots, self.asking = lm, task, shots, asking
        self.labels = task.labels
        self.generates = task.kind == "free" or answer == "vocabulary"
        self.fewest, self.most, self.cut, self.left_out = shots, 0, 0, 0
        self.adapter: Adapter | None = None
        self._generator = self._checked_generator(prompt) if self.generates else None
        self._choose = choose
        chat = asking.chat or prompt.history  # messages before a row's have no other place
        self._chat = self._checked_chat(prompt) if chat else None
        self._prompt, self._pool = prompt, pool
        self._maker = self.maker(min(_ANSWER_TOKENS, lm.model.config.context // 4))
        self._words = {prompt.word(label).strip(): label for label in self.labels}
        # A free answer is one line, unless the separator shows where it ends.
        self._stop = prompt.after(self._blank("")) + (prompt.separator if prompt.separator.strip() else "\n")
        self._one_line = True  # what follows `_stop` is no part of an answer
        self._bias: Floats | float = 0.0
        if asking.calibrate == "train":
            drawn = demonstrations.random(len(task.train), _REFERENCES, seed=0)
            self._bias = bias(self._scores(self.prompts([task.train.rows[row] for row in drawn], but_itself=True)))

    def maker(self, answer_tokens: int) -> PromptMaker:
        """What makes the prompts; of the context it keeps `answer_tokens` for an answer that is generated."""
        choices = () if self.generates else self.task.labels
        return PromptMaker(
            self.lm, self._prompt, self.task.text, choices, self._pool,
            longer=self.asking.longer, answer_tokens=answer_tokens, chat=self._chat,
        )  # fmt: skip

    def end_answers(self, most: int, *, one_line: bool) -> None:
        """Generated answers may have `most` tokens, and end with their line, or with a stop token alone."""
        longest = max(self._maker.answer_tokens, min(most, self.lm.model.config.context // 2))
        self._maker, self._one_line = self.maker(longest), one_line

    def is_one_line(self, answer: str) -> bool:
        """Whether an answer has nothing that would end it before its end."""
        return self._stop not in answer

    def _checked_chat(self, prompt: Prompt) -> Chat:
        """The model's chat template. ModelError where it has none."""
        asked = "chat" if self.asking.chat else "messages"
        lm = require_causal(self.lm, asked, "leave --chat out, or take another model" if self.asking.chat else ANOTHER)
        if prompt.history and lm.tokenizer.chat_template is None:
            raise ModelError(
                f"{self.task.path or 'task'}: wanted a model with a chat_template, as instruct models have, for its"
                " messages, got one without; take another model, or write prompt and completion as texts"
            )
        return lm.chat

    def _checked_generator(self, prompt: Prompt) -> LanguageModel:
        """The language model, if it can generate this task's answers."""
        chosen = "" if self.task.kind == "free" else ", or --answer labels"
        lm = require_causal(self.lm, "answer", ANOTHER + chosen)
        self.asking.check_generated()
        if not prompt.ends_with_answer:
            raise ChainruleError(
                "template: wanted {label} behind all columns, as the answer is generated; got a column behind it;"
                " rewrite it, or ask for the most probable label"
            )
        return lm

    def predict(self, rows: Iterable[Row | str]) -> list[str]:
        """The label of each row, "" where a generated word is no label word; the answer itself where answers are free.

        Raises ChainruleError for a row without the task's columns, and for one longer than the context with
        longer="refuse".
        """
        return [label for label, _ in self.stream(rows)]

    def predict_proba(self, rows: Iterable[Row | str]) -> Floats:
        """(N, C) probabilities of `labels`, each row's summing to 1. Raises ChainruleError where answers are
        generated."""
        if self.generates:
            raise ChainruleError(
                "predict_proba: wanted labels to choose from, got answers that are generated; use predict"
            )
        return np.array([found for _, found in self.stream(rows)], np.float64).reshape(-1, len(self.labels))

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[str, Floats]]:
        """Label and probabilities (C,) of each row, for any number of rows; no probabilities of generated answers."""
        for prompts in self._prompts(rows):
            if self.generates:
                yield from ((self.label_of(answer), np.empty(0)) for answer in finished(self._generate(prompts)))
            else:
                yield from ((self.labels[found.argmax()], found) for found in self._probabilities(prompts))

    def predict_in_steps(self, rows: Iterable[Row | str]) -> Generator[None, None, list[str]]:
        """As `predict`; where answers are generated it yields after each token, for others to have their turn."""
        if not self.generates:
            return self.predict(rows)
        found: list[str] = []
        for prompts in self._prompts(rows):
            found += map(self.label_of, (yield from self._generate(prompts)))
        return found

    def answers(self, rows: Iterable[Row | str]) -> Iterator[str]:
        """The generated answer for each row: a word, or a free answer. ChainruleError where a label is chosen."""
        if not self.generates:
            raise ChainruleError("answers: wanted answers that are generated, got labels to choose from; use predict")
        for prompts in self._prompts(rows):
            yield from finished(self._generate(prompts))

    def label_of(self, answer: str) -> str:
        """The label with the word `answer`, "" if none has it; the answer itself where answers are free."""
        return answer if self.task.kind == "free" else self._words.get(answer, "")

    def show(self, row: Row | str) -> Shown:
        """The exact prompt of a row, and its answer."""
        (prompt,) = self.prompts([self.task.row(row)])
        if self.generates:
            return Shown(prompt.prompt, finished(self._generate([prompt]))[0], {})
        (found,) = self._probabilities([prompt])
        named = dict(zip(self.labels, found.tolist(), strict=True))
        return Shown(prompt.prompt, self.labels[found.argmax()], named)

    def scored(self, row: Row | str) -> Scored:
        """The prompt of a row, and each label's scores before and after calibration. ChainruleError where answers are
        generated."""
        if self.generates:
            raise ChainruleError("scored: wanted labels to choose from, got answers that are generated; use show")
        prompts = self.prompts([self.task.row(row)])
        scores, biases = self._scores_and_biases(prompts)
        found, uncalibrated = probabilities(scores, biases), probabilities(scores)
        return Scored(prompts[0], scores[0], biases[0], uncalibrated[0], found[0])

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns of a row."""
        return self.task.text

    @property
    def notes(self) -> list[str]:
        """Warnings about the rows so far, a line each: dropped demonstrations, cut texts."""
        context, notes = self.lm.model.config.context, []
        if self.fewest < self.shots:
            fitted = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
            notes.append(f"{fitted} of {self.shots} demonstrations fitted into the context of {context} tokens")
        if self.cut:
            notes.append(f"{self.cut} rows longer than the context of {context} tokens lost their beginning")
        if self.left_out:
            notes.append(
                f"{self.left_out} training rows were left out: their answers do not fit into the context of {context}"
                " tokens"
            )
        return notes

    def take_counts(self) -> dict[str, int]:
        """What `notes` is made of, since the last call: for `add_counts` of the same predictor elsewhere."""
        counts = {"fewest": self.fewest, "most": self.most, "cut": self.cut}
        self.fewest, self.most, self.cut = self.shots, 0, 0
        return counts

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Count in `notes` what the same predictor saw elsewhere."""
        self.fewest, self.most = min(self.fewest, counts["fewest"]), max(self.most, counts["most"])
        self.cut += counts["cut"]

    def _prompts(self, rows: Iterable[Row | str]) -> Iterator[list[RowPrompt]]:
        """The rows' prompts, many at a time; counts dropped demonstrations and cut rows."""
        if isinstance(rows, str | Mapping):
            raise ChainruleError("rows: wanted several rows, got one alone; put it into a list")
        rest = (self.task.row(row, f"row {number}") for number, row in enumerate(rows, 1))
        at_once = min(_ROWS_AT_ONCE, max(1, _OPTIONS_AT_ONCE // max(1, len(self.labels))))
        while part := list(islice(rest, at_once)):
            prompts = self.prompts(part)
            counts = [len(prompt.chosen) for prompt in prompts]
            self.fewest, self.most = min(self.fewest, *counts), max(self.most, *counts)
            self.cut += sum(prompt.cut for prompt in prompts)
            yield prompts

    def prompts(self, rows: Sequence[Row], but_itself: bool = False) -> list[RowPrompt]:
        """The prompt of each row; with `but_itself` never with the row's own text among its demonstrations."""
        chosen = self._choose(rows, self.shots + but_itself)
        if but_itself:
            chosen = [self._others(indices, row)[: self.shots] for indices, row in zip(chosen, rows, strict=True)]
        return [self._maker.fit(indices, row) for indices, row in zip(chosen, rows, strict=True)]

    def _others(self, indices: tuple[int, ...], row: Row) -> tuple[int, ...]:
        shown, columns = self._maker.pool.rows, self.task.text
        return tuple(index for index in indices if any(shown[index][column] != row[column] for column in columns))

    def _blank(self, text: str) -> Row:
        """A row with `text` in every text column."""
        return dict.fromkeys(self.task.text, text)

    def _generate(self, prompts: Sequence[RowPrompt]) -> Generator[None, None, list[str]]:
        assert self._generator is not None
        tokens = [prompt.tokens for prompt in prompts]
        if self.task.kind == "free":
            most, after = self._maker.answer_tokens, self._prompt.after(self._blank(""))
            texts = yield from generate_answers(self._generator, tokens, lambda text: self._ended(text), most)
            return [self._before_stop(text).strip().removesuffix(after.strip()).strip() for text in texts]
        words = list(self._words)
        texts = yield from generate_answers(
            self._generator, tokens, lambda text: word_ended(text, words), _ANSWER_TOKENS
        )
        return [first_word(text, words) for text in texts]

    def _ended(self, text: str) -> bool:
        return self._one_line and self._stop in text

    def _before_stop(self, text: str) -> str:
        return text.partition(self._stop)[0] if self._one_line else text

    def answer_tokens(self, row: Row, answer: str) -> list[int]:
        """An answer's tokens as they follow the row's prompt, tokenized apart from it, and the token that ends it.

        The end is what the chat template writes behind an answer, where that is a stop token, else the first of these.
        """
        asked = self._prompt.before(row)
        spaces = "" if self._chat is not None else asked[len(asked.rstrip(" ")) :]
        end = None if self._chat is None else self._chat.end
        stops = self.lm.stop_tokens
        text = spaces + answer + self._prompt.after(row)
        return [*self.lm.tokenizer.encode_behind(text), stops[0] if end not in stops or end is None else end]

    @property
    def reads(self) -> list[Any]:
        """How a row becomes a prompt, for JSON: what a finetuning depends on."""
        prompt = self._prompt
        words = sorted(prompt.words.items())
        return [self.task.kind, self.task.text, self.labels, prompt.template, prompt.separator, words, prompt.history]

    def save(self, directory: str | Path) -> None:
        """Write the language model, or its adapter, and the prompt beside it, for `load_classifier` and `predict`.

        Raises ChainruleError for a predictor with demonstrations, or one that is calibrated by training texts: their
        texts are not saved.
        """
        asking = self.asking
        if self.shots or asking.calibrate == "train":
            raise ChainruleError(
                "save: wanted a predictor without demonstrations and training texts, got one that shows some; keep the"
                " task file, and predict with --task"
            )
        directory, prompt = Path(directory), self._prompt
        self.lm.tokenizer.save(directory)
        PromptForm(
            self.task.kind, self.task.text, self.task.label, tuple(self.labels),
            prompt.template, prompt.separator, dict(prompt.words), prompt.history,
            asking.longer, asking.chat, asking.normalise, asking.calibrate,
            self.lm.tokenizer.bos, self._maker.answer_tokens, self._one_line,
        ).save(directory)  # fmt: skip
        if self.adapter is None:
            self.lm.save(directory)
        else:
            self.adapter.save(directory)

    def _scores(self, prompts: Sequence[RowPrompt]) -> Floats:
        return label_scores(self.lm.model, prompts, self.asking.normalise)

    def _probabilities(self, prompts: Sequence[RowPrompt]) -> Floats:
        """(N, C)"""
        return probabilities(*self._scores_and_biases(prompts))

    def _scores_and_biases(self, prompts: Sequence[RowPrompt]) -> tuple[Floats, Floats]:
        """(N, C) scores, and what calibration subtracts from them, (N, C)."""
        if self.asking.calibrate != "content-free":
            scores = self._scores(prompts)
            return scores, np.broadcast_to(self._bias, scores.shape)
        # Each set of demonstrations has its own bias; it is scored together with the rows that have that set.
        sets = {chosen: number for number, chosen in enumerate(dict.fromkeys(prompt.chosen for prompt in prompts))}
        content_free = [self._maker.fit(chosen, self._blank(text)) for chosen in sets for text in CONTENT_FREE]
        scores = self._scores([*prompts, *content_free])  # (N + M, C)
        biases = bias(scores[len(prompts) :].reshape(len(sets), len(CONTENT_FREE), len(self.labels)))
        return scores[: len(prompts)], biases[[sets[prompt.chosen] for prompt in prompts]]
