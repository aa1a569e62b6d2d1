"""Files that are not what their directory says they are end in one line that names what was wanted and what came."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertForPreTraining, LlamaConfig

from chainrule.model.formats.checkpoint import load_model, save_model
from chainrule.model.formats.tensors import Tensors

CPU = torch.device("cpu")
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A small Llama in several shards, as transformers writes it."""
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(shards(tmp_path)) > 2
    return tmp_path


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("model-*.safetensors"))


def holding(directory: Path, name: str) -> Path:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    return directory / index["weight_map"][name]


def change(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Write a file anew with its tensors edited; what is mapped of the old one stays what it was."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    path.unlink()
    save_file(tensors, path)


def refused(directory: Path) -> str:
    with pytest.raises(ValueError) as error:
        load_model(directory, CPU)
    assert "\n" not in str(error.value)
    return str(error.value)


@torch.no_grad()
def test_shards_are_one_model(sharded: Path) -> None:
    tokens = torch.randint(0, 61, (2, 9))
    model, _ = load_model(sharded, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(sharded)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    sizes = map(math.prod, Tensors(sharded).shapes.values())
    assert sum(sizes) == sum(parameter.numel() for parameter in model.parameters())


def test_a_shard_that_is_missing_is_named_with_a_tensor_of_it(sharded: Path) -> None:
    path = holding(sharded, NORM)
    path.unlink()
    assert refused(sharded).startswith(f"{path}: wanted this shard, which holds ")


def test_a_shard_that_is_cut_short_is_named(sharded: Path) -> None:
    path = shards(sharded)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert refused(sharded).startswith(f"{path}: wanted a whole safetensors file, got one that is cut short")


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    path = holding(sharded, NORM)
    change(path, lambda tensors: tensors.pop(NORM))
    assert refused(sharded) == f"{path}: wanted the tensor {NORM}, which the index says is here; the file lacks it"


def test_a_tensor_that_nobody_asked_for_is_named(sharded: Path) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    change(shards(sharded)[0], lambda tensors: tensors.update({name: torch.ones(2)}))
    assert f"wanted the tensors of a llama model, got also {name} (1 left over)" in refused(sharded)


def test_a_tensor_of_another_shape_is_named_with_both(sharded: Path) -> None:
    change(holding(sharded, EMBEDDING), lambda tensors: tensors.update({EMBEDDING: torch.ones(60, 32)}))
    assert refused(sharded) == f"{sharded}: wanted {EMBEDDING} of shape [61, 32], got [60, 32]"


def test_quantized_weights_are_refused(sharded: Path) -> None:
    integers = torch.ones(61, 32, dtype=torch.int8)
    change(holding(sharded, EMBEDDING), lambda tensors: tensors.update({EMBEDDING: integers}))
    assert f"wanted {EMBEDDING} in float32, bfloat16 or float16, got I8" in refused(sharded)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{}"])
def test_an_index_that_is_none_is_refused(sharded: Path, index: str) -> None:
    path = sharded / "model.safetensors.index.json"
    path.write_text(index)
    assert refused(sharded) == f"{path}: wanted a JSON object with a weight_map of tensors to files, got another"


def test_an_index_never_leads_out_of_its_directory(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "model.safetensors"
    shutil.copy(shards(sharded)[0], elsewhere)
    index = {"weight_map": {EMBEDDING: f"../{elsewhere.parent.name}/{elsewhere.name}"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{sharded / elsewhere.name}: wanted this shard" in refused(sharded)


def test_a_pickle_alone_is_refused_with_the_way_to_convert_it(sharded: Path) -> None:
    for path in [*shards(sharded), sharded / "model.safetensors.index.json"]:
        path.unlink()
    assert refused(sharded) == f"{sharded}: wanted model.safetensors or its shards' index, found none"
    (sharded / "pytorch_model.bin").write_bytes(b"never read")
    assert refused(sharded).endswith(
        "found none, only a pickle, which is never read: where you trust it, convert it with transformers'"
        " AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
    )


def test_an_output_that_is_not_the_embedding_it_should_be_tied_to_is_refused(tmp_path: Path) -> None:
    save_model(random_model("gpt2"), "gpt2", tmp_path, bos_id=0)
    path = tmp_path / "model.safetensors"
    embedding = load_file(path)["transformer.wte.weight"]
    change(path, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    model, _ = load_model(tmp_path, CPU)
    assert model.output is None
    change(path, lambda tensors: tensors.update({"lm_head.weight": embedding + 1}))
    assert "wanted lm_head.weight to be transformer.wte.weight, as config.json ties them" in refused(tmp_path)


@torch.no_grad()
def test_what_a_bare_model_saved_is_read_too(tmp_path: Path) -> None:
    save_model(random_model("gpt2"), "gpt2", tmp_path, bos_id=0)
    tokens = torch.arange(20)[None]
    wanted = load_model(tmp_path, CPU)[0](tokens)

    def strip(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 3, 3)  # a buffer of old files

    change(tmp_path / "model.safetensors", strip)
    assert torch.equal(load_model(tmp_path, CPU)[0](tokens), wanted)


@torch.no_grad()
def test_berts_first_files_are_read_with_their_old_names_and_what_else_they_hold(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    peer = BertForPreTraining(config).eval()  # with a pooler and the head of the next sentence
    peer.save_pretrained(tmp_path)
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def age(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, old in renamed.items():
                if name.endswith(new):
                    tensors[name.replace(new, old)] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()

    change(tmp_path / "model.safetensors", age)
    tokens = torch.randint(0, 61, (2, 9))
    torch.testing.assert_close(load_model(tmp_path, CPU)[0](tokens), peer(tokens).prediction_logits, atol=1e-5, rtol=0)


def test_weights_that_need_no_change_stay_in_their_file(tmp_path: Path) -> None:
    save_model(random_model("llama"), "llama", tmp_path, bos_id=0)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc/self/maps")
    model, _ = load_model(tmp_path, CPU)

    lines = [line for line in maps.read_text().splitlines() if str(tmp_path) in line]
    assert len(lines) == 1  # the mappings that the fused matrices were copied through are gone
    start, end = (int(side, 16) for side in lines[0].split()[0].split("-"))
    there = {name for name, parameter in model.named_parameters() if start <= parameter.data_ptr() < end}
    # The file has k, o, q, v in the order of the alphabet; gate and up lie one after the other, as ours do.
    fused = {f"blocks.{layer}.attention.query_key_value.weight" for layer in range(2)}
    assert there == {name for name, _ in model.named_parameters()} - fused


def test_a_file_whose_tensors_lie_at_odd_bytes_is_read(tmp_path: Path) -> None:
    save_model(random_model("llama"), "llama", tmp_path, bos_id=0)
    wanted = dict(load_model(tmp_path, CPU)[0].named_parameters())
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    path.unlink()
    path.write_bytes((length + 1).to_bytes(8, "little") + whole[8 : 8 + length] + b" " + whole[8 + length :])
    for name, parameter in load_model(tmp_path, CPU)[0].named_parameters():
        assert torch.equal(parameter, wanted[name]), name


@pytest.mark.parametrize(
    ("prefix", "cure"),
    [
        ("base_model.model.", "they were saved from a PEFT model: save what its merge_and_unload() gives"),
        ("_orig_mod.", "they were saved from a compiled model: save its _orig_mod"),
        ("module.", "they were saved from a DataParallel model: save its module"),
        ("net.", "rename the tensors, so that they begin without it"),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_prefix_of_others_is_told_with_a_tensor_that_has_it(
    sharded: Path, prefix: str, cure: str, bare: bool
) -> None:
    def wrap(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[prefix + (name.removeprefix("model.") if bare else name)] = tensors.pop(name)

    AutoModelForCausalLM.from_pretrained(sharded).save_pretrained(sharded)
    for path in [*shards(sharded), sharded / "model.safetensors.index.json"]:
        path.unlink(missing_ok=True)
    change(sharded / "model.safetensors", wrap)
    message = refused(sharded)
    found = prefix + (EMBEDDING.removeprefix("model.") if bare else EMBEDDING)
    assert f"wanted the tensor {EMBEDDING}, got {found}: all names begin with {prefix};" in message
    assert cure in message


def test_a_tensor_that_is_missing_is_told_with_the_nearest_that_is_there(tmp_path: Path) -> None:
    save_model(random_model("llama"), "llama", tmp_path, bos_id=0)
    change(tmp_path / "model.safetensors", lambda tensors: tensors.update({"model.norms.weight": tensors.pop(NORM)}))
    assert f"wanted the tensor {NORM}, which the files lack; the nearest name is model.norms.weight" in (
        refused(tmp_path)
    )


@pytest.mark.parametrize("bare", [False, True])
@torch.no_grad()
def test_a_tied_model_that_stores_its_output_alone_is_loaded_as_transformers_loads_it(
    bare: bool, tmp_path: Path
) -> None:
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    peer = AutoModelForCausalLM.from_config(config).eval()
    peer.save_pretrained(tmp_path)

    def move(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop(EMBEDDING)
        for name in list(tensors) if bare else ():
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change(tmp_path / "model.safetensors", move)
    tokens = torch.arange(20)[None]
    model, _ = load_model(tmp_path, CPU)
    assert model.output is None
    torch.testing.assert_close(model(tokens), peer(tokens).logits, atol=1e-5, rtol=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert bare or torch.equal(theirs(tokens).logits, peer(tokens).logits)
