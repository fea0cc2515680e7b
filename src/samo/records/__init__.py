"""Reading and writing of the files of runs.

This module needs no extra; it exports logs, files that are written atomically, and errors. Every
file that is read again has a CRC-32, which is verified: JSON objects and lines in the field
``checksum``, checkpoints in the zip archive that ``torch.save`` writes.
The modules `samo.records.schema` (content of the files), `samo.records.directory` (files of a run
and of a comparison) and `samo.records.scan` (all runs in a directory) need the extra ``train``.
"""

from ._differences import differences
from ._errors import RunError
from ._files import (
    open_to_append,
    read_json,
    unsealed,
    write_atomically,
    write_json,
    write_text,
    writing,
)
from ._log import Log, read_lines

__all__ = [
    "Log",
    "RunError",
    "differences",
    "open_to_append",
    "read_json",
    "read_lines",
    "unsealed",
    "write_atomically",
    "write_json",
    "write_text",
    "writing",
]
