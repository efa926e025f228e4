"""LeNet-300-100 on MNIST, for `summands search`: 20 L steps of an epoch, 4 epochs of fine-tuning."""

import summands as sm
from summands.zoo.data import load
from summands.zoo.train import error, reference

data = load("mnist")
schedule = sm.Schedule(steps=20, mu0=1e-3, growth=1.25, finetune=4)
train = sm.SGD((data.train.images, data.train.labels), lr=0.1, decay=0.85, weight_decay=5e-4)


def model():
    return reference("lenet300-mnist").model


def evaluate(model):
    return error(model, data.validation.images, data.validation.labels)
