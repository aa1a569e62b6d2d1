"""Refuses a file whose tensors are not those of the model: named with another prefix, or left over."""

import torch

from chainrule.errors import ModelError
from chainrule.model.config import Config
from chainrule.model.formats.families import FAMILIES
from chainrule.model.formats.gguf_tensors import GGUFTensors
from chainrule.model.formats.tensors import Tensors

# The prefixes that wrappers add to every name, and how to save without them.
_WRAPPED = {
    "base_model.model.": "they were saved from a PEFT model: save what its merge_and_unload() gives",
    "_orig_mod.": "they were saved from a compiled model: save its _orig_mod",
    "module.": "they were saved from a DataParallel model: save its module",
}


def refuse_foreign_prefix(tensors: Tensors | GGUFTensors, embedding: str, prefix: str) -> None:
    """ModelError where the embedding is there, with a prefix that is not the family's."""
    bare = embedding.removeprefix(prefix)
    spelled = (prefix + bare, bare)
    known = [start for start in _WRAPPED if any(start + name in tensors.stored for name in spelled)]
    ends = [found.removesuffix(name) for name in spelled for found in tensors.stored if found.endswith(f".{name}")]
    for foreign in (*known, *ends):
        found = next(foreign + name for name in spelled if foreign + name in tensors.stored)
        raise ModelError(
            f"{tensors.directory}: wanted the tensor {prefix}{bare}, got {found}: all names begin with {foreign};"
            f" {_WRAPPED.get(foreign, 'rename the tensors')}, so that they begin without it"
        )


def check_left(tensors: Tensors | GGUFTensors, left: set[str], config: Config, family: str) -> None:
    """ModelError for a tensor that the model lacks, and for an output that is not the embedding but should be.

    `left`: the names of the tensors that no parameter took; a tied output is removed from them.
    """
    directory = tensors.directory
    names = FAMILIES[family].modules
    output, embedding = (f"{names[ours][0]}.weight" for ours in ("output", "embedding"))
    if config.tied and output in left and embedding in tensors.stored:
        left.remove(output)
        if not torch.equal(tensors.to_copy(output), tensors.to_copy(embedding)):
            raise ModelError(
                f"{directory}: wanted {output} to be {embedding}, as config.json ties them, got two matrices;"
                " set tie_word_embeddings to false in config.json"
            )
    extra = sorted(name for name in left if not name.endswith(FAMILIES[family].ignored))
    if extra:
        raise ModelError(
            f"{directory}: wanted the tensors of a {family} model, got also {extra[0]} ({len(extra)} left over)"
        )
