"""A predictor with a trained linear head, and its files. Knows rows and their labels, not how these were learned.

Shapes: N rows, C classes, D width.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import tokenizers
import tomli_w
import torch
from numpy.typing import NDArray
from tokenizers import processors
from torch import Tensor

from chainrule import machine
from chainrule.errors import DataError, ModelError
from chainrule.model.adapter import merged
from chainrule.model.formats import classifier as files
from chainrule.model.formats.adapter import load_adapted_classifier
from chainrule.model.formats.adapter_files import Adapter, is_adapter, read_adapter
from chainrule.model.transformer import Transformer
from chainrule.scoring.features import Features, Text, reads_pairs
from chainrule.storage.files import write_json, write_text
from chainrule.storage.hub import model_directory
from chainrule.tasks.answers import Answer, Kind, answer_of
from chainrule.tasks.examples import Row, Task
from chainrule.tasks.rows import checked_row, joined_text
from chainrule.tokens.settings import FILES
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer
from chainrule.tokens.tokenizer_files import model_input_names

_ROWS_AT_ONCE = 2048  # in memory; sorted by length before they are computed
_FORM = "chainrule.toml"  # beside the model: the fields that transformers has not


@dataclass(frozen=True)
class Form:
    """How a row becomes the text that the model reads."""

    text: tuple[str, ...]  # the text columns
    input: str | None = None  # the template that they fill; None: they are joined by a newline
    pair: bool = False  # two columns are read as two segments

    def __call__(self, row: Row | str) -> Text:
        if self.pair:
            checked = checked_row(row, self.text)
            return checked[self.text[0]], checked[self.text[1]]
        return joined_text(checked_row(row, self.text), self.text, self.input)


def form_of(task: Task, model: Transformer, tokenizer: Tokenizer) -> Form:
    """How the rows of a task are read: two text columns without a template as a pair, where the model reads pairs."""
    pair = len(task.text) == 2 and task.input is None and reads_pairs(model, tokenizer)
    return Form(task.text, task.input, pair)


class Classifier:
    """softmax(w · c_{T+1}) over `labels`. Made by `finetune` and `load_classifier`.

    `kind` is that of the task: of several labels at once, sigmoid(w · c_{T+1} + bias) for each; of a number,
    w · c_{T+1} + bias itself. `w` (C, D) is float32; row i belongs to `outputs[i]`. `bias` (C,), in float32, is None
    where it is 0, as with one label, and for families whose heads have none. `cut` counts the texts so far that lost
    their beginning because they were longer than the context; `notes` are warnings about that. `adapter`: what is
    saved in place of the model, which the adapter is merged into, or stands beside where it is quantised.
    """

    def __init__(
        self,
        features: Features,
        w: Tensor,
        labels: Sequence[str],
        form: Form,
        family: str,
        adapter: Adapter | None = None,
        kind: Kind = "classification",
        bias: Tensor | None = None,
    ) -> None:
        """`labels`: the classes in the order of w's rows; of a number its name."""
        self.adapter, self.kind, self.bias = adapter, kind, bias
        self.features, self.w, self.outputs, self.form, self.family = features, w, tuple(labels), form, family

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes; none where a number is predicted."""
        return () if self.kind == "regression" else self.outputs

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns of a row."""
        return self.form.text

    @property
    def cut(self) -> int:
        """How many texts lost their beginning so far, being longer than the context."""
        return self.features.cut

    @property
    def notes(self) -> list[str]:
        """Warnings about the texts that were read, a line each."""
        return self.features.notes

    def take_counts(self) -> dict[str, int]:
        """What `notes` is made of, since the last call: for `add_counts` of the same classifier elsewhere."""
        cut, self.features.cut = self.features.cut, 0
        return {"cut": cut}

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Count in `notes` what the same classifier saw elsewhere."""
        self.features.cut += counts["cut"]

    def predict(self, rows: Iterable[Row | str]) -> list[Answer]:
        """The most probable label of each row; of several at once a tuple of those more probable than not; or a number.

        Raises DataError for a row without the text columns, and for one longer than the context if that is refused.
        """
        return [label for label, _ in self.stream(rows)]

    def predict_proba(self, rows: Iterable[Row | str]) -> NDArray[np.float64]:
        """(N, C) probabilities of `labels`, each row's summing to 1 where a row has one label; errors as in `predict`,
        and DataError where a number is predicted."""
        if self.kind == "regression":
            raise DataError("predict_proba: wanted a classifier of labels, got one of a number: use predict")
        return np.array([probabilities for _, probabilities in self.stream(rows)]).reshape(-1, len(self.labels))

    def stream(self, rows: Iterable[Row | str]) -> Iterator[tuple[Answer, NDArray[np.float64]]]:
        """Label and probabilities (C,) of each row, lazily: memory does not grow with their number. Of a number there
        are no probabilities."""
        if isinstance(rows, str | Mapping):
            raise DataError("rows: wanted several rows, got one alone; put it into a list")
        texts = map(self.form, rows)
        while part := list(islice(texts, _ROWS_AT_ONCE)):
            logits = torch.from_numpy(self.features(part)).double() @ self.w.double().T
            if self.bias is not None:
                logits = logits + self.bias.double()
            if self.kind == "regression":
                yield from ((float(number), np.empty(0)) for number in logits[:, 0])
                continue
            for probabilities in (logits.sigmoid() if self.kind == "multilabel" else logits.softmax(-1)).numpy():
                yield answer_of(self.kind, self.labels, probabilities), probabilities

    def whole(self) -> "Classifier":
        """The same without adapters: they are merged into the weights, of which those in blocks become float32."""
        features = self.features
        model = merged(features.model)
        read = Features(model, features.tokenizer, longer=features.longer, pairs=features.pairs)
        return Classifier(read, self.w, self.outputs, self.form, self.family, None, self.kind, self.bias)

    def save(self, directory: str | Path) -> None:
        """Write the family's ForSequenceClassification, for `load_classifier` and transformers' pipelines; or the
        adapter, for `load_classifier` and PEFT."""
        directory = Path(directory)
        _save_tokenizer(self.features, directory)
        form: dict[str, Any] = {"text": list(self.form.text), "longer": self.features.longer}
        if self.form.input is not None:
            form["input"] = self.form.input
        if self.form.pair:
            form["pair"] = True
        write_text(directory / _FORM, tomli_w.dumps({"classifier": form}))
        if self.adapter is not None:
            self.adapter.save(directory)
            return
        model, bos_id = self.features.model, self.features.tokenizer.bos_id
        files.save_classifier(model, self.w, self.family, self.outputs, directory, bos_id, self.kind, self.bias)


def load_classifier(directory: str | Path, *, device: str = "auto", dtype: str = "auto") -> Classifier:
    """The classifier that `Classifier.save` wrote; an adapter is merged into its base, or stands beside a base that was
    quantised for the training.

    Raises ModelError for a directory that holds a language model, and for a classifier that was not saved by chainrule:
    its files do not say which columns it reads.
    """
    directory, where = model_directory(directory), machine.device(device)
    adapter, precision = read_adapter(directory) if is_adapter(directory) else None, machine.dtype(dtype, where)
    if adapter is None:
        loaded = files.load_classifier(directory, where, precision)
    else:
        loaded = load_adapted_classifier(directory, adapter, where, precision)
    path = directory / _FORM
    if not path.is_file():
        raise ModelError(
            f"{directory}: wanted a classifier saved by chainrule, got one without {_FORM}; finetune it here"
        )
    try:
        form = tomllib.loads(path.read_text(encoding="utf-8"))["classifier"]
        text, template, longer = tuple(form["text"]), form.get("input"), form["longer"]
        pair = form.get("pair") is True
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: wanted the columns that the classifier reads, got {error!r}; restore it") from None
    features = Features(loaded.model, load_tokenizer(directory), longer=longer, pairs=pair)
    bias, kind = None if loaded.bias is None else loaded.bias.cpu(), cast(Kind, loaded.kind)
    form = Form(text, template, pair)
    return Classifier(features, loaded.w.cpu(), loaded.labels, form, loaded.family, adapter, kind, bias)


def _save_tokenizer(features: Features, directory: Path) -> None:
    """Write the tokenizer's files so that AutoTokenizer gives the tokens of `Features.tokens`: BOS, the text, and
    what closes it, padded on the right with BOS, and with `truncation=True` cut at the beginning.

    Many other tokenizers add no BOS and have no padding token. Such a one is rewritten, without its other files, from
    which transformers would rebuild the original.
    """
    tokenizer, closing = features.tokenizer, features.closing
    tokenizer.save(directory)
    path, settings_path = directory / "tokenizer.json", directory / "tokenizer_config.json"
    inner = tokenizers.Tokenizer.from_str(tokenizer.definition)
    bos = inner.id_to_token(tokenizer.bos_id)
    wanted = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # any other is built anew by the model's type
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), bos),
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "split_special_tokens": True,
    }
    added = {
        "model_max_length": features.model.config.context,
        "truncation_side": "left",
        "model_input_names": model_input_names(features.segments),  # a text alone is the first segment anyway
    }
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    as_they_are = settings.items() >= wanted.items() and inner.encode("").ids == [tokenizer.bos_id, *closing]
    if as_they_are and not features.pairs:
        write_json(settings_path, {**settings, **added})
        return
    for name in set(FILES) - {path.name, settings_path.name}:
        (directory / name).unlink(missing_ok=True)
    inner.no_truncation()
    inner.no_padding()
    ends = [inner.id_to_token(token) for token in closing]
    middle, second = [inner.id_to_token(token) for token in features.between], ":1" if features.segments else ""
    both = [bos, "$A", *middle, f"$B{second}", *(f"{end}{second}" for end in ends)]
    inner.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", *ends],
        pair=both if features.pairs else None,
        special_tokens=sorted(
            {
                (bos, tokenizer.bos_id),
                *zip(middle, features.between, strict=True),
                *zip(ends, closing, strict=True),
            }
        ),
    )
    write_text(path, inner.to_str())
    write_json(settings_path, {**wanted, **added})
