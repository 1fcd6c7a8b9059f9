"""The published ONNX graph: its file name, and its version, computed without the onnx package."""

import hashlib

GRAPH_FILE = "digits.onnx"


def version_of(graph: bytes) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of an ONNX graph without metadata.

    The metadata are the fields of number 14 of a ModelProto (onnx.proto). All other fields are
    either numbers or preceded by their length (Protocol Buffers documentation, Encoding).
    Raises IndexError if the graph is cut off.
    """
    digest, at = hashlib.sha256(), 0
    while at < len(graph):
        begin = at
        key, at = _varint(graph, at)
        value, at = _varint(graph, at)
        if key & 7 == 2:
            at += value
        if key >> 3 != 14:
            digest.update(graph[begin:at])
    return digest.hexdigest()[:12]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, lowest first, and the position after it."""
    end = at
    while message[end] & 128:
        end += 1
    bits = (byte & 127 for byte in message[at : end + 1])
    return sum(value << 7 * place for place, value in enumerate(bits)), end + 1
