"""Lightning: a module with manual optimisation.

python lightning_trainer.py --precision bf16-mixed
"""

import argparse

import lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


class MultiTask(L.LightningModule):
    """A module with manual optimisation: `training_step` runs the backward pass."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = Net()
        self.engine = samo.SAMO(self.net, TASKS, aggregator="fairgrad", rho=0.05)

    def training_step(self, batch, _):
        def losses(tasks):
            logits = self.net(batch["image"], tasks)
            return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

        optimizer = self.optimizers()
        optimizer.zero_grad()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # only with "16-mixed"
        result = self.engine.backward(losses, grad_scaler=scaler)
        self.clip_gradients(optimizer, gradient_clip_val=5.0)
        optimizer.step()
        self.log_dict({f"loss/{task}": loss for task, loss in result.losses.items()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["engine"] = self.engine.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.engine.load_state_dict(checkpoint["engine"])


def main(epochs=15, precision="32-true", out="runs/lightning"):
    L.seed_everything(0, verbose=False)
    train, test = data()
    module = MultiTask()
    trainer = L.Trainer(
        max_epochs=epochs,
        precision=precision,
        default_root_dir=out,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    print(f"checkpoint with the engine: {trainer.checkpoint_callback.best_model_path}")
    found = accuracy(module.net, test)
    report("test accuracy", found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", default="runs/lightning")
    main(**vars(parser.parse_args()))
