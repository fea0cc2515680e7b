"""Mixed precision: bfloat16 autocast, or float16 autocast with a GradScaler.

python mixed_precision.py --precision float16
"""

import argparse

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


def main(epochs=15, precision="bfloat16"):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = data()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    model = Net().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    engine = samo.SAMO(model, TASKS, aggregator="fairgrad", rho=0.05)
    # float16 has a narrow range, so losses are scaled (here by so much that the first steps
    # overflow and are skipped; the default is 2**16). bfloat16 needs no scaler.
    scaler = torch.amp.GradScaler(device, init_scale=2.0**24, enabled=precision == "float16")

    skipped = 0
    for _ in range(epochs):
        for batch in loader:
            images = batch["image"].to(device)
            labels = {task: batch[task].to(device) for task in TASKS}

            def losses(tasks):
                with torch.autocast(device, getattr(torch, precision)):
                    logits = model(images, tasks)
                    return {task: F.cross_entropy(logits[task], labels[task]) for task in tasks}

            optimizer.zero_grad()
            result = engine.backward(losses, grad_scaler=scaler)
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)  # skips the step after an overflow
            scaler.update()  # and reduces the scale
            skipped += result.overflowed

    print(f"{precision}: {skipped} steps skipped, scale {scaler.get_scale():g}")
    found = accuracy(model, test)
    report("test accuracy", found)
    return found | {"skipped": skipped}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--precision", choices=["bfloat16", "float16"], default="bfloat16")
    main(**vars(parser.parse_args()))
