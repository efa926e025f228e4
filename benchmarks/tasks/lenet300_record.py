"""LeNet-300-100 on MNIST, 40 epochs of LC, for the byte record: see plans/lenet300-record.yaml."""

import summands as sm
from summands.zoo.data import load
from summands.zoo.train import error, reference

data = load("mnist")
schedule = sm.Schedule(steps=40, mu0=1e-3, growth=1.12)
train = sm.SGD((data.train.images, data.train.labels), lr=0.1, weight_decay=5e-4)


def model():
    return reference("lenet300-mnist").model


def evaluate(model):
    return error(model, data.validation.images, data.validation.labels)
