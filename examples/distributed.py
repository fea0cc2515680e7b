"""Training on several processes, which resumes from the last checkpoint if one of them dies.

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nproc-per-node 2 --max-restarts 3 FILE [--fsdp]
"""

import argparse
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import samo

TASKS = ["norm", "largest", "sign"]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(32, 1) for task in TASKS})

    def forward(self, x, tasks):
        h = self.trunk(x)
        return {task: self.heads[task](h).squeeze(1) for task in tasks}


def batch(step, rank, size):  # this rank's part of the batch
    x = torch.randn(62, 16, generator=torch.Generator().manual_seed(step))[rank::size].double()
    return x, {"norm": x.norm(dim=1), "largest": x.amax(1), "sign": x.prod(1).sign()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=Path("distributed.pt"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--fsdp", action="store_true", help="shard the model over the ranks")
    args = parser.parse_args()
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))  # fails if a rank hangs
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same model on all ranks
    model = Net().double()
    if args.fsdp:
        fully_shard(model)
    engine = samo.SAMO(model, TASKS, aggregator="fairgrad", rho=0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    file, done = args.checkpoint, 0
    if file.exists():
        parts, state, done = torch.load(file, weights_only=True)
        set_state_dict(model, optimizer, **parts, options=WHOLE)
        engine.load_state_dict(state)
    print(f"rank {rank} of {size} starts at step {done}", flush=True)
    for step in range(done + 1, args.steps + 1):
        x, y = batch(step, rank, size)

        def losses(tasks, x=x, y=y):
            return {t: (out - y[t]).square().mean() for t, out in model(x, tasks).items()}

        optimizer.zero_grad()
        result = engine.backward(losses, batch_size=len(x))
        optimizer.step()
        if step % args.every == 0 or step == args.steps:
            names = ("model_state_dict", "optim_state_dict")
            parts = dict(zip(names, get_state_dict(model, optimizer, options=WHOLE), strict=True))
            if rank == 0:
                torch.save((parts, engine.state_dict(), step), file.with_suffix(".new"))
                file.with_suffix(".new").replace(file)
                print(step, {task: round(loss.item(), 4) for task, loss in result.losses.items()})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
