"""A causal language model: a tokenizer and a Transformer together. Knows text; computes by generation/ and scoring/."""

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
from chainrule.generation.text import Completion, Ending, NewText, complete
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.adapter import load_adapted
from chainrule.model.formats.adapter_files import is_adapter, read_adapter
from chainrule.model.formats.checkpoint import read_config, save_model
from chainrule.model.formats.load_quantised import Quantize, load_quantised
from chainrule.model.quantise import quantise_model
from chainrule.model.quantised import is_quantised, refuse_quantised
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import (
    Evaluation,
    Section,
    TokenScore,
    given_tokens,
    grouped,
    score_documents,
    score_sections,
    sections,
)
from chainrule.scoring.evaluation import Sums, TextPiece, added_up
from chainrule.scoring.token_scores import Scores
from chainrule.storage.gguf import is_gguf
from chainrule.storage.hub import model_directory
from chainrule.tokens.chat import Chat
from chainrule.tokens.gguf_tokenizer import generation_fields as gguf_generation_fields
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

_TOKENS_OF_A_SECTION = 2**15  # of a text longer than that: workers share it
PromptLike = str | Sequence[int]  # a text, or tokens with BOS or a chat template's


class LanguageModel:
    """p(x_1..x_T) over texts. Made by `load`, or from a model and a tokenizer.

    `family` is the architecture, as Hugging Face names it; `stop_tokens` end a generated text (BOS alone in our own
    models); `generation` is the directory's generation_config.json: lm-evaluation-harness uses its options, `generate`
    its own. `path` is what `load` read the weights from; None where they are of no file, or of an adapter.
    `quantize` is how it was asked to keep them.
    """

    path: str | None = None
    quantize: str = "none"

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
        self.stop_tokens = (tokenizer.bos_id,) if stop_tokens is None else tuple(stop_tokens)
        self.generation = dict(generation)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def log_prob(self, text: str, given: str = "") -> float:
        """log p(text | given) in nats: Σ_t log p(x_t | the ones before). BOS is given; no end of the text is scored.

        `given` and `text` are tokenized as one, and a token that crosses their border belongs to `text`. Texts longer
        than the context are scored in windows that overlap by half of it.
        """
        _, scores = self._scores(text, given, top=0)
        return scores.log_probs.double().sum().item()

    def score(self, text: str, given: str = "", top: int = 5) -> list[TokenScore]:
        """The factors of p(text | given): each token of `text`, with the `top` most probable ones at its position."""
        tokens, scores = self._scores(text, given, self._top(top, least=0))
        texts = self.tokenizer.token_texts
        rows = zip(texts(tokens), *(column.tolist() for column in scores), strict=True)
        return [
            TokenScore(token, log_prob, list(zip(texts(best), best_log_probs, strict=True)))
            for token, log_prob, best, best_log_probs in rows
        ]

    def _scores(self, text: str, given: str, top: int) -> tuple[list[int], Scores]:
        """The tokens that belong to `text` after `given`, and their scores."""
        tokens = self.tokenizer.encode(given + text)
        (scores,) = score_documents(self.model, [[self.tokenizer.bos_id, *tokens]], top=top)
        inside = given_tokens(self.tokenizer, given, tokens)
        return tokens[inside:], Scores(*(column[inside:] for column in scores))

    def evaluate(self, texts: str | Iterable[str], stride: int | None = None) -> Evaluation:
        """How well the model predicts these documents. Every token is scored once, in windows of the context's length.

        `stride`: tokens from one window to the next, half the context by default; a smaller one is slower and gives
        each token more context. Raises ModelError for a stride out of range, and where there is no text.
        """
        return self.evaluated(map(self.evaluate_piece, self.text_pieces(texts, stride)))

    def text_pieces(self, texts: str | Iterable[str], stride: int | None = None) -> Iterator[TextPiece]:
        """The texts in pieces that can be evaluated apart; a long text is in several."""
        sizes = [0]

        def cut() -> Iterator[Section]:
            for text in [texts] if isinstance(texts, str) else texts:
                (tokens,) = self.tokenizer.encode_batch([text])
                sizes.append(len(text.encode()))
                document = np.concatenate(([self.tokenizer.bos_id], tokens))
                yield from sections(document, self.model.config.context, stride, most=_TOKENS_OF_A_SECTION)

        for group in grouped(cut()):
            yield TextPiece(sum(sizes), sections=tuple(group))
            sizes.clear()

    def evaluate_piece(self, piece: TextPiece) -> Sums:
        """The log-probability of each section of a piece."""
        nats = [scores.log_probs.double().sum().item() for scores in score_sections(self.model, piece.sections)]
        tokens = sum(section.scored for section in piece.sections)
        return Sums(tokens, tokens, piece.bytes, nats)

    def evaluated(self, found: Iterable[Any]) -> Evaluation:
        """The evaluation of all pieces, of which `found` has the sums, in order; errors as in `evaluate`."""
        sums = added_up(found)
        if not sums.tokens:
            raise ModelError("evaluate: wanted text, got none (or empty ones only)")
        return Evaluation(sums.tokens, sums.bytes, -sums.nats[0] / sums.tokens)

    def log_probs(self, texts: Sequence[str], given: str = "") -> list[tuple[float, int]]:
        """log p(text | given) of each text in nats, as `log_prob` has it, and of how many tokens."""
        encoded = [self.tokenizer.encode(given + text) for text in texts]
        documents = [[self.tokenizer.bos_id, *tokens] for tokens in encoded]
        found = []
        for tokens, scores in zip(encoded, score_documents(self.model, documents), strict=True):
            log_probs = scores.log_probs[given_tokens(self.tokenizer, given, tokens) :]
            found.append((log_probs.double().sum().item(), len(log_probs)))
        return found

    def next_token(self, text: str, top: int = 5) -> list[tuple[str, float]]:
        """The most probable tokens after `text` with their probabilities, softmax(u_{T+1}).

        Raises ModelError for a text longer than the context.
        """
        with torch.inference_mode():
            logits = self.model.logits(self.features(text)[-1]).float()  # (V,)
            best = logits.softmax(-1).topk(self._top(top, least=1))
        return list(zip(self.tokenizer.token_texts(best.indices.tolist()), best.values.tolist(), strict=True))

    @torch.no_grad()
    def features(self, text: str) -> Tensor:
        """Final hidden states, φ_θ (T + 1, D), at BOS and each of the text's T tokens; the last row is c_{T+1}.

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
        """A continuation of `prompt`. See `Sampling` for how tokens are chosen, `completions` for where it ends."""
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
        """The text that `generate` returns, a few whole characters at a time, as soon as they are final."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        made = self.stream_completions([prompt], sampling, max_tokens=max_tokens, stop=stop, seed=seed)
        return (new.text for new in made if new.text)

    def completions(
        self,
        prompts: Sequence[PromptLike],
        sampling: Sampling | None = None,
        *,
        samples: int = 1,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> list[Completion]:
        """`samples` continuations of each prompt, one prompt's after the other's; an empty prompt is BOS alone.

        A prompt is text, or tokens that are used as they are, such as `chat.tokens(messages)`.

        Each ends with a stop token, before a stop string, after `max_tokens`, or where the context is full. Sample s of
        a prompt depends on (seed, s) and that prompt alone: in float32 it is the same in any batch.
        """
        every = self.stream_completions(prompts, sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        made = {new.sequence: new.completion for new in every}
        return [made[sequence] for sequence in sorted(made)]

    def stream_completions(
        self,
        prompts: Sequence[PromptLike],
        sampling: Sampling | None = None,
        *,
        samples: int = 1,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[NewText]:
        """Each new token's text, as it is generated: sequence p * samples + s is sample s of prompt p."""
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
        """This model's chat template; ModelError for a model without one."""
        return Chat.of(self.tokenizer)

    def save(self, directory: str | Path) -> None:
        """Write the model as a Hugging Face directory, which `load` and transformers read. ModelError for a quantised
        one."""
        refuse_quantised(self.model, "save")
        directory = Path(directory)
        self.tokenizer.save(directory)
        save_model(self.model, self.family, directory, self.tokenizer.bos_id, self.stop_tokens, self.generation)

    def _tokens(self, text: str) -> list[int]:
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def _top(self, top: int, least: int) -> int:
        if top < least:
            raise ModelError(f"top: wanted at least {least}, got {top}")
        return min(top, self.model.config.vocabulary_size)


# Both have model, tokenizer, family, stop_tokens, device, score, evaluate, features and save.
Pretrained = LanguageModel | MaskedLanguageModel


def load(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    bos: str | None = None,
    quantize: Quantize = "none",
) -> Pretrained:
    """The language model of a directory (a run, or any Hugging Face directory of a known family), of a GGUF file, or
    of a name on the Hub, "owner/name", "owner/name@revision" or "owner/name:file.gguf". BERT's is a masked one. An
    adapter (PEFT's files) is merged into its base.

    `bos`: the token that begins a document; by default what `chainrule.tokens.bos` finds. `quantize`: "int8" or "int4"
    keep the matrices in so many bits, a GGUF's own blocks without loss where it has such; "auto" keeps on a CPU what
    the file has (bfloat16, float16, blocks of 8 and 4 bits) and computes the same values from it as from float32. Such
    a model is used, or trained with LoRA beside it. An adapter that was trained beside a quantised base is used beside
    it with "auto" or the same `quantize`, and merged with others.

    Raises ModelError for a path or a name without a model, and for a `bos` that is no token of it, OptionError for a
    `quantize` that the layers' widths do not allow.
    """
    directory, where = model_directory(path), machine.device(device)
    precision = machine.dtype(dtype, where)
    if is_adapter(directory):
        model, family, base = load_adapted(directory, read_adapter(directory), where, precision, quantize)
        if quantize in ("int8", "int4") and not is_quantised(model):
            quantise_model(model, quantize)
        tokenizer = load_tokenizer(directory if (directory / "tokenizer.json").is_file() else base, bos)
        own = directory if (directory / "generation_config.json").is_file() else base
        return make_language_model(model, tokenizer, family, stop_tokens_of(own), generation_fields(own))
    model, family = load_quantised(directory, where, precision, quantize)
    tokenizer = load_tokenizer(directory, bos)
    lm = make_language_model(model, tokenizer, family, stop_tokens_of(directory), generation_fields(directory))
    lm.path, lm.quantize = str(path), quantize
    return lm


def make_language_model(
    model: Transformer,
    tokenizer: Tokenizer,
    family: str,
    stop_tokens: Sequence[int] | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> Pretrained:
    """A causal or a masked language model, as the Transformer is."""
    if model.config.causal:
        return LanguageModel(model, tokenizer, family, stop_tokens, generation)
    return MaskedLanguageModel(model, tokenizer, family)


def require_causal(lm: Pretrained, purpose: str, instead: str) -> LanguageModel:
    """`lm` if it is causal. Raises ModelError for a masked one, which names what wanted it and what to do `instead`."""
    if isinstance(lm, LanguageModel):
        return lm
    raise ModelError(
        f"{purpose}: wanted a causal language model, got a masked one ({lm.family}), in which every token sees those"
        f" after it: it fills blanks and cannot go on from a text; {instead}"
    )


def generation_fields(directory: Path) -> dict[str, Any]:
    """The fields of a directory's generation_config.json, or of a GGUF file; none where there is no such file."""
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
    """The eos ids of generation_config.json, else of config.json; None where neither has any."""
    for name, read in (("generation_config.json", generation_fields), ("config.json", read_config)):
        ids = read(directory).get("eos_token_id")
        if ids is None:
            continue
        tokens = tuple(ids) if isinstance(ids, list) else (ids,)
        if not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
            raise ModelError(f"{directory / name}: wanted eos_token_id to be a token's number or several, got {ids!r}")
        return tokens
    return None
