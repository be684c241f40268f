"""Ways to damage files: bytes of any kind, and what their formats are made of."""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]
_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 2**64 - 1)
_DEEP = "<deep>"  # exchanged for brackets when the text is made
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, 10**400, 2**63, "", "x" * 5000),
    *("\0", "\ud800", "NaN", "../../outside.ckpt", "/etc/passwd", "C:\\x", "<script>alert(1)</script>", "../", "."),
    *([], {}, [[]], {"": {}}, list(range(500)), ["../x"], {"../x": 1}, {"__class__": "os.system"}, _DEEP),
)


def flip(chance: random.Random, data: bytes) -> bytes:
    """Some bits."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if result:
            result[chance.randrange(len(result))] ^= 1 << chance.randrange(8)
    return bytes(result)


def truncate(chance: random.Random, data: bytes) -> bytes:
    """The beginning, or the end."""
    at = chance.choice((0, 1, chance.randint(0, len(data)), max(0, len(data) - chance.randint(1, 64))))
    return data[:at] if chance.random() < 0.8 else data[at:]


def insert(chance: random.Random, data: bytes) -> bytes:
    """Foreign bytes in between."""
    at, count = chance.randint(0, len(data)), chance.choice((1, 8, 100, 5000))
    return data[:at] + chance.choice((bytes(count), b"\xff" * count, chance.randbytes(count))) + data[at:]


def delete(chance: random.Random, data: bytes) -> bytes:
    """A region is missing."""
    start, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    return data[:start] + data[min(end, start + 64) :] if chance.random() < 0.5 else data[:start] + data[end:]


def duplicate(chance: random.Random, data: bytes) -> bytes:
    """A region comes twice, or in another place as well."""
    start, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    at = chance.choice((end, chance.randint(0, len(data))))
    return data[:at] + data[start:end] + data[at:]


def overwrite(chance: random.Random, data: bytes) -> bytes:
    """A region of other bytes, such as zeros, which file systems leave where nothing was written."""
    start, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    end = min(end, start + chance.choice((1, 16, 512, len(data) + 1)))
    filler = chance.choice((b"\0", b"\xff", b" ", chance.randbytes(1)))
    return data[:start] + filler * (end - start) + data[end:]


def number(chance: random.Random, data: bytes) -> bytes:
    """A number, as it is in a length, an offset or a count, of one to eight bytes."""
    if not data:
        return data
    size = chance.choice((1, 2, 4, 8))
    near_end = max(0, len(data) - 100)  # where zip files have theirs
    at = chance.choice((chance.randrange(len(data)), chance.randrange(min(len(data), 64)), near_end))
    value = chance.choice((*_NUMBERS, chance.getrandbits(64))) & (256**size - 1)
    return data[:at] + value.to_bytes(size, chance.choice(("little", "big"))) + data[at + size :]


def zip_field(chance: random.Random, data: bytes) -> bytes:
    """A field of a header in a zip file."""
    headers = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data)]
    if not headers:
        return number(chance, data)
    at = chance.choice(headers) + chance.randrange(4, 46)
    size = chance.choice((2, 4))
    value = chance.choice((*_NUMBERS, chance.getrandbits(32))) & (256**size - 1)
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def zip_entry(chance: random.Random, data: bytes) -> bytes:
    """The content of a file in a zip file, with a header that is right: a pickle, mostly."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            entries = {name: source.read(name) for name in source.namelist()}
    except Exception:  # damaged already
        return flip(chance, data)
    names = list(entries)
    name = next((one for one in names if one.endswith("data.pkl")), names[0])
    if chance.random() < 0.2:
        name = chance.choice(names)
    how = chance.random()
    if how < 0.1:
        del entries[name]
    elif how < 0.2:
        entries[chance.choice(names)] = entries[name]
    else:
        entries[name] = chance.choice((*ANY, pickled))(chance, entries[name])
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", chance.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,))) as out:
        for own, content in entries.items():
            out.writestr(own, content)
    return result.getvalue()


