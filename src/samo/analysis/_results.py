"""The common base of all results: saving to JSON, and loading with checks."""

from __future__ import annotations

import json
from abc import ABC
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from ..records import unsealed, write_json
from ._errors import AnalysisError

FORMAT = 1
"""The version of the files' format."""


class Result(ABC):
    """A result that can be saved as JSON and loaded.

    A subclass is a frozen dataclass whose fields are strings, finite numbers, Booleans, None, and
    tuples or mappings (by string) of these; a file is checked against their annotations. The file
    also has the fields ``kind`` and ``format``.

    Attributes:
        kind: The kind of result in the file.
    """

    kind: ClassVar[str]

    def save(self, path: Path | str) -> None:
        """Writes the result atomically.

        Args:
            path: The file; its directory is created if necessary.

        Raises:
            AnalysisError: If it cannot be written, or a number is not finite.
        """
        path = Path(path)
        fields: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"kind": self.kind, "format": FORMAT, **fields})
        except (OSError, ValueError) as error:
            raise AnalysisError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a result.

        Args:
            path: The file.

        Returns:
            The result.

        Raises:
            AnalysisError: If the file cannot be read, has another kind or format, or a field is
                missing, unknown or of a wrong type.
        """
        path = Path(path)
        try:
            content = unsealed(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
        except (OSError, ValueError, RecursionError) as error:
            raise AnalysisError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise AnalysisError(
                f"{path} must contain a JSON object; found {type(content).__name__}."
            )
        kind, version = content.pop("kind", None), content.pop("format", None)
        if kind != cls.kind:
            raise AnalysisError(f"{path} must be of kind {cls.kind!r}; found {kind!r}.")
        if version != FORMAT:
            raise AnalysisError(f"{path} must be of format {FORMAT}; found {version!r}.")
        return cls._checked(content, path)

    @classmethod
    def _checked(cls, fields: dict[str, Any], path: Path) -> Self:
        """Creates the result from the fields of a file, checked against their annotations."""
        from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

        strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        try:
            adapter = TypeAdapter(with_config(strict)(cls))
            made: Self = adapter.validate_json(json.dumps(fields))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"])
            raise AnalysisError(f"{path}: {where}: {detail['msg']}") from error
        except ValueError as error:  # from __post_init__
            raise AnalysisError(f"{path}: {error}") from error
        return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")
