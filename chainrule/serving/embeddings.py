"""`/v1/embeddings`: the final hidden states of texts, φ at the last token or their mean. Knows OpenAI's form of it."""

import asyncio
import base64
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.model.padding import by_length, padded
from chainrule.model.transformer import Transformer
from chainrule.serving.completions import tokens_in, too_long
from chainrule.serving.requests import Fields
from chainrule.serving.served import Served

KNOWN = ("model", "input", "encoding_format", "dimensions", "user", "pooling")
_MOST = 2048  # texts in a request


async def embeddings(served: Served, fields: Fields) -> dict[str, Any]:
    """A vector for each input."""
    model = served.model(fields.text("model"))
    config, tokenizer = model.lm.model.config, model.lm.tokenizer
    fields.only("dimensions", config.width, why=f"this model's vectors have {config.width} numbers")
    fields.text("user")
    as_base64 = fields.choice("encoding_format", ("float", "base64"), "float") == "base64"
    mean = fields.choice("pooling", ("last", "mean"), "last") == "mean"
    given = fields.raw("input")
    if isinstance(given, str) or (isinstance(given, list) and given and all(type(each) is int for each in given)):
        given = [given]
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST:
        raise fields.error("input", f"a text, tokens, or a list of 1 to {_MOST} of them")
    documents = await asyncio.to_thread(
        lambda: [
            [tokenizer.bos_id, *tokenizer.encode(each)]
            if isinstance(each, str)
            else tokens_in(config.vocabulary_size, each, fields, "input")
            for each in given
        ]
    )
    longest = max(map(len, documents))
    if longest > config.context:
        raise too_long(config.context, longest, "input")
    found = await model.run(partial(_embed, model.lm.model, documents, mean, tokenizer.bos_id, model.at_once))
    tokens = sum(map(len, documents))
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(row) if as_base64 else row.tolist()}
            for index, row in enumerate(found)
        ],
        "model": model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _embed(
    model: Transformer, documents: Sequence[Sequence[int]], mean: bool, bos_id: int, at_once: int
) -> Generator[None, None, NDArray[np.float32]]:
    """(N, D): φ at the last token of each document, or the mean over its tokens but BOS in front."""
    texts = [np.array(document, np.int64) for document in documents]
    found = np.empty((len(texts), model.config.width), np.float32)
    for rows in by_length([len(text) for text in texts], at_once):
        with torch.inference_mode():
            tokens, last = padded([texts[row] for row in rows], model.device)
            if not mean:
                found[rows] = model.summary(tokens, last).float().cpu().numpy()
            else:
                features = model.features(tokens).float().cpu().numpy()
                for row, one in zip(rows, features, strict=True):
                    length = len(texts[row])
                    found[row] = one[int(length > 1 and texts[row][0] == bos_id) : length].mean(0)
        yield
    return found


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
