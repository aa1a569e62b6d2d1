"""The page at `/` and what its views ask for: the logits of one position, a text's log-probabilities. Knows served
models by their names, and not how anything is drawn.

All that the page shows comes from here: files of the package at `/` and `/static/`, JSON under `/page/`. The
content security policy forbids everything else.
"""

import base64
import math
from collections.abc import Callable, Generator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chainrule.drawing.charts import STYLE
from chainrule.errors import ChainruleError
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.quantised import count_weights
from chainrule.scoring.documents import TokenScore, given_tokens
from chainrule.serving.endpoints import Endpoint, Get, Post
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Form, Ids, Text
from chainrule.serving.page_runs import run_endpoints
from chainrule.serving.page_tasks import task_endpoints
from chainrule.serving.page_tokens import shown_tokens
from chainrule.serving.served import Served, ServedMasked, ServedModel
from chainrule.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

BEST = 100  # tokens of the next position whose texts are sent
ALTERNATIVES = 10  # shown beside each token of a text
LONGEST_TEXT = 20_000  # characters that are scored at once: each token is drawn
_NEXT = Form({"model": Text(), "prompt": Text(), "tokens": Ids(least=0)})
_SCORE = Form({"model": Text(), "text": Text(), "given": Text()}, required=("text",))

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def endpoints(served: Served, link: Callable[[str], str]) -> list[Endpoint]:
    """What the page asks, under `/page/`. `link`: from a path to a link that wants no header."""

    async def about(request: Request) -> Response:
        every = [*map(_described, served.models.values()), *map(_described, served.masked.values())]
        found = {"models": every, "classifiers": list(served.classifiers), "tasks": sorted(served.tasks)}
        return JSONResponse({**found, "runs": served.runs is not None})

    async def next_word(fields: Fields) -> Any:
        model = served.pretrained(fields.text("model"))
        prompt, appended = fields.text("prompt", ""), fields.whole_numbers("tokens")
        if isinstance(model, ServedMasked):
            return await model.run(lambda: next_blank(model.lm, prompt, appended))
        return await model.run(lambda: next_token(model, prompt, appended))

    async def score(fields: Fields) -> Any:
        model = served.model(fields.text("model"))
        return await scored_text(model, fields.required_text("text"), fields.text("given", ""))

    return [
        Get("/page/about", "What is served, for the page", about),
        Post("/page/next", "All logits of the next position", next_word, _NEXT),
        Post("/page/score", "The log-probabilities of a text's tokens", score, _SCORE),
        *task_endpoints(served),
        *run_endpoints(served.runs, link),
    ]


def file_routes() -> list[Route]:
    """index.html at `/`, the others at /static/NAME. The style begins with that of compare's reports."""

    def route(name: str, content: bytes) -> Route:
        async def file(request: Request) -> Response:
            return Response(content, media_type=_TYPES[Path(name).suffix], headers=HEADERS)

        return Route("/" if name == "index.html" else f"/static/{name}", file)

    folder, drawing = files("chainrule.serving") / "page", files("chainrule.drawing")
    found = {each.name: each.read_bytes() for each in folder.iterdir() if Path(each.name).suffix in _TYPES}
    found["style.css"] = STYLE.encode() + drawing.joinpath("page.css").read_bytes() + found["style.css"]
    return [route(name, content) for name, content in found.items()]


def _described(model: ServedModel | ServedMasked) -> dict[str, Any]:
    """`mask`: how a masked model's mask is spelled; null for others."""
    config, masked = model.lm.model.config, isinstance(model, ServedMasked)
    return {
        "name": model.name,
        "mask": model.lm.tokenizer.named["mask_token"] if masked else None,
        "family": model.lm.family,
        "chat": model.lm.tokenizer.chat_template is not None and not masked,
        "parameters": count_weights(model.lm.model),
        "context": config.context,
        "vocabulary_size": config.vocabulary_size,
    }


def next_token(model: ServedModel, prompt: str, appended: Sequence[int]) -> Generator[None, None, dict[str, Any]]:
    """All logits u of the position after the prompt and the tokens appended to it, so that the page can reshape p
    without another request: base64 of V little-endian float32. `best`: the BEST greatest, of equal ones the lower id
    first. A long prompt gives way to other requests between its parts; what was computed before is not computed again.

    Raises ChainruleError for tokens out of range, and for more tokens than the context has.
    """
    lm, config = model.lm, model.lm.model.config
    _check_known(appended, config.vocabulary_size)
    prompt_tokens = lm.tokenizer.encode(prompt)
    tokens = [lm.tokenizer.bos_id, *prompt_tokens, *appended]
    if len(tokens) > config.context:
        raise ChainruleError(
            f"prompt: wanted at most {config.context} tokens (the context; ⊥ is one), got {len(tokens)}; shorten it"
        )
    logits = yield from last_logits(model, tokens)
    return {
        "tokens": shown_tokens(lm.tokenizer, tokens),
        "prompt_tokens": 1 + len(prompt_tokens),
        **_position(lm.tokenizer, logits),
        "stop_tokens": list(lm.stop_tokens),
    }


