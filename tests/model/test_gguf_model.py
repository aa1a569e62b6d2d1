"""Weights and configurations there and back: bit for bit where the type allows it, dequantised as the package does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GGUF_FAMILIES, SHAPES, exportable_model, random_model
from safetensors.torch import load_file

from chainrule.errors import ModelError
from chainrule.model.config import LayerKind
from chainrule.model.formats.checkpoint import config_fields, load_model, save_model, weights
from chainrule.model.formats.gguf_layout import to_gguf, to_huggingface
from chainrule.model.formats.gguf_rope import frequency_factors, llama3_scaling
from chainrule.model.formats.gguf_tensors import GGUFTensors
from chainrule.model.formats.gguf_write import model_metadata, tensors_to_write
from chainrule.model.rotary import LongRope, Rope
from chainrule.model.transformer import Transformer
from chainrule.storage.gguf import read_gguf
from chainrule.storage.gguf_types import TENSOR_TYPES
from chainrule.storage.gguf_writer import TensorToWrite, write_gguf

CPU = torch.device("cpu")
BOS = 60


def written(model: Transformer, family: str, path: Path, kind: Any = "f32", more: dict[str, Any] | None = None) -> Path:
    fields, tensors = config_fields(model, family, BOS), weights(model, family)
    write_gguf(path, {**model_metadata(fields, "test", kind), **(more or {})}, tensors_to_write(tensors, fields, kind))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_to_gguf_to_safetensors_changes_no_bit(
    gguf_family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    family = gguf_family
    model = exportable_model(family).to(dtype)
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    save_model(model, family, tmp_path / "before", BOS)
    kind = "f32" if dtype is torch.float32 else "bf16"
    path = written(load_model(tmp_path / "before", CPU)[0], family, tmp_path / "model.gguf", kind)
    back, name = load_model(path, CPU)
    assert name == ("llama" if family == "mistral" else family)
    save_model(back, name, tmp_path / "after", BOS)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("before", "after"))
    assert before.keys() == after.keys()
    for theirs, tensor in before.items():
        assert after[theirs].dtype == dtype, theirs
        if family.startswith("gemma") and theirs.endswith("norm.weight"):  # a GGUF has 1 + the weight, rounded
            assert torch.allclose(after[theirs], tensor, rtol=0, atol=1e-7), theirs
        else:
            assert torch.equal(after[theirs], tensor), theirs


def test_the_configuration_comes_back(gguf_family: str, tmp_path: Path) -> None:
    family = gguf_family
    model = exportable_model(family)
    back, _ = load_model(written(model, family, tmp_path / "model.gguf"), CPU)
    if family == "mistral":  # llama.cpp has no window for it: its context is the window
        assert back.config.context == 7
        tokens = torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(0))
        assert torch.equal(back(tokens), model(tokens))
    else:
        assert back.config == model.config


def test_a_lengthened_phi_3_and_one_with_a_window_come_back(tmp_path: Path) -> None:
    slowed = LongRope((1.0, 1.1, 1.5), (1.0, 3.0, 9.0), 1.19, 32, 128)
    model = random_model("phi3", context=128, layer_kinds=(LayerKind(rope=Rope(scaling=slowed, width=6)),))
    back, _ = load_model(written(model, "phi3", tmp_path / "model.gguf"), CPU)
    assert back.config == model.config
    windowed, _ = load_model(written(random_model("phi3"), "phi3", tmp_path / "windowed.gguf"), CPU)
    assert windowed.config.context == 7  # llama.cpp has no window for it


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "smollm3",
            {},
            r"wanted no_rope_layers \[1, 1\], which is .* for smollm3, got .*\[0, 1\];",
        ),
        ("gemma2", {}, "wanted query_pre_attn_scalar 8, .* got query_pre_attn_scalar 6;"),
        ("gemma2", {"query_scale_width": 8, "logit_cap": None}, "got .* and no cap of its logits; export --to hugg"),
        (
            "phi3",
            {"head_width": 6, "layer_kinds": (LayerKind(rope=Rope()),)},
            "wanted heads of width 8, .* got heads of width 6;",
        ),
        ("granite", {"activation": "gelu"}, "wanted hidden_act 'silu', .* got 'gelu'"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_not_written(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        written(random_model(family, **changes), family, tmp_path / "model.gguf")


@pytest.mark.parametrize("other", sorted({*SHAPES} - {*GGUF_FAMILIES}))
def test_a_family_that_is_not_written_is_refused_by_its_name(other: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"wanted a model of a family that can be written as GGUF .*, got {other}; "):
        written(random_model(other), other, tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_other_types_give_nearly_the_same_logits(gguf_family: str, kind: str, tmp_path: Path) -> None:
    family = gguf_family
    if kind.startswith("q"):
        pytest.importorskip("gguf")
    model = exportable_model(family)
    back, _ = load_model(written(model, family, tmp_path / "model.gguf", kind), CPU, torch.float32)
    tokens = torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(0))
    ours, theirs = model.logits(model.features(tokens)), back.logits(back.features(tokens))
    change = (ours - theirs).square().mean().sqrt() / ours.std()
    of_two_layers = {"f16": 3e-3, "q8_0": 0.05, "q4_0": 0.6}[kind]  # the layers' errors are independent
    assert 0 < change < of_two_layers * (model.config.layers / 2) ** 0.5


@pytest.mark.parametrize("number", TENSOR_TYPES, ids=[each.name for each in TENSOR_TYPES.values()])
def test_every_type_is_dequantised_as_the_package_does(number: int, tmp_path: Path) -> None:
    """Random bytes, with the scales in them kept finite."""
    gguf = pytest.importorskip("gguf")
    kind = TENSOR_TYPES[number]
    generator = np.random.default_rng(0)
    row = 2 * kind.size * (256 // kind.block)
    content = generator.integers(0, 0x3C, size=(61, row), dtype=np.uint8)
    plain = {name: each for name, each in _tiny_llama(512).items() if name != "token_embd.weight"}
    embedding = TensorToWrite("token_embd.weight", (61, 512), kind.name, content.tobytes)
    path = tmp_path / "model.gguf"
    write_gguf(path, _LLAMA, [embedding, *plain.values()])
    found = GGUFTensors(path).to_copy("model.embed_tokens.weight")
    expected = gguf.quants.dequantize(content, gguf.GGMLQuantizationType(number))
    assert np.isfinite(expected).all() and np.array_equal(found.float().numpy(), expected)
    model, _ = load_model(path, CPU, torch.float32)
    assert np.array_equal(model.embedding.weight.detach().numpy(), expected)


_LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 32,
    "llama.embedding_length": 512,
    "llama.block_count": 1,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def _tiny_llama(width: int) -> dict[str, TensorToWrite]:
    def zeros(name: str, *shape: int) -> TensorToWrite:
        return TensorToWrite(name, shape, "F32", lambda: bytes(4 * int(np.prod(shape))))

    sizes = {
        "attn_q": (width, width),
        "attn_k": (width, width),
        "attn_v": (width, width),
        "attn_output": (width, width),
    }
    sizes |= {"ffn_gate": (32, width), "ffn_up": (32, width), "ffn_down": (width, 32)}
    blocks = [zeros(f"blk.0.{name}.weight", *shape) for name, shape in sizes.items()]
    norms = [zeros(f"blk.0.{name}.weight", width) for name in ("attn_norm", "ffn_norm")]
    every = [zeros("token_embd.weight", 61, width), zeros("output_norm.weight", width), *blocks, *norms]
    return {each.name: each for each in every}


def test_query_and_key_rows_are_paired_as_neighbours_in_a_gguf() -> None:
    rows = torch.arange(8.0)[:, None]
    assert to_gguf(rows, "query", 2, 1).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    for layout in ("query", "key", "interleaved", "transposed", "same"):
        matrix = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(to_huggingface(to_gguf(matrix, layout, 4, 2), layout, 4, 2), matrix)


@pytest.mark.parametrize(
    ("factor", "original", "low", "high"), [(8.0, 8192, 1.0, 4.0), (32.0, 8192, 1.0, 4.0), (4.0, 2048, 1.0, 8.0)]
)
def test_llama_3s_scaling_is_told_from_its_factors(
    factor: float, original: int, low: float, high: float, tmp_path: Path
) -> None:
    scaling = {
        "factor": factor,
        "original_max_position_embeddings": original,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }
    write_gguf(tmp_path / "model.gguf", _LLAMA, list(_tiny_llama(512).values()))
    file = read_gguf(tmp_path / "model.gguf")
    found = llama3_scaling(file, frequency_factors(128, 500_000.0, scaling), 500_000.0)
    assert found == {"rope_type": "llama3", **scaling}
    with pytest.raises(ModelError, match="rope_freqs like that of Llama 3"):
        llama3_scaling(file, np.linspace(1, 9, 64, dtype=np.float32), 500_000.0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown architecture": ({"general.architecture": "mamba"}, "wanted a GGUF of the architecture .*, got 'mamba'"),
    "none": ({"general.architecture": 7}, "wanted general.architecture to be a text"),
    "experts": ({"llama.expert_count": 8}, "wanted no llama.expert_count, got 8"),
    "another scaling": ({"llama.rope.scaling.type": "yarn"}, "to be none or linear, got 'yarn'"),
    "layers of several kinds": ({"llama.attention.head_count": [4, 2]}, "wanted one llama.attention.head_count"),
    "no heads": ({"llama.attention.head_count": 0}, "llama.attention.head_count of at least 1, got 0"),
    "a text for a width": ({"llama.embedding_length": "x"}, "to be a whole number or a list, got 'x'"),
    "another width": ({"llama.embedding_length": 64}, "got \\[61, 512\\]: its metadata says otherwise"),
    "more layers": (
        {"llama.block_count": 2},
        "wanted the tensor model.layers.1.input_layernorm.weight",
    ),
    "a part of a model": ({"split.count": 3}, "in one file, got one of 3; join them"),
    "a head partly rotated": ({"llama.rope.dimension_count": 64}, "to be a head's width, 128, got 64"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_supported_or_contradicts_itself_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    write_gguf(tmp_path / "model.gguf", {**_LLAMA, **changes}, list(_tiny_llama(512).values()))
    with pytest.raises(ModelError, match=message) as refused:
        load_model(tmp_path / "model.gguf", CPU, torch.float32)
    assert "\n" not in str(refused.value)


def test_a_tensor_that_the_model_has_no_place_for_is_refused(tmp_path: Path) -> None:
    more = TensorToWrite("blk.0.ffn_gate_inp.weight", (8, 4), "F32", lambda: bytes(128))
    write_gguf(tmp_path / "model.gguf", _LLAMA, [*_tiny_llama(512).values(), more])
    with pytest.raises(ModelError, match=r"got also blk\.0\.ffn_gate_inp\.weight"):
        load_model(tmp_path / "model.gguf", CPU, torch.float32)


def test_a_file_without_a_model_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", {"general.architecture": "llama", "general.type": "mmproj"}, [])
    with pytest.raises(ModelError, match=r"holds no language model \(its general.type is 'mmproj'\)"):
        load_model(tmp_path / "model.gguf", CPU)


def test_weights_in_the_wanted_precision_stay_in_the_file(tmp_path: Path) -> None:
    path = written(random_model("qwen3"), "qwen3", tmp_path / "model.gguf")
    tensors = GGUFTensors(path)
    assert tensors.mapped(["model.embed_tokens.weight"]) is not None
    assert tensors.precision == torch.float32


def test_blocks_are_the_bytes_of_a_quantised_matrix(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = written(random_model("qwen3"), "qwen3", tmp_path / "model.gguf", "q8_0")
    assert GGUFTensors(path).blocks("model.embed_tokens.weight").shape == (61, 34)
