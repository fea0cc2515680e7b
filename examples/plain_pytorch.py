"""Plain PyTorch: an ordinary training loop with one changed line.

python plain_pytorch.py --epochs 15
"""

import argparse

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


def main(epochs=15):
    torch.manual_seed(0)
    train, test = data()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    engine = samo.SAMO(model, TASKS, aggregator="fairgrad", rho=0.05)

    for epoch in range(epochs):
        for batch in loader:

            def losses(tasks):  # called several times per step, with all tasks or one
                logits = model(batch["image"], tasks)
                return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

            optimizer.zero_grad()
            result = engine.backward(losses)  # instead of loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        seen = ", ".join(f"{task} {loss:.3f}" for task, loss in result.losses.items())
        print(f"epoch {epoch + 1}: losses {seen}; conflicts {result.conflicts:.0%}")

    found = accuracy(model, test)
    report("test accuracy", found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
