"""LeNet-300-100 on Fashion-MNIST, for `summands search`: every L step is an epoch."""

import summands as sm
from summands.zoo.data import load
from summands.zoo.train import error, reference

data = load("fashion-mnist")
schedule = sm.Schedule(steps=8, mu0=2e-3, growth=1.6, epochs=1, finetune=3)
train = sm.SGD((data.train.images, data.train.labels), lr=0.05, decay=0.98, finetune_lr=0.02, weight_decay=5e-4)


def model():
    return reference("lenet300-fashion-mnist").model


def evaluate(model):
    return error(model, data.validation.images, data.validation.labels)
