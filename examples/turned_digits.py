"""Problem of most examples: classify a digit, and the number of quarter turns it is rotated by.

The images are scikit-learn's 1,797 handwritten digits of 8 × 8 pixels.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import default_collate

CLASSES = {"digit": 10, "turn": 4}
TASKS = list(CLASSES)


def data():
    """Returns training and test sets: lists of samples with an image and a label per task."""
    images, digits = load_digits(return_X_y=True)
    samples = []
    for i, (pixels, digit) in enumerate(zip(images, digits, strict=True)):
        image = torch.tensor(pixels / 16, dtype=torch.float32).view(1, 8, 8)
        samples.append({"image": image.rot90(i % 4, (1, 2)), "digit": int(digit), "turn": i % 4})
    return samples[:1400], samples[1400:]


class Net(nn.Module):
    """A shared trunk and a head for each task."""

    def __init__(self, trunk=None, width=128):
        super().__init__()
        if trunk is None:
            trunk = nn.Sequential(
                *(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU()),
                *(nn.Linear(width, width), nn.ReLU()),
            )
        self.trunk = trunk
        self.heads = nn.ModuleDict({task: nn.Linear(width, n) for task, n in CLASSES.items()})

    def forward(self, images, tasks=TASKS):
        features = self.trunk(images)
        return {task: self.heads[task](features) for task in tasks}


@torch.no_grad()
def accuracy(model, test):
    """Returns the accuracy by task, in percent."""
    batch = default_collate(test)
    device = next(model.parameters()).device
    model.eval()
    logits = model(batch["image"].to(device), TASKS)
    model.train()
    right = {task: logits[task].argmax(1).cpu() == batch[task] for task in TASKS}
    return {task: 100 * r.float().mean().item() for task, r in right.items()}


def report(title, found):
    """Prints accuracies next to chance level."""
    parts = [f"{task} {found[task]:.1f} % (chance: {100 / CLASSES[task]:.0f})" for task in TASKS]
    print(f"{title}: {', '.join(parts)}")
