"""Forms to a file that can be trusted, and back: docs/format.md."""

from .header import Header
from .reader import Contents, read, read_header, read_prefix
from .remember import remembered
from .writer import Writer, Written, measure, to_bytes, write

__all__ = [
    "Contents",
    "Header",
    "Writer",
    "Written",
    "measure",
    "read",
    "read_header",
    "read_prefix",
    "remembered",
    "to_bytes",
    "write",
]
