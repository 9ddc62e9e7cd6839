#!/usr/bin/env python3
"""Reads the golden CBOR reports with a second library and compares them with the golden JSON.

    python tests/cross/cbor_check.py tests/golden/report

Needs the PyPI package cbor2. Where a case has a byte limit, CBOR has room for more entries than JSON: a list in JSON
must then be the beginning of the one in CBOR. Also checked in the bytes: definite lengths, shortest integers, text keys.
"""

import io
import json
import pathlib
import sys

import cbor2


def same(cbor, text, cut):
    """Whether both say the same, types included (1 is not 1.0, and True is neither)."""
    if type(cbor) is not type(text):
        return False
    if isinstance(cbor, dict):
        return list(cbor) == list(text) and all(same(cbor[key], text[key], cut) for key in cbor)
    if isinstance(cbor, list):
        if len(cbor) != len(text) and not (cut and len(cbor) > len(text)):
            return False
        return all(same(one, other, cut) for one, other in zip(cbor, text))
    return cbor == text


def shape(stream, key=False):
    """Walks one item and returns what is wrong with its form, or None."""
    head = stream.read(1)[0]
    major, info = head >> 5, head & 31
    if key and major != 3:
        return "a key is not text"
    if major == 7:
        stream.read({25: 2, 26: 4, 27: 8}.get(info, 0))
        return None
    if info > 27:
        return "a length is indefinite"
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
    value = int.from_bytes(stream.read(size), "big") if size else info
    if size and value < {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]:
        return f"{value} is not in its shortest form"
    if major in (2, 3):
        stream.read(value)
    elif major == 4:
        return next(filter(None, (shape(stream) for _ in range(value))), None)
    elif major == 5:
        return next(filter(None, (shape(stream, key=turn % 2 == 0) for turn in range(2 * value))), None)
    elif major == 6:
        return "a tag"
    return None


def check(path):
    raw = bytes.fromhex(path.read_text())
    case = path.parent
    cut = "maxBytes" in json.loads((case / "reading.json").read_text())
    spelling = path.name.split(".")[0]
    stream = io.BytesIO(raw)
    try:
        decoded = cbor2.load(stream)
    except cbor2.CBORDecodeError as error:
        return f"not CBOR: {error}"
    if stream.read():
        return "bytes after the end"
    if not same(decoded, json.loads((case / f"{spelling}.json").read_text()), cut):
        return f"says something else than {spelling}.json"
    return shape(io.BytesIO(raw))


def main(root):
    files = sorted(pathlib.Path(root).glob("*/*.cbor.hex"))
    if not files:
        sys.exit(f"{root}: no .cbor.hex file found")
    wrong = [f"{path}: {problem}" for path in files if (problem := check(path))]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(files)} CBOR reports read by cbor2: all as in JSON")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
