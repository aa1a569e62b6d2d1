"""A harness task's options of generation as our `Sampling`: its generation_kwargs, then generation_config.json, as in
the harness's `hf` model. An option that we lack is refused by name, never ignored."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from chainrule.errors import OptionError
from chainrule.generation.sampling import Sampling

MAX_TOKENS = 256  # of a generated answer, where its task has no number
# The defaults of transformers' generate.
_DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Options of transformers' generate that we lack, at the value with which they change no text; None is another.
_OFF: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "diversity_penalty": 0.0,
    "remove_invalid_values": False,
    "token_healing": False,
}
_OFF_WHERE_SAMPLED: Mapping[str, Any] = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}
# Options that change no text at any value: for beams, for an encoder, or for how it is computed and returned.
_WITHOUT_EFFECT = {
    *("early_stopping", "length_penalty", "renormalize_logits"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "decoder_start_token_id"),
    *("use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "max_cache_len"),
    *("prefill_chunk_size", "compile_config", "disable_compile", "low_memory"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
# Other fields of a generation_config.json: its tokens are used elsewhere, and the task decides whether to sample and
# how long an answer is.
_UNUSED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "do_sample"),
    *("transformers_version", "trust_remote_code"),
}
_INSTEAD = {
    "max_length": "name max_gen_toks, the most tokens of an answer, in its place",
    "max_new_tokens": "remove it: the task says how long an answer is",
}


class AnswerOptions(NamedTuple):
    """How an answer is generated."""

    sampling: Sampling
    until: Sequence[str]  # stop strings
    max_tokens: int


def answer_options(task: Mapping[str, Any], model: Mapping[str, Any]) -> AnswerOptions:
    """The options of a task's generation_kwargs, for a model with this generation_config.json.

    Raises OptionError for an option that changes the text and that we lack.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(_given(task), MAX_TOKENS))
    until = [stop for stop in handle_stop_sequences(options.pop("until"), eos=None) if stop]
    max_tokens, sampled = options.pop("max_gen_toks"), options.pop("do_sample")
    own = {name: value for name, value in _given(model).items() if name not in _UNUSED and not name.startswith("_")}
    _refuse(own, options, sampled)
    temperature, top_k, top_p, min_p, penalty = (
        _number(name, {**_DEFAULTS, **own, **options}[name]) for name in _DEFAULTS
    )
    if not sampled or top_p == 0:  # a p of 0 keeps one token
        return AnswerOptions(Sampling(0, repetition_penalty=penalty), until, max_tokens)
    if temperature == 0:
        raise OptionError("task: wanted a temperature above 0 beside do_sample: true, got 0; leave one of them out")
    sampling = Sampling(temperature, int(top_k) or None, None if top_p == 1 else top_p, min_p or None, penalty)
    return AnswerOptions(sampling, until, max_tokens)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"task: wanted {name} to be a number, got {value!r}; correct it") from None


def _refuse(model: Mapping[str, Any], task: Mapping[str, Any], sampled: bool) -> None:
    """OptionError for an option that changes the text and that we lack; the task's options override the model's."""
    known = {*_DEFAULTS, *_WITHOUT_EFFECT, *(() if sampled else _OFF_WHERE_SAMPLED)}
    off = {**_OFF, **_OFF_WHERE_SAMPLED}
    for name, value in {**model, **task}.items():
        if name in known or (name in off and value == off[name]):
            continue
        source = "the task's generation_kwargs" if name in task else "the model's generation_config.json"
        raise OptionError(
            f"{source}: wanted none but {', '.join(_DEFAULTS)}, do_sample, until and max_gen_toks, got {name}: {value};"
            f" {_INSTEAD.get(name, 'remove it, or evaluate with the harness itself')}"
        )
