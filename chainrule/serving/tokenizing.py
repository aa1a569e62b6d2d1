"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's form: what lm-evaluation-harness asks."""

import asyncio
from typing import Any

from chainrule.serving.answers import token_text
from chainrule.serving.completions import known_tokens
from chainrule.serving.fields import Fields
from chainrule.serving.kinds import Flag, Form, Ids, Text
from chainrule.serving.served import Served

TOKENIZE = Form(
    {"model": Text(), "prompt": Text(), "add_special_tokens": Flag(), "return_token_strs": Flag()}, required=("prompt",)
)
DETOKENIZE = Form({"model": Text(), "tokens": Ids(least=0)}, required=("tokens",))


async def tokenize(served: Served, fields: Fields) -> dict[str, Any]:
    """A text's tokens, with BOS in front unless `add_special_tokens` is false. The spelling of a special token alone is
    that token: it is how clients learn its number."""
    lm = served.model(fields.text("model")).lm
    tokenizer, text = lm.tokenizer, fields.required_text("prompt")
    if text in tokenizer.control:
        tokens = [tokenizer.control[text].id]
    elif text == tokenizer.bos:
        tokens = [tokenizer.bos_id]
    else:
        tokens = await asyncio.to_thread(tokenizer.encode, text)
        if fields.flag("add_special_tokens", True):
            tokens = [tokenizer.bos_id, *tokens]
    spelled = [token_text(tokenizer, token) for token in tokens] if fields.flag("return_token_strs") else None
    return {"count": len(tokens), "max_model_len": lm.model.config.context, "tokens": tokens, "token_strs": spelled}


async def detokenize(served: Served, fields: Fields) -> dict[str, Any]:
    """The text of tokens, without special ones."""
    lm = served.model(fields.text("model")).lm
    tokens = fields.whole_numbers("tokens")
    if not tokens:
        return {"prompt": ""}
    return {"prompt": lm.tokenizer.decode(known_tokens(tokens, lm.model.config.vocabulary_size, fields, "tokens"))}


def tokenizer_info(served: Served, name: str | None) -> dict[str, Any]:
    """The special tokens and the chat template of a model."""
    lm = served.model(name).lm
    tokenizer = lm.tokenizer
    ends = next(iter(lm.stop_tokens), tokenizer.bos_id)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos,
        "eos_token": tokenizer.named.get("eos_token", token_text(tokenizer, ends)),
        "vocabulary_size": tokenizer.vocabulary_size,
        "max_model_len": lm.model.config.context,
        "chat_template": tokenizer.chat_template,
    }
