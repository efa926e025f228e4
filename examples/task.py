"""A task file for `summands compress examples/task.py -o lenet.sums`: LeNet-300-100 on MNIST.

Or, pruned to one level of sparsity after the other: `summands prune examples/task.py -o pruned`.

Replace each function by your own. `train` is an ordinary training loop with two additions: `penalty()` in the loss,
and a learning rate of at most `step.max_lr`.
"""

import torch
from torch import nn

import summands as sm
from summands.zoo.data import load
from summands.zoo.train import error, reference

data = load("mnist")

plan = sm.Plan({"*.weight": sm.Quantize(2) + sm.Prune(keep=0.01, dtype="float16"), "*.bias": sm.Keep("float16")})
schedule = sm.Schedule(steps=20, mu0=1e-3, growth=1.2, epochs=1, finetune=4)
pruning = sm.Pruning((0.8, 0.9, 0.95, 0.98), epochs=2)


def plan_at(sparsity):
    kept = sm.PruneBy("lamp", keep=1 - sparsity, dtype="float16")
    return sm.Plan({"*.weight": kept, "*.bias": sm.Keep("float16")})


def model():
    return reference("lenet300-mnist").model


def train(model, penalty, step):
    lr = min(0.1 * 0.98**step.index if step.mu else 0.01, step.max_lr)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    # All randomness derives from step.seed, so that a run that is resumed gives the same file.
    generator = torch.Generator().manual_seed(step.seed)
    for _ in range(step.epochs):
        for images, labels in data.train.batches(128, generator):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss + penalty()).backward()
            optimizer.step()
    return float(loss.detach())


def evaluate(model):
    return error(model, data.validation.images, data.validation.labels)
