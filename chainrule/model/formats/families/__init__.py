"""The families that are read and written: a file for those that are alike, and a row for each here. Knows no weights.

Hugging Face's names and config fields, and ours. A field's default is that of its class in `transformers`.
"""

from collections.abc import Mapping

from chainrule.errors import ModelError
from chainrule.model.formats.families.bert import BERT
from chainrule.model.formats.families.distilbert import DISTILBERT
from chainrule.model.formats.families.gemma2 import GEMMA2
from chainrule.model.formats.families.gemma3 import GEMMA3
from chainrule.model.formats.families.gpt2 import GPT2
from chainrule.model.formats.families.gpt_neo import GPT_NEO
from chainrule.model.formats.families.gpt_neox import GPT_NEOX
from chainrule.model.formats.families.granite import GRANITE
from chainrule.model.formats.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from chainrule.model.formats.families.modernbert import MODERNBERT
from chainrule.model.formats.families.nearest import described
from chainrule.model.formats.families.olmo2 import OLMO2
from chainrule.model.formats.families.opt import OPT
from chainrule.model.formats.families.phi3 import PHI3
from chainrule.model.formats.families.roberta import ROBERTA, XLM_ROBERTA
from chainrule.model.formats.families.smollm3 import SMOLLM3
from chainrule.model.formats.family import Family
from chainrule.model.formats.layer_fields import Fields

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "granite": GRANITE,
    "phi3": PHI3,
    "olmo2": OLMO2,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "opt": OPT,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
}


def family_of(fields: Fields) -> str:
    """The `model_type` of a config.json, if it is one of ours."""
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(
            f"config.json: wanted a model_type of {', '.join(FAMILIES)}, got {name!r}{described(fields, FAMILIES)}"
        )
    return name
