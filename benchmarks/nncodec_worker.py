"""Runs in NNCodec's own environment: `check`, `files SOURCE SETTINGS` or `integers LEVELS REPEATS`. Prints JSON.

Integers are coded tensor by tensor as NNCodec's encoder calls its CABAC by default (profile 1, row skipping,
`param_opt`, unary length 11, scan order 0), with dependent quantisation off and without the headers of its units.
Times are the best process time of `repeats` runs.
"""

import contextlib
import importlib.util
import json
import sys
import sysconfig
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def _codec():
    # It imports data sets from torchvision, which coding does not need and which need not fit this torch.
    for name in ("torchvision", "torchvision.datasets", "torchvision.models", "torchvision.transforms"):
        sys.modules[name] = MagicMock()
    from nncodec.nn import decode, encode

    return encode, decode


def files(source, settings):
    encode, decode = _codec()
    folder = Path(source).parent
    with np.load(source) as content:
        tensors = dict(content)
    for i, setting in enumerate(json.loads(settings)):
        decoded = folder / f"decoded{i}.npz"
        with contextlib.redirect_stdout(sys.stderr):
            stream = encode(dict(tensors), {**setting, "verbose": False, "results": str(folder)})
            np.savez(decoded, **decode(stream))
        print(json.dumps({"bytes": len(stream), "decoded": str(decoded)}), flush=True)


def _cabac():
    # The extension alone: the package's top level asks for frameworks that the coder does not need.
    library = next(Path(sysconfig.get_paths()["platlib"], "nncodec", "extensions").glob("deepCABAC*.so"))
    spec = importlib.util.spec_from_file_location("deepCABAC", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _timed(run, repeats):
    best, result = float("inf"), None
    for _ in range(repeats):
        began = time.process_time()
        result = run()
        best = min(best, time.process_time() - began)
    return best, result


def integers(path, repeats):
    cabac, repeats = _cabac(), int(repeats)
    off = (cabac.HdspMode.AlwaysOff, np.array((0, 0), dtype=np.int8))
    rows = {}
    for name, levels in np.load(path).items():
        skipped = np.array([levels.ndim > 1 and not row.any() for row in levels], dtype=np.int32)

        def encode(tuned, levels=levels, skipped=skipped):
            encoder = cabac.Encoder()
            encoder.initCtxModels(11, tuned)
            encoder.encodeLayer(levels, 0, 0, 1, 0, 1, skipped, *off, 0, 0)
            return encoder.finish()

        encode_seconds, data = _timed(lambda encode=encode: encode(1), repeats)
        untuned_seconds, _ = _timed(lambda encode=encode: encode(0), repeats)

        def decode(data=data, levels=levels):
            decoded = np.zeros_like(levels)
            decoder = cabac.Decoder()
            decoder.setStream(data)
            decoder.initCtxModels(11)
            decoder.decodeLayer(decoded, 0, 0, 1, 0, *off, 0, 0)
            decoder.finish()
            return decoded

        decode_seconds, decoded = _timed(decode, repeats)
        if not np.array_equal(decoded, levels):
            raise SystemExit(f"NNCodec did not give {name} back")
        rows[name] = {
            "bytes": int(data.size),
            "encode": encode_seconds,
            "encode_untuned": untuned_seconds,
            "decode": decode_seconds,
        }
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    {"check": _codec, "files": files, "integers": integers}[sys.argv[1]](*sys.argv[2:])
