"""A Transformers encoder with three heads: the subject, the tense and the mood of a sentence.

python transformer_heads.py --checkpointing  # random weights, no download
"""

import argparse
import random
from itertools import chain

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, BertConfig

import samo

WHO = ["child", "cook", "pilot", "nurse", "farmer", "singer"]
VERBS = [["saw", "met", "heard"], ["sees", "meets", "hears"]]  # past, or present
MOODS = [["kind", "bright", "gentle"], ["cruel", "dull", "rude"]]
WORDS = ["[CLS]", "the", "not", *WHO, *chain(*VERBS, *MOODS)]
CLASSES = {"who": len(WHO), "when": len(VERBS), "mood": len(MOODS)}
TASKS = list(CLASSES)


def sentences(n):
    """Returns token ids and labels of sentences such as "the cook saw the not kind pilot"."""
    words, labels = [], []
    for _ in range(n):
        who, other = random.sample(range(len(WHO)), 2)
        when, mood, negated = (random.randrange(2) for _ in range(3))
        verb, adjective = random.choice(VERBS[when]), random.choice(MOODS[mood])
        text = ["[CLS]", "the", WHO[who], verb, "the", *["not"] * negated, adjective, WHO[other]]
        words.append([WORDS.index(word) for word in [*text, "the"][:8]])
        labels.append([who, when, mood ^ negated])
    return torch.tensor(words), dict(zip(CLASSES, torch.tensor(labels).T, strict=True))


def main(epochs=4, checkpointing=False):
    random.seed(0)
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = sentences(2000), sentences(500)
    small = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    small |= {"hidden_dropout_prob": 0.0, "initializer_range": 0.15}
    encoder = AutoModel.from_config(BertConfig(vocab_size=len(WORDS), **small))
    if checkpointing:  # the reentrant variant does not support torch.autograd.grad
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    heads = nn.ModuleDict({t: nn.Linear(small["hidden_size"], n) for t, n in CLASSES.items()})
    model = nn.ModuleDict({"encoder": encoder, "heads": heads})

    def logits(words, tasks):
        features = encoder(input_ids=words).last_hidden_state.mean(1)
        return {task: heads[task](features) for task in tasks}

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    engine = samo.GSAM(model, TASKS, aggregator="upgrad", rho=0.05)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(50):

            def losses(tasks):
                out = logits(x[part], tasks)
                return {task: F.cross_entropy(out[task], y[task][part]) for task in tasks}

            optimizer.zero_grad()
            engine.backward(losses)
            optimizer.step()
    model.eval()
    found = {}
    for task, out in logits(test_x, TASKS).items():
        found[task] = 100 * (out.argmax(1) == test_y[task]).float().mean().item()
        print(f"{task}: {found[task]:.1f} % correct (chance: {100 / CLASSES[task]:.0f})")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true")
    main(**vars(parser.parse_args()))
