"""What compiled code must be told of a step."""

from __future__ import annotations

import sys

import torch
import torch._functorch.config as compiled


def keep_saved_tensors() -> None:
    """Lets graphs that are compiled from now on be differentiated several times, once a task.

    By default their backward pass may write over the tensors that it was given (it "donates"
    them). Where the shape of a batch may vary, that is settled before it is known that the graph is
    to be kept, and the second task's backward pass is refused. It is a setting of the process.
    """
    if not getattr(compiled, "donated_buffer", False):
        return
    compiled.donated_buffer = False
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # what was compiled before may write over them
