"""Hugging Face Accelerate.

accelerate launch accelerate_loop.py --precision bf16
"""

import argparse

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


def main(epochs=15, precision="no", out="runs/accelerate"):
    accelerator = Accelerator(mixed_precision=precision)
    torch.manual_seed(0)
    train, test = data()
    net = Net()
    model, optimizer, loader = accelerator.prepare(
        net,
        torch.optim.Adam(net.parameters(), lr=2e-3),
        DataLoader(train, batch_size=64, shuffle=True),
    )
    engine = samo.SAMO(model, TASKS, aggregator="fairgrad", rho=0.05)
    accelerator.register_for_checkpointing(engine)

    for _ in range(epochs):
        for batch in loader:

            def losses(tasks):
                logits = model(batch["image"], tasks)
                return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

            optimizer.zero_grad()
            # instead of accelerator.backward(loss); the scaler is None unless precision="fp16"
            engine.backward(losses, grad_scaler=accelerator.scaler)
            accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    accelerator.save_state(out)  # with the engine; resume with load_state(out)
    found = accuracy(net, test)
    if accelerator.is_main_process:
        report("test accuracy", found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--out", default="runs/accelerate")
    main(**vars(parser.parse_args()))
