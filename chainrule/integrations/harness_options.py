"""How the harness asks for an answer, as our `Sampling`: its task's generation_kwargs, and generation_config.json for
what these leave open, as its `hf` model obeys them. What we cannot do is refused by name, never ignored."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from chainrule.errors import OptionError
from chainrule.generation.sampling import Sampling

MOST_TOKENS = 256  # of a generated answer, where its task names no number
# What transformers' generate takes where neither file names a value.
_DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Options of transformers' generate that we lack, at the value at which they change no text; None does so too.
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
# Those that change no text at any value: they are for beams, for an encoder, or for how it is computed and returned.
_WITHOUT_EFFECT = {
    *("early_stopping", "length_penalty", "renormalize_logits"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "decoder_start_token_id"),
    *("use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "max_cache_len"),
    *("prefill_chunk_size", "compile_config", "disable_compile", "low_memory"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
# What a generation_config.json has beside: the tokens are told elsewhere, and the task decides whether to sample and
# how long an answer is.
_BESIDE = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "do_sample"),
    *("transformers_version", "trust_remote_code"),
}
_INSTEAD = {
    "max_length": "name max_gen_toks, the most tokens of an answer, in its place",
    "max_new_tokens": "remove it: the task says how long an answer is",
}


class Asked(NamedTuple):
    """How an answer is generated."""

    sampling: Sampling
    until: Sequence[str]  # stop strings
    most: int  # tokens


def asked(task: Mapping[str, Any], model: Mapping[str, Any]) -> Asked:
    """What a task's generation_kwargs ask for, of a model with this generation_config.json.

    Raises OptionError, with its name, for an option that changes the text and that we cannot obey.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(_given(task), MOST_TOKENS))
    until = [stop for stop in handle_stop_sequences(options.pop("until"), eos=None) if stop]
    most, sampled = options.pop("max_gen_toks"), options.pop("do_sample")
    own = {name: value for name, value in _given(model).items() if name not in _BESIDE and not name.startswith("_")}
    _refuse(own, options, sampled)
    temperature, top_k, top_p, min_p, penalty = (
        _number(name, {**_DEFAULTS, **own, **options}[name]) for name in _DEFAULTS
    )
    if not sampled or top_p == 0:  # of the tokens that a p of 0 keeps there is one
        return Asked(Sampling(0, repetition_penalty=penalty), until, most)
    if temperature == 0:
        raise OptionError("task: wanted a temperature above 0 beside do_sample: true, got 0; leave one of them out")
    sampling = Sampling(temperature, int(top_k) or None, None if top_p == 1 else top_p, min_p or None, penalty)
    return Asked(sampling, until, most)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"task: wanted {name} to be a number, got {value!r}; correct it") from None


def _refuse(model: Mapping[str, Any], task: Mapping[str, Any], sampled: bool) -> None:
    """OptionError for an option that changes the text and is not ours; the task's options go before the model's."""
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
