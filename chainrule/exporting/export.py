"""A model written for other programs: a GGUF for llama.cpp and Ollama, or a Hugging Face directory. Knows files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule.errors import ChainruleError, FolderError, ModelError, OptionError
from chainrule.exporting.modelfile import modelfile
from chainrule.finetuning.classifier import Classifier, load_classifier
from chainrule.language_model import LanguageModel, Pretrained, load
from chainrule.model.formats.adapter import load_unmerged
from chainrule.model.formats.adapter_files import is_adapter, read_adapter
from chainrule.model.formats.checkpoint import config_fields, is_classifier, read_config, weights
from chainrule.model.formats.gguf_write import Type, model_metadata, tensors_to_write
from chainrule.prompting.files import is_prompted, read_form
from chainrule.scoring.documents import score_documents
from chainrule.scoring.features import Features
from chainrule.storage.files import atomic_directory, atomic_write, nothing_left_if_refused, write_text
from chainrule.storage.gguf_writer import write_gguf
from chainrule.storage.hub import model_directory
from chainrule.tokens.gguf_metadata import tokenizer_metadata
from chainrule.tokens.tokenizer import Tokenizer

# What tokenizers disagree about: spaces, digits, scripts, signs, emoji, newlines, and what spells a special token.
SAMPLE = (
    "Hello world, it's 12345.67 o'clock!\n\nThe  naïve café: I'LL pay £3,000 (or 4½ €)…\r\n\ttabbed\n"
    " \n  x = y**2; // z\n"
    "日本語の文、한국어 텍스트, русский текст, हिन्दी में, العربية, ไทย 🚀👩‍🚀🏽 ﬁ Ⅷ e\u0301\u200b\u00a0.\n"
    "<|endoftext|><s></s><|im_start|>user\n[INST] <unk> <0x0A> ▁ end   "
)
_RANDOM = 512  # tokens whose text is tried too: of a vocabulary that knows another language than SAMPLE
_SCORED = 256  # tokens of each of the two long texts
# By how much the log-probability of a token may change, as a root mean square over the sample, relative to how much
# log-probabilities of this model differ from token to token.
TOLERANCE = {"f32": 1e-3, "bf16": 0.1, "f16": 0.02, "q8_0": 0.1, "q4_0": 1.0}


def export_gguf(model: str | Path, out: Path, kind: Type) -> dict[str, Any]:
    """Write a GGUF file and, beside it, an Ollama Modelfile; what was written, and how far it is from the model.

    The file is read back: unless its tokenizer gives the same ids for sample text, and its model nearly the same
    probabilities, nothing is written and ModelError says why. OptionError and FolderError for an `out` that is no new
    .gguf file in a folder that is there.
    """
    beside_it = out.with_suffix(".Modelfile") if out.suffix == ".gguf" else None
    if beside_it is None:
        raise OptionError(f"--out: wanted the name of a file that ends in .gguf, got {str(out)!r}; add it")
    for file in (out, beside_it):
        if file.exists() or file.is_symlink():
            raise FolderError(f"{file}: wanted a new file, got one that is there; choose another name, or remove it")
    if not out.parent.is_dir():
        raise FolderError(f"{out}: wanted a file in a folder that is there, got no folder {out.parent}; make it first")
    lm = load(model, device="cpu", dtype="float32")
    if not isinstance(lm, LanguageModel):
        raise ModelError(
            "export: wanted a model that generates text, got a masked one, which llama.cpp can't run; export --to"
            " huggingface"
        )
    lm.model.config.check_language_head()
    fields = config_fields(lm.model, lm.family, lm.tokenizer.bos_id)
    tensors = weights(lm.model, lm.family)
    metadata = model_metadata(fields, _name(model), kind)
    metadata |= tokenizer_metadata(lm.tokenizer, lm.stop_tokens, lm.model.config.vocabulary_size)
    with nothing_left_if_refused(out), atomic_write(out) as beside:
        write_gguf(beside, metadata, tensors_to_write(tensors, fields, kind))
        change = _check_same(lm, beside, kind)
        size = beside.stat().st_size
        write_text(beside_it, modelfile(lm, out.name, bool(metadata["tokenizer.ggml.add_bos_token"])))
    return {
        "file": str(out),
        "modelfile": str(beside_it),
        "type": kind,
        "bytes": size,
        "pre_tokenizer": metadata["tokenizer.ggml.pre"],
        "context": metadata[f"{metadata['general.architecture']}.context_length"],
        "change_of_log_probs": change,
    }


def export_huggingface(model: str | Path, out: Path) -> dict[str, Any]:
    """Write a Hugging Face directory, weights in the precision of the model's own file (float32 if quantised, of a
    classifier, or if an adapter was merged into them). Of a merged adapter the largest change of a logit is told."""
    if out.is_symlink() or not out.name or out.name == ".." or (out.exists() and not out.is_dir()):
        raise FolderError(f"{out}: wanted the name of a folder, got a file or a link; choose another")
    if out.exists() and any(out.iterdir()):
        raise FolderError(f"{out}: wanted a folder that is empty or not there yet, got one that holds something")
    lm = _as_stored(model)
    directory = model_directory(model)
    merged = {"largest_change_of_a_logit": _change_by_merging(directory, lm)} if is_adapter(directory) else {}
    if out.is_dir():
        out.rmdir()
    with nothing_left_if_refused(out), atomic_directory(out) as beside:
        lm.save(beside)
        if is_prompted(directory):
            read_form(directory).save(beside)
    transformer = lm.features.model if isinstance(lm, Classifier) else lm.model
    return {
        "folder": str(out),
        "family": lm.family,
        "dtype": str(transformer.embedding.weight.dtype).removeprefix("torch."),
        **merged,
    }


@torch.inference_mode()
def _change_by_merging(directory: Path, made: Pretrained | Classifier) -> float:
    """By how much a logit of `made` differs, at most, from that of the adapter beside its base, on sample text; of a
    classifier an output of its head. Rounded to 2 digits."""
    beside = load_unmerged(directory, read_adapter(directory), torch.device("cpu"))
    if isinstance(made, Classifier):
        read, pairs = made.features, made.features.pairs
        texts = [(text, text) if pairs else text for text in sample_texts(read.tokenizer)]
        one, other = (Features(model, read.tokenizer, pairs=pairs)(texts) for model in (read.model, beside))
        changes = torch.from_numpy(one - other) @ made.w.T
    else:
        most = min(_SCORED, made.model.config.context)
        ids = [[made.tokenizer.bos_id, *made.tokenizer.encode(text)][:most] for text in sample_texts(made.tokenizer)]
        sequences = [torch.tensor([each]) for each in ids]
        changes = torch.cat([(made.model(tokens) - beside(tokens)).flatten() for tokens in sequences])
    return float(f"{changes.abs().max():.2g}")


def _as_stored(model: str | Path) -> Any:
    """The model, its weights not converted; an adapter merged into its base in float32, so that no digit is lost."""
    from chainrule.language_model import generation_fields, make_language_model, stop_tokens_of
    from chainrule.model.formats.checkpoint import load_model
    from chainrule.tokens.tokenizer import load_tokenizer

    directory = model_directory(model)
    if is_adapter(directory):
        if read_adapter(directory).is_classifier:
            return load_classifier(directory, device="cpu", dtype="float32").whole()
        return load(directory, device="cpu", dtype="float32")
    if is_classifier(read_config(directory)):
        return load_classifier(directory, device="cpu", dtype="float32")
    transformer, family = load_model(directory, torch.device("cpu"))
    return make_language_model(
        transformer, load_tokenizer(directory), family, stop_tokens_of(directory), generation_fields(directory)
    )


def _name(model: str | Path) -> str:
    """How people call it: the file's or folder's name, or the one on the Hub."""
    path = Path(model)
    return path.stem if path.is_file() else path.resolve().name if path.exists() else str(model)


def sample_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """SAMPLE line by line, without characters that the tokenizer lacks, and the text of tokens drawn at random."""
    drawn = np.random.default_rng(0).integers(tokenizer.vocabulary_size, size=_RANDOM)
    for text in (*SAMPLE.splitlines(keepends=True), SAMPLE, tokenizer.decode(drawn.tolist())):
        kept = _encodable(tokenizer, text)
        if kept:
            yield kept


def _encodable(tokenizer: Tokenizer, text: str) -> str:
    try:
        tokenizer.encode(text)
    except ChainruleError:  # a vocabulary of characters lacks one
        return "".join(character for character in text if _knows(tokenizer, character))
    return text


def _knows(tokenizer: Tokenizer, character: str) -> bool:
    try:
        return bool(tokenizer.encode(character))
    except ChainruleError:
        return False


def _check_same(lm: LanguageModel, path: Path, kind: Type) -> float:
    """How far the probabilities of the file are from the model's, in units of TOLERANCE. ModelError for other ids or
    for more than the tolerance."""
    back = load(path, device="cpu", dtype="float32")
    assert isinstance(back, LanguageModel)
    texts = list(sample_texts(lm.tokenizer))
    for text in texts:
        ours, theirs = lm.tokenizer.encode(text), back.tokenizer.encode(text)
        if ours != theirs:
            raise ModelError(
                f"export: wanted a GGUF whose tokenizer gives the same ids, got others for {text[:40]!r}:"
                f" {_first_difference(ours, theirs)}; export --to huggingface"
            )
    most = min(_SCORED, back.model.config.context)
    ids = [[lm.tokenizer.bos_id, *lm.tokenizer.encode(text)][:most] for text in texts[-2:]]
    ours_, theirs_ = ([s.log_probs.double() for s in score_documents(each.model, ids)] for each in (lm, back))
    one, two = torch.cat(ours_), torch.cat(theirs_)
    change = float((one - two).square().mean().sqrt() / one.std())
    if not change <= TOLERANCE[kind]:
        raise ModelError(
            f"export: wanted log-probabilities within {TOLERANCE[kind]} of the model's for --type {kind}, got a change"
            f" of {change:.3g} (1 is how much they differ from token to token); take a type of more bits"
        )
    return change


def _first_difference(ours: list[int], theirs: list[int]) -> str:
    pairs = enumerate(zip(ours, theirs, strict=False))
    first = next((number for number, (one, two) in pairs if one != two), min(len(ours), len(theirs)))
    return f"{json.dumps(ours[first : first + 4])} became {json.dumps(theirs[first : first + 4])} at token {first}"
