"""A vision backbone like timm's: channels last, activation checkpointing, torch.compile.

python vision_backbone.py --checkpointing --compile
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


class Block(nn.Module):
    """A ConvNeXt block: depthwise convolution, pointwise perceptron, stochastic depth."""

    def __init__(self, width, drop):
        super().__init__()
        self.drop = drop
        layers = [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width)]
        layers += [nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        kept = F.dropout(x.new_ones(len(x), 1, 1, 1), self.drop, self.training)
        return x + kept * self.layers(x)


class Backbone(nn.Module):
    """Stands in for timm.create_model(name, in_chans=1, num_classes=0)."""

    def __init__(self, width=48, depth=3, again=False):
        super().__init__()
        self.num_features, self.again = width, again
        self.stem = nn.Conv2d(1, width, 2, 2)
        self.blocks = nn.ModuleList(Block(width, 0.1 * i / depth) for i in range(depth))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return x.mean((2, 3))


def main(epochs=15, checkpointing=False, compiled=False):
    torch.manual_seed(0)
    train, test = data()
    backbone = Backbone(again=checkpointing)  # timm: backbone.set_grad_checkpointing()
    trunk = torch.compile(backbone) if compiled else backbone
    model = Net(trunk, width=backbone.num_features).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=0.05)
    for _ in range(epochs):
        for batch in DataLoader(train, batch_size=64, shuffle=True):
            images = batch["image"].to(memory_format=torch.channels_last)

            def losses(tasks):
                logits = model(images, tasks)
                return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

            optimizer.zero_grad()
            engine.backward(losses)
            optimizer.step()
    report("test accuracy", found := accuracy(model, test))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", dest="compiled")
    main(**vars(parser.parse_args()))