def next_blank(lm: MaskedLanguageModel, text: str, filled: Sequence[int]) -> dict[str, Any]:
    """As `next_token`, for the first mask of a text that is left when the ones before it are `filled`; `position`: its
    place among the tokens, which other positions see.

    Raises ChainruleError for tokens out of range, more than there are masks, a text without a mask, and one that is
    longer than the context.
    """
    import torch

    tokenizer, config, mask = lm.tokenizer, lm.model.config, lm.tokenizer.mask
    assert mask is not None, "a masked model's tokenizer has a mask"
    _check_known(filled, config.vocabulary_size)
    tokens = [tokenizer.bos_id, *tokenizer.encode_blanks(text), *tokenizer.closing]
    if len(tokens) > config.context:
        raise ChainruleError(
            f"prompt: wanted at most {config.context} tokens (the context), got {len(tokens)}; shorten it"
        )
    blanks, spelled = [place for place, token in enumerate(tokens) if token == mask.id], tokenizer.named["mask_token"]
    if len(blanks) <= len(filled):
        left = "all of them are filled: go back, or write another" if blanks else "write one where a token is wanted"
        raise ChainruleError(f"prompt: wanted a {spelled} to fill; {left}")
    for place, token in zip(blanks, filled, strict=False):
        tokens[place] = token
    with torch.inference_mode():
        features = lm.model.features(torch.tensor([tokens], device=lm.device))[0, blanks[len(filled)]]
        logits = lm.model.logits(features).float()
    return {
        "tokens": shown_tokens(tokenizer, tokens),
        "prompt_tokens": len(tokens),
        "position": blanks[len(filled)],
        **_position(tokenizer, logits),
        "stop_tokens": [],
    }


def _check_known(tokens: Sequence[int], vocabulary_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocabulary_size:
            raise ChainruleError(f"tokens: wanted ids from 0 to {vocabulary_size - 1}, got {token}; correct it")


def _position(tokenizer: Tokenizer, logits: "Tensor") -> dict[str, Any]:
    """All logits (V,) of a position, and the best tokens."""
    import numpy as np

    values = logits.cpu().numpy()
    best = np.argsort(-values, kind="stable")[:BEST].tolist()
    return {
        "logits": base64.b64encode(values.astype("<f4").tobytes()).decode(),
        "best": shown_tokens(tokenizer, best),
    }


def last_logits(model: ServedModel, tokens: Sequence[int]) -> Generator[None, None, "Tensor"]:
    """u (V,) after the last token, computed in parts of at most `at_once` tokens."""
    import torch

    from chainrule.model.prefixes import read_all

    beginnings = [tokens[:end] for end in range(model.at_once, len(tokens), model.at_once)]
    sequences = [*beginnings, tokens]
    known = None if model.thread.engine is None else model.thread.engine.known
    parts = read_all(
        model.lm.model,
        sequences,
        model.at_once,
        [len(each) - 1 for each in sequences],
        known,
        [len(tokens)] * len(sequences),
    )
    while True:
        with torch.inference_mode():  # not over a yield, as other functions run there
            part = next(parts)
            if len(beginnings) in part.sequences:
                columns = part.columns[part.sequences.index(len(beginnings))]
                return model.lm.model.logits(part.features[columns[-1]]).float()
        yield


async def scored_text(model: ServedModel, text: str, given: str) -> dict[str, Any]:
    """log p of each token of `text` after `given`, with the most probable tokens there; the sum, bits per byte.

    Raises ChainruleError for no text, and for more than LONGEST_TEXT characters.
    """
    if not text:
        raise ChainruleError("text: wanted some text, got none; write some")
    if len(given) + len(text) > LONGEST_TEXT:
        raise ChainruleError(
            f"text: wanted at most {LONGEST_TEXT:,} characters, got {len(given) + len(text):,}; shorten it, or use"
            " chainrule evaluate"
        )
    scores = await _token_scores(model, text, given)
    total, size = math.fsum(score.log_prob for score in scores), len(text.encode())
    return {
        "tokens": [score._asdict() for score in scores],
        "log_prob": total,
        "bytes": size,
        "bits_per_byte": -total / size / math.log(2),
    }


async def _token_scores(model: ServedModel, text: str, given: str) -> list[TokenScore]:
    """As `LanguageModel.score`; a text that fits into the context gives way to other requests on the way."""
    lm = model.lm
    tokens = lm.tokenizer.encode(given + text)
    if len(tokens) >= lm.model.config.context:
        return await model.run(lambda: lm.score(text, given=given, top=ALTERNATIVES))
    top = min(ALTERNATIVES, lm.model.config.vocabulary_size)
    (found,) = await model.score([[lm.tokenizer.bos_id, *tokens]], top)
    first, texts = given_tokens(lm.tokenizer, given, tokens), lm.tokenizer.token_texts
    return [
        TokenScore(word, log_prob, list(zip(texts([id for id, _ in best]), [each for _, each in best], strict=True)))
        for word, log_prob, best in zip(texts(tokens[first:]), found.log_probs[first:], found.best[first:], strict=True)
    ]
