"""What a user holds: a tokenizer and a Transformer together. Knows text; how things are computed is told elsewhere."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import machine
from chainrule.errors import ModelError
from chainrule.generation.sampling import Sampling
from chainrule.generation.text import Completion, Ending, Piece, complete
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.checkpoint import load_model, read_config, save_model
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import Document, Evaluation, Scores, TokenScore, border, score_documents
from chainrule.storage.gguf import is_gguf
from chainrule.storage.hub import model_directory
from chainrule.tokens.chat import Chat
from chainrule.tokens.gguf_tokenizer import generation_fields as gguf_generation_fields
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

Beginning = str | Sequence[int]  # of what is generated: a text, or tokens as they are


class LanguageModel:
    """p(x_1..x_T) over texts. Made by `load`, or from its two parts.

    `family` is how a directory names the architecture; `stop_tokens` end a generated text (⊥ alone in our own models);
    `generation` is the directory's generation_config.json: `generate` takes its own options, lm-evaluation-harness
    obeys these.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        family: str,
        stop_tokens: Sequence[int] | None = None,
        generation: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        tokenizer.check_fits(model.config.vocabulary_size)
        self.model = model
        self.tokenizer = tokenizer
        self.family = family
        self.stop_tokens = (tokenizer.bottom,) if stop_tokens is None else tuple(stop_tokens)
        self.generation = dict(generation)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def log_prob(self, text: str, given: str = "") -> float:
        """log p(text | given) in nats: Σ_t log p(x_t | the ones before); ⊥ is given, and the closing ⊥ is not scored.

        `given` and `text` are tokenized as one, and a token that crosses their border belongs to `text`. What is longer
        than the context is read in windows that overlap by half of it.
        """
        _, scores = self._scores(text, given, top=0)
        return scores.log_probs.double().sum().item()

    def score(self, text: str, given: str = "", top: int = 5) -> list[TokenScore]:
        """The factors of p(text | given): each token of `text`, with the `top` most probable ones in its place."""
        tokens, scores = self._scores(text, given, self._top(top, least=0))
        pieces = self.tokenizer.pieces
        rows = zip(pieces(tokens), *(column.tolist() for column in scores), strict=True)
        return [
            TokenScore(piece, log_prob, list(zip(pieces(best), best_log_probs, strict=True)))
            for piece, log_prob, best, best_log_probs in rows
        ]

    def _scores(self, text: str, given: str, top: int) -> tuple[list[int], Scores]:
        """The tokens that belong to `text` after `given`, and their scores."""
        tokens = self.tokenizer.encode(given + text)
        (scores,) = score_documents(self.model, [[self.tokenizer.bottom, *tokens]], top=top)
        inside = border(self.tokenizer, given, tokens)
        return tokens[inside:], Scores(*(column[inside:] for column in scores))

    def evaluate(self, texts: str | Iterable[str], stride: int | None = None) -> Evaluation:
        """How well the model predicts these documents: every token is scored once, after as many as the windows hold.

        `stride`: tokens by which a window moves on, half the context by default; a smaller one is slower and gives
        each token more context. Raises ModelError for a stride out of range, and where there is no text.
        """
        size = 0

        def documents() -> Iterator[Document]:
            nonlocal size
            for text in [texts] if isinstance(texts, str) else texts:
                (tokens,) = self.tokenizer.encode_batch([text])
                size += len(text.encode())
                yield np.concatenate(([self.tokenizer.bottom], tokens))

        tokens, total = 0, 0.0
        for scores in score_documents(self.model, documents(), stride):
            tokens += len(scores.log_probs)
            total += scores.log_probs.double().sum().item()
        if not tokens:
            raise ModelError("evaluate: wanted text, got none (or empty ones only)")
        return Evaluation(tokens, size, -total / tokens)

    def next_token(self, text: str, top: int = 5) -> list[tuple[str, float]]:
        """The most probable tokens after `text` with their probabilities, softmax(u_{T+1}).

        Raises ModelError for a text longer than the context.
        """
        with torch.inference_mode():
            logits = self.model.logits(self.features(text)[-1]).float()  # (V,)
            best = logits.softmax(-1).topk(self._top(top, least=1))
        return list(zip(self.tokenizer.pieces(best.indices.tolist()), best.values.tolist(), strict=True))

    @torch.no_grad()
    def features(self, text: str) -> Tensor:
        """φ_θ (T + 1, D) at ⊥ and each of the text's T tokens; the last row is c_{T+1}.

        Raises ModelError for a text longer than the context.
        """
        tokens = torch.tensor([self._tokens(text)], device=self.device)
        return self.model.features(tokens)[0]

    def generate(
        self,
        prompt: str = "",
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> str:
        """A continuation of `prompt`: `Sampling` tells how its tokens are chosen, `completions` where it ends."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        return self.completions([prompt], sampling, max_tokens=max_tokens, stop=stop, seed=seed)[0].text

    def stream(
        self,
        prompt: str = "",
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """What `generate` returns, in pieces of whole characters as soon as they can no longer change."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        pieces = self.pieces([prompt], sampling, max_tokens=max_tokens, stop=stop, seed=seed)
        return (piece.text for piece in pieces if piece.text)

    def completions(
        self,
        prompts: Sequence[Beginning],
        sampling: Sampling | None = None,
        *,
        samples: int = 1,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> list[Completion]:
        """`samples` continuations of each prompt, one prompt's after the other's; an empty prompt is ⊥ alone.

        A prompt that is no text is tokens to go on from as they are, such as `chat.tokens(messages)`.

        Each ends with a stop token, before a stop string, after `max_tokens`, or where the context is full. Sample s of
        a prompt depends on (seed, s) and that prompt alone: in float32 it is the same in any batch.
        """
        pieces = self.pieces(prompts, sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        made = {piece.sequence: piece.completion for piece in pieces}
        return [made[sequence] for sequence in sorted(made)]

    def pieces(
        self,
        prompts: Sequence[Beginning],
        sampling: Sampling | None = None,
        *,
        samples: int = 1,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[Piece]:
        """The completions in the making: sequence p * samples + s is sample s of prompt p."""
        return complete(
            self.model,
            self.tokenizer,
            [self._tokens(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts],
            sampling or Sampling(),
            samples=samples,
            ending=Ending(max_tokens, (stop,) if isinstance(stop, str) else stop, self.stop_tokens),
            seed=seed,
        )

    @cached_property
    def chat(self) -> Chat:
        """How this model writes messages down; ModelError for one without a chat template."""
        return Chat.of(self.tokenizer)

    def save(self, directory: str | Path) -> None:
        """Write the model as a Hugging Face directory, which `load` and transformers read."""
        directory = Path(directory)
        self.tokenizer.save(directory)
        save_model(self.model, self.family, directory, self.tokenizer.bottom, self.stop_tokens, self.generation)

    def _tokens(self, text: str) -> list[int]:
        return [self.tokenizer.bottom, *self.tokenizer.encode(text)]

    def _top(self, top: int, least: int) -> int:
        if top < least:
            raise ModelError(f"top: wanted at least {least}, got {top}")
        return min(top, self.model.config.vocabulary_size)


Pretrained = LanguageModel | MaskedLanguageModel


def load(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Pretrained:
    """The language model of a directory, a run or any Hugging Face directory of a family we have; of a GGUF file; or of
    a name on the Hub, "owner/name", "owner/name@revision" or "owner/name:file.gguf". BERT's is a masked one.

    Raises ModelError, in one line, for a path or a name that stands for none.
    """
    directory, where = model_directory(path), machine.device(device)
    model, family = load_model(directory, where, machine.dtype(dtype, where))
    return held(model, load_tokenizer(directory), family, stop_tokens_of(directory), generation_fields(directory))


def held(
    model: Transformer,
    tokenizer: Tokenizer,
    family: str,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> Pretrained:
    """A Transformer and a tokenizer together: of the kind that the Transformer is."""
    if model.config.causal:
        return LanguageModel(model, tokenizer, family, stop_tokens, generation)
    return MaskedLanguageModel(model, tokenizer, family)


def generation_fields(directory: Path) -> dict[str, Any]:
    """What a directory's generation_config.json, or a GGUF in its place, says; nothing where there is none."""
    if is_gguf(directory):
        return gguf_generation_fields(directory)
    path = directory / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: wanted a JSON object, got {error}") from None


def stop_tokens_of(directory: Path) -> tuple[int, ...] | None:
    """The eos ids of generation_config.json, else of config.json; None where neither names any."""
    for name, fields in (
        ("generation_config.json", generation_fields(directory)),
        ("config.json", read_config(directory)),
    ):
        ids = fields.get("eos_token_id")
        if ids is None:
            continue
        tokens = tuple(ids) if isinstance(ids, list) else (ids,)
        if not all(type(token) is int for token in tokens):
            raise ModelError(f"{directory / name}: wanted eos_token_id to be a token's number or several, got {ids!r}")
        return tokens
    return None
