"""Bytes in and out, bounded: variable-length integers and runs of bytes."""

from __future__ import annotations

LARGEST = 2**63 - 1


class ByteWriter:
    """Collects bytes.

    >>> out = ByteWriter()
    >>> out.varint(300); out.raw(b"fc1"); bytes(out).hex()
    'ac02666331'
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def varint(self, value: int) -> None:
        """A number in [0, 2^63): seven bits a byte, the lowest first, the top bit set on all but the last (LEB128)."""
        if not 0 <= value <= LARGEST:
            raise ValueError(f"a varint must be in [0, 2^63), got {value}")
        while value > 127:
            self._bytes.append(value & 127 | 128)
            value >>= 7
        self._bytes.append(value)

    def raw(self, data: bytes | bytearray) -> None:
        """Bytes as they are."""
        self._bytes += data

    def __len__(self) -> int:
        return len(self._bytes)

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


class ByteReader:
    """Reads what ByteWriter wrote, from data[position:end], and never beyond: ValueError instead.

    >>> reader = ByteReader(bytes.fromhex("ac02666331"))
    >>> reader.varint(), bytes(reader.raw(3)), reader.remaining
    (300, b'fc1', 0)
    """

    def __init__(self, data: bytes | memoryview, position: int = 0, end: int | None = None) -> None:
        self._data = memoryview(data)
        self.position = position
        self.end = len(data) if end is None else end
        if not 0 <= position <= self.end <= len(data):
            raise ValueError(f"bytes {position} to {self.end} of {len(data)}")

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def varint(self, limit: int = LARGEST) -> int:
        """The next number; ValueError when it ends too early, is above `limit`, or is not in its shortest writing."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.raw(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    raise ValueError("a varint is not in its shortest writing")
                if value > limit:
                    raise ValueError(f"a number must be at most {limit}, got {value}")
                return value
        raise ValueError("a varint is longer than 9 bytes")

    def raw(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if not 0 <= count <= self.remaining:
            raise ValueError(f"{count} bytes wanted, {self.remaining} left")
        self.position += count
        return self._data[self.position - count : self.position]
