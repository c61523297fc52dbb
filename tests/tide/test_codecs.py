"""Laws of all codecs, and what each of them weighs."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.errors import ClisonixError
from clisonix.tide.codecs import Codec, CodecSettings, Feedback, Sparse, make_codec
from clisonix.tide.codecs.bits import from_short, pack, pack_places, rice_bits, to_short, unpack, unpack_places
from clisonix.tide.message import Packed, Refused

SHAPES = [(40, 30), (30,), (5, 3, 3)]
FORMS: list[dict[str, Any]] = [
    {"form": "dense"},
    {"form": "short"},
    {"form": "binary"},
    {"form": "ternary"},
    {"form": "sparse"},
    {"form": "sparse", "bits": 1},
    {"form": "sparse", "bits": 4, "density": 0.2},
    {"form": "lowrank", "bits": 4},
    {"form": "lowrank", "bits": 16, "rank": 2},
]


def draw(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.fixture(params=FORMS, ids=str)
def codec(request: pytest.FixtureRequest) -> Codec:
    return make_codec(CodecSettings.of(request.param), SHAPES)


def test_decoding_gives_the_same_bits_in_another_object(codec: Codec, request: pytest.FixtureRequest) -> None:
    data = codec.encode(draw(codec.size))
    other = make_codec(CodecSettings.of(request.node.callspec.params["codec"]), SHAPES)
    other.absorb(other.encode(draw(codec.size, 5)))
    assert codec.decode(data).tobytes() == other.decode(data).tobytes()


def test_what_is_decoded_is_nearer_than_nothing(codec: Codec) -> None:
    vector = draw(codec.size)
    assert np.square(vector - codec.decode(codec.encode(vector))).sum() < np.square(vector).sum()


def test_zeros_and_tiny_values_survive(codec: Codec) -> None:
    assert not codec.decode(codec.encode(np.zeros(codec.size, np.float32))).any()
    tiny = codec.decode(codec.encode(draw(codec.size) * np.float32(1e-30)))
    assert np.isfinite(tiny).all()
    assert tiny.any()


def test_error_feedback_delivers_everything_in_the_end(codec: Codec) -> None:
    vector, feedback, total = draw(codec.size), Feedback(codec), np.zeros(codec.size)
    for _ in range(400):
        data, left = feedback.encode(vector)
        feedback.settle(data, left)
        total += codec.decode(data)
    assert np.linalg.norm(total / 400 - vector) < 0.15 * np.linalg.norm(vector)
    # What was sent and what is left over are all there was.
    np.testing.assert_allclose(total + feedback.residual, 400.0 * vector, rtol=1e-3, atol=0.05)


def test_an_update_that_was_not_used_leaves_no_trace(codec: Codec) -> None:
    feedback = Feedback(codec)
    feedback.settle(*feedback.encode(draw(codec.size, 1)))
    first = feedback.encode(draw(codec.size, 2))[0]
    feedback.encode(draw(codec.size, 3))
    assert feedback.encode(draw(codec.size, 2))[0] == first


def test_replaying_what_was_sent_gives_the_same_residual(codec: Codec, request: pytest.FixtureRequest) -> None:
    form = request.node.callspec.params["codec"]
    first, second = (Feedback(make_codec(CodecSettings.of(form), SHAPES)) for _ in range(2))
    for seed in range(3):
        data, left = first.encode(draw(codec.size, seed))
        first.settle(data, left)
        second.replay(draw(codec.size, seed), data)
    assert first.residual.tobytes() == second.residual.tobytes()
    assert first.encode(draw(codec.size, 9))[0] == second.encode(draw(codec.size, 9))[0]


def test_damaged_bytes_are_refused_or_decoded_to_finite_numbers(codec: Codec) -> None:
    chance = random.Random(1)
    data = codec.encode(draw(codec.size))
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            damaged = damaged[: chance.randrange(len(damaged))]
        # Anything but a refusal or numbers fails here.
        with contextlib.suppress(Refused):
            assert np.isfinite(codec.decode(bytes(damaged))).all()


def test_another_codec_or_size_is_refused(codec: Codec) -> None:
    data = codec.encode(draw(codec.size))
    for wrong in (Packed("u", "float32", (codec.size,), data, 99), Packed("u", "float32", (3,), data, codec.ident)):
        with pytest.raises(Refused):
            codec.unpack(wrong)


@pytest.mark.parametrize(
    ("form", "most"),
    [
        ({"form": "dense"}, 32.0),
        ({"form": "short"}, 16.0),
        ({"form": "binary"}, 1.01),
        ({"form": "ternary"}, 1.61),
        ({"form": "sparse"}, 0.275),
        ({"form": "sparse", "density": 0.01}, 0.115),
        ({"form": "lowrank", "rank": 4, "bits": 4}, 0.13),
    ],
)
def test_bits_an_entry(form: dict[str, Any], most: float) -> None:
    codec = make_codec(CodecSettings.of(form), [(256, 256)])
    assert 8 * len(codec.encode(draw(256 * 256))) / 256**2 <= most


def test_the_largest_of_each_chunk_are_sent() -> None:
    codec = Sparse([(8192,)], density=0.01, bits=4)
    vector = draw(8192)
    places = np.flatnonzero(codec.decode(codec.encode(vector)))
    assert len(places) == codec.count == 82
    for begin in (0, 4096):
        sizes = np.abs(vector[begin : begin + 4096])
        mine = places[(places >= begin) & (places < begin + 4096)] - begin
        assert sizes[mine].min() >= np.delete(sizes, mine).max()


def test_a_low_rank_update_is_found_and_kept_warm() -> None:
    codec = make_codec(CodecSettings("lowrank", rank=2, bits=16), [(64, 48)])
    vector = (draw(64 * 2).reshape(64, 2) @ draw(2 * 48, 1).reshape(2, 48)).reshape(-1)
    for _ in range(2):
        data = codec.encode(vector)
        codec.absorb(data)
    assert np.linalg.norm(codec.decode(data) - vector) < 0.01 * np.linalg.norm(vector)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40), st.integers(8, 9))
def test_packed_codes_come_back(codes: list[int], bits: int) -> None:
    assert unpack(pack(np.array(codes, np.int64), bits), bits, len(codes)).tolist() == codes


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60))
def test_places_come_back(chosen: set[int]) -> None:
    places = np.array(sorted(chosen))
    low = rice_bits(3001, len(places))
    assert unpack_places(*pack_places(places, low), low, len(places)).tolist() == places.tolist()


@settings(max_examples=60, deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_short_floats_are_within_half_a_step(value: float) -> None:
    back = from_short(to_short(np.array([value])))[0]
    assert abs(back - value) <= max(abs(value) * 2**-8, 1e-38)
    assert to_short(np.array([back])) == to_short(np.array([value]))


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ("spars", "did you mean 'sparse'"),
        ({"form": "sparse", "density": 0.0}, "density is 0.0"),
        ({"form": "sparse", "bits": 16}, "bits is 16"),
        ({"form": "lowrank", "rank": 0}, "rank is 0"),
        ({"forn": "sparse"}, "did you mean 'form'"),
    ],
)
def test_bad_settings_are_one_sentence(given_: Any, sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        CodecSettings.of(given_)
