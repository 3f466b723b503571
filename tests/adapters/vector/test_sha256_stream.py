"""The number stream, against its own definition written with hashlib alone, and against the normal distribution."""

import hashlib

import numpy as np

from adapters.vector.sha256_stream import VARIANCE, centred_sums


def test_every_number_is_the_centred_sum_of_the_words_of_one_digest() -> None:
    for counter, number in enumerate(centred_sums(b"key", 5).tolist()):
        digest = hashlib.sha256(b"key" + counter.to_bytes(8, "little")).digest()
        assert number == sum(digest[i] + 256 * digest[i + 1] for i in range(0, 32, 2)) - 16 * 65535 // 2


def test_a_longer_stream_begins_with_the_shorter_one() -> None:
    assert centred_sums(b"key", 100)[:7].tolist() == centred_sums(b"key", 7).tolist()


def test_the_numbers_are_close_to_normal() -> None:
    numbers = np.sort(centred_sums(b"many", 40_000) / VARIANCE**0.5)
    assert abs(numbers.mean()) < 0.02
    assert abs(numbers.std() - 1) < 0.02
    assert abs((numbers**4).mean() - 3 + 0.075) < 0.15
    reference = np.sort(np.random.default_rng(0).standard_normal(40_000))
    quantiles = np.linspace(0.001, 0.999, 999)
    np.testing.assert_allclose(np.quantile(numbers, quantiles), np.quantile(reference, quantiles), atol=0.15)
