"""LeNet-5 on MNIST, for `summands search`: every L step sees an eighth of the images, another one each time."""

import torch

import summands as sm
from summands.zoo.data import load
from summands.zoo.train import channels_last, error, reference

data = load("mnist")
schedule = sm.Schedule(steps=8, mu0=2e-3, growth=1.6, epochs=1, finetune=3)


def model():
    return channels_last(reference("lenet5-mnist").model)


def train(model, penalty, step):
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(step.seed))
    rows = order[: len(order) // 8]
    eighth = (data.train.images[rows], data.train.labels[rows])
    return sm.SGD(eighth, lr=0.02, decay=0.98, finetune_lr=0.01, weight_decay=5e-4)(model, penalty, step)


def evaluate(model):
    return error(model, data.validation.images, data.validation.labels)
