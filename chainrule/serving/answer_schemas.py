"""What each endpoint answers, as JSON Schema: what `/openapi.json` says, and the tests hold the answers against."""

from collections.abc import Mapping
from typing import Any

from chainrule.serving.kinds import Schema, or_null


def _object(**properties: Schema) -> Schema:
    """An object with exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _always(value: str) -> Schema:
    return {"type": "string", "const": value}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_FINISH = or_null({"type": "string", "enum": ["stop", "length"]})
_USAGE = _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE)

# In OpenAPI 3.1 the schema of a stream is that of each event.
EVENT: Schema = {"type": "object", "properties": {"data": _TEXT}, "required": ["data"]}

ERROR = _object(error=_object(message=_TEXT, type=_TEXT, param=or_null(_TEXT), code=or_null(_TEXT)))

COMPLETION = _object(
    id=_TEXT,
    object=_always("text_completion"),
    created=_WHOLE,
    model=_TEXT,
    choices=_list(
        _object(
            index=_WHOLE,
            text=_TEXT,
            logprobs=or_null(
                _object(
                    tokens=_list(_TEXT),
                    token_logprobs=_list(or_null(_NUMBER)),
                    top_logprobs=_list(or_null({"type": "object", "additionalProperties": _NUMBER})),
                    text_offset=_list(_WHOLE),
                )
            ),
            finish_reason=_FINISH,
        )
    ),
    usage=_USAGE,
)

_SCORED: Mapping[str, Any] = {"token": _TEXT, "logprob": _NUMBER, "bytes": _list(_WHOLE)}

CHAT = _object(
    id=_TEXT,
    object=_always("chat.completion"),
    created=_WHOLE,
    model=_TEXT,
    choices=_list(
        _object(
            index=_WHOLE,
            message=_object(role=_always("assistant"), content=_TEXT, refusal={"type": "null"}),
            logprobs=or_null(
                _object(
                    content=_list(_object(**_SCORED, top_logprobs=_list(_object(**_SCORED)))),
                    refusal={"type": "null"},
                )
            ),
            finish_reason=_FINISH,
        )
    ),
    usage=_USAGE,
)

EMBEDDINGS = _object(
    object=_always("list"),
    data=_list(
        _object(
            object=_always("embedding"),
            index=_WHOLE,
            embedding={"anyOf": [_list(_NUMBER), {"type": "string", "contentEncoding": "base64"}]},
        )
    ),
    model=_TEXT,
    usage=_object(prompt_tokens=_WHOLE, total_tokens=_WHOLE),
)

_PROBABILITIES: Mapping[str, Any] = {"probs": _list(_PROBABILITY), "num_classes": _WHOLE}

CLASSIFIED = _object(
    id=_TEXT,
    object=_always("list"),
    created=_WHOLE,
    model=_TEXT,
    labels=_list(_TEXT),
    data=_list(
        {
            "anyOf": [
                _object(index=_WHOLE, label=_TEXT, **_PROBABILITIES),
                _object(index=_WHOLE, labels=_list(_TEXT), **_PROBABILITIES),  # of several at once
                _object(index=_WHOLE, value=_NUMBER),  # of a regression
                _object(index=_WHOLE, label=_TEXT),  # an answer that was generated
            ]
        }
    ),
)

TOKENIZED = _object(count=_WHOLE, max_model_len=_WHOLE, tokens=_list(_WHOLE), token_strs=or_null(_list(_TEXT)))
DETOKENIZED = _object(prompt=_TEXT)
TOKENIZER = _object(
    tokenizer_class=_TEXT,
    bos_token=_TEXT,
    eos_token=_TEXT,
    vocabulary_size=_WHOLE,
    max_model_len=_WHOLE,
    chat_template=or_null(_TEXT),
)

_CARD: Mapping[str, Any] = {"id": _TEXT, "object": _always("model"), "created": _WHOLE, "owned_by": _TEXT}
MODEL: Schema = {"anyOf": [_object(**_CARD, max_model_len=_WHOLE), _object(**_CARD, labels=_list(_TEXT))]}
MODELS = _object(object=_always("list"), data=_list(MODEL))
HEALTH = _object(status={"type": "string", "enum": ["ok", "dead"]}, dead=_list(_TEXT))
