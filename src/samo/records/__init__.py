"""Reading and writing of the files of runs.

This module needs no extra; it exports logs, JSON files that are written atomically, and errors.
The modules `samo.records.schema` (content of the files), `samo.records.directory` (files of a run
and of a comparison) and `samo.records.scan` (all runs in a directory) need the extra ``train``.
"""

from ._differences import differences
from ._errors import RunError
from ._files import read_json, write_atomically, write_json
from ._log import Log, read_lines

__all__ = [
    "Log",
    "RunError",
    "differences",
    "read_json",
    "read_lines",
    "write_atomically",
    "write_json",
]
