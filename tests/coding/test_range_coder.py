"""The coder alone: inverse, probabilities, size against constriction's static coder, and its final state."""

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from summands.coding.range_coder import (
    DECODE,
    ENCODE,
    LIMIT_MAX,
    MEASURE,
    STATE_BITS,
    Coder,
    code_bit,
    new_model,
)


@njit
def _code(mode, state, data, model, bits, contexts, fast, slow):
    low, width, position = state[0], state[1], np.int64(state[2])
    for i in range(bits.size):
        low, width, position, bit = code_bit(
            mode, low, width, position, data, model, np.int64(contexts[i]), fast, slow, np.int64(bits[i])
        )
        bits[i] = bit
    state[0], state[1], state[2] = low, width, np.uint64(position)


def run(mode, bits, contexts, limits=(255, 1023), data=b""):
    coder, model = Coder(mode, data), new_model(8)
    coder.reserve(4 * bits.size)
    _code(mode, coder.state, coder.data, model, bits, contexts, *limits)
    return coder, model


def check_inverse(bits, contexts, limits, payload):
    decoded = np.zeros_like(bits)
    run(DECODE, decoded, contexts, limits, payload)[0].finish()
    assert np.array_equal(decoded, bits)


LIMITS = [(30, 255), (255, 1023), (LIMIT_MAX, LIMIT_MAX), (0, 0)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 3000), st.floats(0, 1), st.sampled_from(LIMITS))
def test_decoding_is_the_inverse(seed, n, share, limits):
    rng = np.random.default_rng(seed)
    bits = (rng.random(n) < share).astype(np.uint8)
    contexts = rng.integers(0, 8, n)
    coder, model = run(ENCODE, bits, contexts, limits)
    payload = coder.finish()
    check_inverse(bits, contexts, limits, payload)
    measured = run(MEASURE, bits, contexts, limits)[0].bits
    assert measured == coder.bits
    assert -1 <= 8 * len(payload) + 8 - measured <= 24 or len(payload) < 9
    # Probabilities stay inside (0, 1): both decisions keep a part of every interval.
    assert model.reshape(-1, 3)[:, :2].min() >= 1 << 9
    assert model.reshape(-1, 3)[:, :2].max() <= (1 << STATE_BITS) - (1 << 9)
    assert model.reshape(-1, 3)[:, 2].max() <= limits[1]


def test_check_fails_on_a_planted_wrong_answer():
    bits, contexts = np.arange(64, dtype=np.uint8) % 3 % 2, np.zeros(64, dtype=np.int64)
    payload = run(ENCODE, bits, contexts)[0].finish()
    with pytest.raises((AssertionError, ValueError)):
        check_inverse(1 - bits, contexts, (255, 1023), payload)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_size_is_that_of_a_static_coder(share):
    rng = np.random.default_rng(3)
    bits = (rng.random(200_000) < share).astype(np.uint8)
    ours = 8 * len(run(ENCODE, bits, np.zeros(bits.size, dtype=np.int64), (LIMIT_MAX, LIMIT_MAX))[0].finish())
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(bits.astype(np.int32), constriction.stream.model.Bernoulli(float(bits.mean())))
    static = 32 * len(encoder.get_compressed())
    # The static coder is told the probability, which would cost about log2(n) / 2 bits.
    assert static - 64 <= ours <= 1.003 * static + 64


def test_sure_decisions_are_nearly_free():
    bits = np.zeros(1_000_000, dtype=np.uint8)
    payload = run(ENCODE, bits, np.zeros(bits.size, dtype=np.int64), (LIMIT_MAX, LIMIT_MAX))[0].finish()
    assert len(payload) < 30


def test_carries_run_back():
    # All ones keep low at 0, zeros push it up to the end of the interval: long runs of 255 and carries through them.
    rng = np.random.default_rng(4)
    for _ in range(200):
        coder = Coder(ENCODE)
        numbers = [int(n) for n in rng.choice([0, 65535, 65534, 1], 60)]
        for n in numbers:
            coder.number(16, n)
        tail = int(rng.integers(1 << 30))
        coder.number(30, tail)
        decoder = Coder(DECODE, coder.finish())
        assert [decoder.number(16) for _ in numbers] == numbers
        assert decoder.number(30) == tail
        decoder.finish()


def test_only_one_byte_string_is_accepted():
    coder = Coder(ENCODE)
    coder.number(40, 123456789012)
    payload = coder.finish()
    accepted = []
    for i in range(len(payload)):
        for value in range(256):
            changed = payload[:i] + bytes([value]) + payload[i + 1 :]
            decoder = Coder(DECODE, changed)
            number = decoder.number(40)
            try:
                decoder.finish()
            except ValueError:
                continue
            accepted.append(number)
    assert accepted.count(123456789012) == len(payload)
    for wrong in (payload + b"\0", payload + b"\7", b"\0" + payload):
        decoder = Coder(DECODE, wrong)
        decoder.number(40)
        with pytest.raises(ValueError):
            decoder.finish()
