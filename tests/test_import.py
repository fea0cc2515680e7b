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


STATEMENTS = (
    "import samo",
    "import samo.records",
    "[getattr(samo, name) for name in samo.__all__]",
)


def test_the_package_its_logs_and_every_public_name_import_no_extra() -> None:
    tell = "print(json.dumps(sorted(sys.modules)))"
    program = "\n".join(["import json, sys", *(f"{step}\n{tell}" for step in STATEMENTS)])
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    package, logs, names = (
        {name.partition(".")[0] for name in json.loads(line)} for line in output.splitlines()
    )
    assert "samo" in package
    assert not logs & EXTRAS
    assert "torchjd" in names
    assert not names & (EXTRAS - {"cvxpy", "scipy"})  # TorchJD loads the solvers that it finds
