"""The container: what is written is read back, and a damaged header is one line, whatever is in it."""

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from chainrule.errors import ModelError
from chainrule.storage.gguf import is_gguf, parse, read_gguf
from chainrule.storage.gguf_types import TENSOR_TYPES
from chainrule.storage.gguf_writer import TensorToWrite, write_gguf

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.count": 7,
    "a.large": 2**40,
    "a.negative": -3,
    "a.number": 0.5,
    "a.flag": True,
    "a.texts": ["", "é", "▁x" * 40],
    "a.numbers": [1.0, -2.5],
    "a.ids": [-1, 0, 5],
    "a.none": [],
}
TENSORS = [
    TensorToWrite("one.weight", (3, 5), "F32", lambda: bytes(60)),
    TensorToWrite("two.weight", (2, 64), "Q8_0", lambda: bytes(range(136))),
    TensorToWrite("three.bias", (7,), "BF16", lambda: bytes(14)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf", METADATA, TENSORS)
    return tmp_path / "model.gguf"


def test_what_is_written_is_read_back(path: Path) -> None:
    file = read_gguf(path)
    assert file.metadata == METADATA
    assert {name: (each.shape, each.type.name) for name, each in file.tensors.items()} == {
        each.name: (each.shape, each.type) for each in TENSORS
    }
    two = file.tensors["two.weight"]
    assert path.read_bytes()[two.start : two.end] == bytes(range(136)) and two.start % 32 == 0
    assert is_gguf(path) and not is_gguf(path.parent)


def test_the_package_reads_what_is_written_and_has_the_same_types(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {each.name: (each.block, each.size) for each in TENSOR_TYPES.values()}.items() <= sizes.items()
    assert {number: each.name for number, each in TENSOR_TYPES.items()}.items() <= {
        kind.value: kind.name for kind in gguf.GGMLQuantizationType
    }.items()
    reader = gguf.GGUFReader(path)
    assert {key: reader.fields[key].contents() for key in METADATA if key != "a.none"} == {
        key: value for key, value in METADATA.items() if key != "a.none"
    }
    assert [(each.name, list(each.shape[::-1])) for each in reader.tensors] == [
        (each.name, list(each.shape)) for each in TENSORS
    ]


def test_a_value_of_another_kind_is_refused_by_its_key(path: Path) -> None:
    file = read_gguf(path)
    assert file.get("a.count", int) == 7 and file.get("no.such", int, 3) == 3
    for key, kind in (("a.flag", int), ("a.count", str), ("a.texts", int), ("a.number", bool)):
        with pytest.raises(ModelError, match=f"wanted {key} to be"):
            file.get(key, kind)
    with pytest.raises(ModelError, match=r"wanted no\.such in the metadata"):
        file.want("no.such", int)


def header(
    version: int = 3, tensors: int = 0, keys: int = 0, rest: bytes = b"", magic: bytes = b"GGUF", size: int = 64
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + rest + bytes(size)


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content.encode())) + content.encode()


def info(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


DAMAGED = {
    "another file": (b"PK\3\4 and so on", "begins with GGUF, got another file"),
    "nothing": (b"", "begins with GGUF"),
    "version 1": (header(version=1), "got version 1"),
    "version 4": (header(version=4), "got version 4"),
    "of a big-endian machine": (header(version=3 << 24), "big-endian"),
    "a count of 2^60 keys": (header(keys=2**60), "says it has 1152921504606846976 metadata entries"),
    "a count of 2^60 tensors": (header(tensors=2**60), "says it has 1152921504606846976 tensors"),
    "a list of 2^60 texts": (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2**60)), "strings and is only"),
    "a list of 2^60 numbers": (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 12, 2**60)), "numbers and is"),
    "a text of 2^63": (header(keys=1, rest=struct.pack("<Q", 2**63)), "ends after"),
    "lists of lists": (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 9, 1)), "a list of the type 9"),
    "an unknown kind": (header(keys=1, rest=text("k") + struct.pack("<I", 99)), "metadata of the unknown type 99"),
    "not UTF-8": (header(keys=1, rest=struct.pack("<Q", 1) + b"\xff"), "not UTF-8"),
    "a key twice": (header(keys=2, rest=2 * (text("k") + struct.pack("<II", 4, 1))), "'k' twice"),
    "an alignment of 0": (header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 0)), "no power of 2"),
    "an alignment of 48": (header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 48)), "no power of 2"),
    "an alignment that is a text": (
        header(keys=1, rest=text("general.alignment") + struct.pack("<I", 8) + text("x")), "no power of 2"
    ),
    "an unknown tensor type": (header(tensors=1, rest=info("a", kind=77)), "got type 77 for a"),
    "no dimensions": (header(tensors=1, rest=info("a", ())), "0 dimensions"),
    "9 dimensions": (header(tensors=1, rest=info("a", (1,) * 9)), "9 dimensions"),
    "a width of 0": (header(tensors=1, rest=info("a", (0,))), "the shape [0]"),
    "rows that no block divides": (header(tensors=1, rest=info("a", (33, 2), kind=8)), "no multiple of 32"),
    "a tensor past the end": (header(tensors=1, rest=info("a", (320,))), "before what its header announces"),
    "a shape of 2^126": (header(tensors=1, rest=info("a", (2**63, 2**63))), "before what its header announces"),
    "an offset of 2^63": (header(tensors=1, rest=info("a", offset=2**63)), "before what its header announces"),
    "an odd offset": (header(tensors=1, rest=info("a", (1,), offset=4)), "no multiple of 32"),
    "tensors that overlap": (header(tensors=2, rest=info("a") + info("b"), size=512), "a and b in the same bytes"),
    "a tensor twice": (header(tensors=2, rest=info("a") + info("a", offset=128), size=512), "two tensors called 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = DAMAGED[case]
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError) as refused:
        read_gguf(tmp_path / "model.gguf")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_wherever_a_header_is_cut_it_is_refused(path: Path) -> None:
    whole, end = path.read_bytes(), min(each.start for each in read_gguf(path).tensors.values())
    for length in range(4, end):
        with pytest.raises(ModelError):
            parse(path, whole[:length])


def mutate(content: bytearray, end: int, generator: random.Random) -> None:
    """A few bytes of the header changed, some of them to values that are wide of the mark."""
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(4, end)
        content[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))


def test_a_header_of_changed_bytes_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, METADATA, TENSORS)
    whole, end = path.read_bytes(), min(each.start for each in read_gguf(path).tensors.values())
    generator, refused = random.Random(0), 0
    for _ in range(10_000):
        content = bytearray(whole)
        mutate(content, end, generator)
        try:
            parse(path, bytes(content))
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 3_000 < refused < 10_000


def test_a_file_that_cannot_be_written_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()

    def fail() -> bytes:
        raise OSError(28, "No space left on device")

    broken: list[TensorToWrite] = [*TENSORS, TensorToWrite("last", (32,), "F32", fail)]
    with pytest.raises(OSError, match="No space"):
        write_gguf(path, METADATA, broken)
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == ["model.gguf"]
