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
from chainrule.serving.completions import each_given, known_tokens, too_long
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Form, OneOf, Text, Whole, texts_or_tokens, unsupported
from chainrule.serving.served import Served, ServedModel

_MOST = 2048  # texts in a request
_AT_ONCE = 512  # tokens of a masked model's texts that are read before others have their turn
FORM = Form(
    {
        "model": Text(),
        "input": texts_or_tokens(_MOST),
        "encoding_format": OneOf(("float", "base64")),
        "dimensions": Whole(1, 2**31),  # as many as the model has
        "user": Text(),
        "pooling": OneOf(("last", "mean")),
    },
    required=("input",),
)


async def embeddings(served: Served, fields: Fields) -> dict[str, Any]:
    """A vector for each input."""
    model = served.pretrained(fields.text("model"))
    config, tokenizer = model.lm.model.config, model.lm.tokenizer
    if fields.integer("dimensions", config.width) != config.width:
        raise unsupported("dimensions", f"this model's vectors have {config.width} numbers; leave it out")
    as_base64, mean = fields.text("encoding_format") == "base64", fields.text("pooling") == "mean"
    closing = [] if config.causal else tokenizer.closing
    at_once = model.at_once if isinstance(model, ServedModel) else _AT_ONCE
    documents = await asyncio.to_thread(
        lambda: [
            [tokenizer.bos_id, *tokenizer.encode(each), *closing]
            if isinstance(each, str)
            else known_tokens(each, config.vocabulary_size, fields, "input")
            for each in each_given(fields.raw("input"))
        ]
    )
    longest = max(map(len, documents))
    if longest > config.context:
        raise too_long(config.context, longest, "input")
    special = (tokenizer.bos_id, *closing)
    found = await model.run(partial(_embed, model.lm.model, documents, mean, special, at_once))
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
    model: Transformer, documents: Sequence[Sequence[int]], mean: bool, special: Sequence[int], at_once: int
) -> Generator[None, None, NDArray[np.float32]]:
    """(N, D): φ at the last token of each document (a masked model's at the first, or what its pooler makes of it), or
    the mean over its tokens but BOS in front and the closing ones."""
    texts = [np.array(document, np.int64) for document in documents]
    found = np.empty((len(texts), model.config.width), np.float32)
    for rows in by_length([len(text) for text in texts], at_once):
        with torch.inference_mode():
            if not mean:
                found[rows] = model.summary(*padded([texts[row] for row in rows], model.device)).float().cpu().numpy()
            elif model.config.causal:
                tokens, last = padded([texts[row] for row in rows], model.device)
                every = model(tokens, output="features", last=last).float().cpu().numpy()
                for row, features in zip(rows, every, strict=True):
                    length = len(texts[row])
                    found[row] = features[int(length > 1 and texts[row][0] == special[0]) : length].mean(0)
            else:  # each alone: a masked model's tokens would attend to the padding
                for row in rows:
                    features = model.features(torch.from_numpy(texts[row])[None].to(model.device))[0]
                    own = ~np.isin(texts[row], special)
                    found[row] = features.float().cpu().numpy()[own if own.any() else slice(None)].mean(0)
        yield
    return found


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
