"""A benchmark that reads a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from samo.benchmarks import Defaults
from tests.toy import Toy


class FromFile(Toy):
    """As many examples as the file says; reported as the mean over its last three epochs."""

    defaults: ClassVar[Defaults] = Defaults(
        epochs=5, batch_size=8, lr=1e-2, schedule="step", average_last=3
    )

    def __init__(self, *, data: str | Path) -> None:
        if not Path(data).is_file():
            raise FileNotFoundError(f"{data} is no file; it must hold a number.")
        super().__init__(n=int(Path(data).read_text()))
