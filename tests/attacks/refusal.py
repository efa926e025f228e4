"""That a file is refused as it should be."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from summands.coding import decode_section
from summands.container import read, reader
from summands.errors import CorruptFileError, FileError


def refused(
    data: bytes, message: str, error: type[FileError] = CorruptFileError, *, decodes: bool = False, **arguments
) -> None:
    """The file is refused with exactly this type, a message that names the rule, and unless said before decoding."""
    with patch.object(reader, "decode_section", side_effect=AssertionError("the decoder was called")) as decoder:
        if decodes:
            decoder.side_effect = decode_section
        with pytest.raises(FileError, match=message) as caught:
            read(data, **arguments)
    assert type(caught.value) is error
