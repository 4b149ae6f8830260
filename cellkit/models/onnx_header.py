"""What an ONNX file says of itself: inputs, outputs and metadata, read without onnx, onnxruntime or torch.

The file is one message in the wire format of protocol buffers: fields, each with a number, of which those of no
interest (the weights above all) are skipped, not read.

Source: https://protobuf.dev/programming-guides/encoding; onnx/onnx.proto (ModelProto, GraphProto, ValueInfoProto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cellkit.core import FormatError
from cellkit.models.card import Card, parse_card
from cellkit.models.tensorfile import CARD_KEY, CARD_SHA_KEY, file_kind, text_sha

__all__ = ["OnnxHeader", "OnnxValue", "card_of", "read_onnx_header", "sidecar"]

GOLDEN_KEY = "cellkit_golden"
"""The key of the metadata that holds the golden pair, as safetensors in base 64."""

FLOATS = {1: "float32", 10: "float16"}
"""ONNX's numbers of the types that an image may come in, with numpy's names."""

_MOST_TEXT = 64_000_000
_SIZE_OF = {1: 8, 5: 4}  # wire types of a fixed size, in bytes
_USUAL_DIVISOR = 32


@dataclass(frozen=True)
class OnnxValue:
    """An input or output: name, number of its type, and the length of each axis (None: any). No axes: unknown."""

    name: str
    type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class OnnxHeader:
    """What goes in, what comes out, and the metadata of an ONNX file."""

    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    metadata: Mapping[str, str]

    @property
    def has_card(self) -> bool:
        """True for a file that cellkit wrote: normalisation and activation are in the graph."""
        return CARD_KEY in self.metadata


@dataclass(frozen=True)
class _Piece:
    """A field of a message: its number, its value where it is a number, else the bytes of the file that it fills."""

    number: int
    value: int
    begin: int
    end: int


def read_onnx_header(path: Path) -> OnnxHeader:
    """Read what an ONNX file says of itself. Raises `FormatError` for any other and any damaged file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            kind = file_kind(file.read(256))
            if kind or not size:
                raise FormatError(f"{path}: not an ONNX file but {kind or 'an empty file; fetch it again'}")
            return _model(file, size)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: no ONNX file, or a damaged one: {error}") from error


def card_of(path: Path) -> Card:
    """Return the card of an ONNX file: the one in it, else ``FILE.onnx.json`` beside it, else what its graph tells.

    Raises `FormatError` where the file is damaged, or is no network from one image (n, c, y, x) to one map.
    """
    header = read_onnx_header(path)
    if header.has_card:
        text = header.metadata[CARD_KEY]
        if header.metadata.get(CARD_SHA_KEY, text_sha(text)) != text_sha(text):
            raise FormatError(f"{path}: damaged: its card is not the one that was written (sha256 differs)")
        return parse_card(text, str(path))
    beside = sidecar(path)
    if beside.is_file():
        try:
            return parse_card(beside.read_text(encoding="utf-8"), str(beside))
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{beside}: cannot be read: {error}") from error
    return _derived(path, header)


def sidecar(path: Path) -> Path:
    """Return where the card of a foreign ONNX file lies."""
    return path.with_name(f"{path.name}.json")


def image_and_map(path: Path, header: OnnxHeader) -> tuple[OnnxValue, OnnxValue]:
    """Return the one input and the one output of a dense network. Raises `FormatError` where it is no such network."""
    if len(header.inputs) != 1 or len(header.outputs) != 1:
        raise FormatError(
            f"{path}: wanted one input (n, c, y, x) and one output (n, k, y, x), got inputs {_names(header.inputs)} "
            f"and outputs {_names(header.outputs)}; export the network again with those alone"
        )
    given, made = header.inputs[0], header.outputs[0]
    if given.type not in FLOATS:
        raise FormatError(f"{path}: input {given.name!r}: wanted float32 or float16, got ONNX's type {given.type}")
    for what, value in (("input", given), ("output", made)):
        if value.shape and len(value.shape) != 4:
            raise FormatError(f"{path}: {what} {value.name!r}: wanted 4 axes (n, c, y, x), got {_axes(value)}")
    if len(given.shape) == 4 and given.shape[3] in (1, 2, 3, 4) and given.shape[1] not in (1, 2, 3, 4):
        raise FormatError(
            f"{path}: input {given.name!r} is {_axes(given)}: channels last; wanted channels first, (n, c, y, x): "
            "export the network again, with a transpose in front and behind"
        )
    return given, made