def pickled(chance: random.Random, data: bytes) -> bytes:
    """An opcode or a name in a pickle: what it asks for is another thing."""
    names = [match.span(1) for match in re.finditer(rb"c([\w.]+\n\w+)\n", data)]
    foreign = (b"os\nsystem", b"builtins\neval", b"torch\nload", b"torch\nSize", b"canary\nsing", b"torch.nn\nLinear")
    if names and chance.random() < 0.5:
        start, end = chance.choice(names)
        return data[:start] + chance.choice(foreign) + data[end:]
    at = chance.randint(0, len(data))
    opcode = chance.choice((b"R", b"(", b"t", b".", b"\x81", b"b", b"0", b"2", b"j\xff\xff\xff\x7f", b"\x8a\xff", b"}"))
    return data[:at] + opcode + data[at + chance.randint(0, 1) :]


def json_text(chance: random.Random, data: bytes) -> bytes:
    """A value, a key or the structure of a JSON document."""
    try:
        content = json.loads(data)
    except ValueError:
        return flip(chance, data)
    try:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            content = _with_other_value(chance, content)
        text = json.dumps(content)
    except (OverflowError, RecursionError, TypeError, ValueError):  # a number that has become too large, a key no text
        return flip(chance, data)
    depth = chance.choice((3, 200, 100_000))
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth).encode("utf-8", "surrogatepass")


def safetensors_header(chance: random.Random, data: bytes) -> bytes:
    """The header of a safetensors file: its JSON, or what it says of its own length."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if chance.random() < 0.2:
        return (
            chance.choice((*_NUMBERS, length + 1, length - 1, chance.getrandbits(64))).to_bytes(8, "little") + data[8:]
        )
    header = chance.choice((json_text, json_text, *ANY))(chance, header)
    return len(header).to_bytes(8, "little") + header + rest


def _with_other_value(chance: random.Random, content: Any) -> Any:
    """The same document, but for one place in it."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in children:
            places.append((node, key))
            visit(child)

    visit(content)
    value = chance.choice(_VALUES)
    if not places or chance.random() < 0.02:
        return value
    node, key = chance.choice(places)
    how = chance.random()
    if how < 0.15:
        del node[key]
    elif how < 0.25 and isinstance(node, dict):
        node[str(chance.choice(("", "x", "../x", "\ud800", f"{key} ", "x" * 300)))] = node.pop(key)
    elif how < 0.35:
        other, there = chance.choice(places)
        node[key] = json.loads(json.dumps(other[there])) if not _is_inside(node, other) else value
    elif how < 0.45 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
        node[key] = chance.choice((-node[key], node[key] + 1, str(node[key]), node[key] * 10**9, float(node[key])))
    else:
        node[key] = value
    return content


def _is_inside(node: Any, other: Any) -> bool:
    return node is other


ANY: tuple[Mutation, ...] = (flip, truncate, insert, delete, duplicate, overwrite, number)
_OF_FORMATS: dict[str, tuple[Mutation, ...]] = {
    "zip": (zip_field, zip_entry),
    "pickle": (pickled,),
    "json": (json_text,),
    "safetensors": (safetensors_header,),
}


def kind_of(name: str, data: bytes) -> str:
    """Which format a file has, as far as it matters here."""
    if data.startswith(b"PK"):
        return "zip"
    if name.endswith(".safetensors"):
        return "safetensors"
    return "json" if data[:1] in (b"{", b"[") else "pickle"


def mutate(chance: random.Random, name: str, data: bytes) -> bytes:
    """Damage a file, half of the time in a way of its format.

    Args:
        chance: Decides everything.
        name: Of the file.
        data: Its content.
    """
    choices = _OF_FORMATS[kind_of(name, data)] if chance.random() < 0.5 else ANY
    result = chance.choice(choices)(chance, data)
    return result if result != data else flip(chance, data)
