"""A process that trains runs, one after another: ``python -m samo.training._worker``.

Each line of its input is a run in JSON, ``{"config": .., "out": ..}``. Lines of JSON on its output
report progress, ``{"epoch": .., "step": .., "steps": ..}``, and the end of a run:
``{"done": true}`` or ``{"failed": reason, "diverged": ..}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .. import NonFiniteError
from ..records import RunError
from ..records.directory import RunDirectory
from ._config import configured
from ._errors import DivergedError
from ._run import Progress
from ._train import train

_INTERVAL = 0.5  # seconds between two reports of the same epoch


def main() -> None:
    """Trains until the input ends."""
    # For `module:Class` in the working directory; last, so that it hides no installed module.
    sys.path.append(str(Path.cwd()))
    # Reserve stdout for messages; anything else that is printed goes to stderr.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: Any) -> None:
        # Raises BrokenPipeError, which ends this process, if the parent process is gone.
        print(json.dumps(message), file=output, flush=True)

    for line in sys.stdin:
        order = json.loads(line)
        out = Path(order["out"])
        last = [time.monotonic()]

        def watch(progress: Progress, last: list[float] = last) -> None:
            now = time.monotonic()
            if progress.record is not None or now > last[0] + _INTERVAL:
                last[0] = now
                say(epoch=progress.epoch, step=progress.step, steps=progress.steps)

        try:
            train(configured(**order["config"]), out, watch=watch)
        except BrokenPipeError:
            return
        except RunError as error:
            say(failed=str(error), diverged=isinstance(error, DivergedError))
        except Exception as error:  # any error of one run; the others continue
            RunDirectory(out).record_failure(traceback.format_exc())
            reason = str(error).strip() or "no message"
            line = f"{type(error).__name__}: {reason.splitlines()[0]}"
            say(failed=line, diverged=isinstance(error, NonFiniteError))
        else:
            say(done=True)


if __name__ == "__main__":
    main()