def _derived(path: Path, header: OnnxHeader) -> Card:
    """Return a card with what the graph of a foreign file tells, and the careful choice for all else."""
    given, made = image_and_map(path, header)
    beside = sidecar(path).name
    if len(given.shape) != 4 or given.shape[1] is None:
        raise FormatError(
            f"{path}: input {given.name!r} does not say how many channels it takes; write a card {beside}"
        )
    if len(made.shape) != 4 or made.shape[1] is None:
        raise FormatError(f"{path}: output {made.name!r} does not say how many channels it has; write a card {beside}")
    y, x = given.shape[2:]
    side = min(s for s in (y, x) if s is not None) if y or x else None
    return Card(
        name=path.stem,
        architecture="onnx",
        task="dense",
        channels=given.shape[1],
        classes=tuple(f"class{i}" for i in range(made.shape[1])),
        head="sigmoid",
        # A graph of a fixed size is moved over the image; any other is given sides that most encoders can halve.
        divisor=1 if side else _USUAL_DIVISOR,
        halo=side // 8 if side else 0,
        tile=side if side and side >= 16 else None,
        obtain=f"a foreign ONNX file without a card; what its graph does not tell is guessed, write it to {beside}",
    )


def _names(values: tuple[OnnxValue, ...]) -> str:
    return ", ".join(f"{value.name!r}" for value in values) or "none"


def _axes(value: OnnxValue) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in value.shape)})"


def _model(file: BinaryIO, size: int) -> OnnxHeader:
    inputs: list[OnnxValue] = []
    outputs: list[OnnxValue] = []
    weights: set[str] = set()
    metadata: dict[str, str] = {}
    graphs = 0
    for piece in _fields(file, 0, size):
        if piece.number == 7:
            graphs += 1
            for inner in _fields(file, piece.begin, piece.end):
                if inner.number == 5:  # a tensor of weights; older files list these as inputs too
                    weights |= {_text(file, field) for field in _inside(file, inner, 8)}
                elif inner.number in (11, 12):
                    (inputs if inner.number == 11 else outputs).append(_value(file, inner))
        elif piece.number == 14:
            entry = {field.number: _text(file, field) for field in _fields(file, piece.begin, piece.end)}
            metadata[entry.get(1, "")] = entry.get(2, "")
    if graphs != 1:
        raise ValueError("it holds no graph")
    return OnnxHeader(tuple(v for v in inputs if v.name not in weights), tuple(outputs), metadata)


def _value(file: BinaryIO, piece: _Piece) -> OnnxValue:
    name, kind, shape = "", 0, []
    for field in _fields(file, piece.begin, piece.end):
        if field.number == 1:
            name = _text(file, field)
        elif field.number == 2:
            for tensor in _inside(file, field, 1):
                for part in _fields(file, tensor.begin, tensor.end):
                    if part.number == 1:
                        kind = part.value
                    elif part.number == 2:
                        shape = [_length(file, dim) for dim in _inside(file, part, 1)]
    return OnnxValue(name, kind, tuple(shape))


def _length(file: BinaryIO, dim: _Piece) -> int | None:
    fixed = [field.value for field in _inside(file, dim, 1) if 0 < field.value < 2**31]
    return fixed[-1] if fixed else None


def _inside(file: BinaryIO, piece: _Piece, number: int) -> Iterator[_Piece]:
    return (field for field in _fields(file, piece.begin, piece.end) if field.number == number)


def _text(file: BinaryIO, piece: _Piece) -> str:
    if piece.end - piece.begin > _MOST_TEXT:
        raise ValueError("a text of it is absurdly long")
    file.seek(piece.begin)
    return file.read(piece.end - piece.begin).decode("utf-8")


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[_Piece]:
    """Yield the fields of the message between two places of the file."""
    at = begin
    while at < end:
        file.seek(at)
        key = _varint(file)
        number, wire = key >> 3, key & 7
        value = 0
        if wire == 0:
            value = _varint(file)
            start = stop = file.tell()
        elif wire == 2:
            length = _varint(file)
            start = file.tell()
            stop = start + length
        elif wire in _SIZE_OF:
            start = file.tell()
            stop = start + _SIZE_OF[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at:,}")
        if stop > end or number == 0:
            raise ValueError(f"a field at byte {at:,} does not fit into what holds it: the file is cut off or damaged")
        at = stop
        yield _Piece(number, value, start, stop)


def _varint(file: BinaryIO) -> int:
    """Read a number in groups of seven bits, lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of it is longer than 64 bits")
