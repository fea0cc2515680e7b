"""The core needs torch and torchjd only."""

from __future__ import annotations

import json
import subprocess
import sys

# numpy is missing here on purpose: torch imports it by itself where it is installed.
EXTRAS = {
    "cvxpy",
    "matplotlib",
    "pydantic",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "typer",
}


def _imported(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after `statement`."""
    program = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in json.loads(output)}


def test_import_samo_imports_no_extra() -> None:
    loaded = _imported("import samo")
    assert "samo" in loaded
    assert not loaded & EXTRAS


def test_every_public_name_is_there() -> None:
    loaded = _imported("import samo; [getattr(samo, name) for name in samo.__all__]")
    assert "torchjd" in loaded
    assert not loaded & (EXTRAS - {"cvxpy", "scipy"})  # TorchJD loads the solvers that it finds


def test_logs_and_json_files_need_no_extra() -> None:
    loaded = _imported("import samo.records")
    assert not loaded & EXTRAS
