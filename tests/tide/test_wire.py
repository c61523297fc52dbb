"""What comes from outside is read only if it is whole, bounded, authentic and new."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.tide.message import Kind, Limits, Message, Packed, Refused, read_body
from clisonix.tide.wire import Wire

KEY = bytes(range(32))
ROOT = "ab" * 32


def update(sender: str = "site", size: int = 40) -> Message:
    fields = {"start": 3, "stop": 5, "weight": 2.0, "held": 1, "root": ROOT}
    values = np.arange(size, dtype=np.float32)
    return Message(
        Kind.UPDATE, sender, 7, 2, fields, (Packed.raw("update", values), Packed("b", "uint8", (9,), b"xy", 5))
    )


def pair(**limits: int) -> tuple[Wire, Wire]:
    return Wire({"hub": KEY}), Wire({"site": KEY}, Limits(**limits))


def reason(wire: Wire, data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        wire.open(data)
    return caught.value.reason


def test_a_message_arrives_as_it_was_sent() -> None:
    site, hub = pair()
    sent = update()
    assert hub.open(site.seal(sent, "hub")) == sent
    assert read_body(sent.body) == sent


def test_without_keys_damage_is_still_noticed() -> None:
    data = bytearray(Wire().seal(update(), "hub"))
    assert Wire().open(bytes(data)) == update()
    data[60] ^= 1
    assert reason(Wire(), bytes(data)) == "tampered"


def test_every_flipped_bit_is_refused() -> None:
    site, hub = pair()
    data = site.seal(update(size=4), "hub")
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(Refused):
            hub.open(bytes(damaged))
    assert hub.refused.total() == 8 * len(data)


def test_who_has_no_key_or_another_is_refused() -> None:
    _, hub = pair()
    assert reason(hub, Wire({"hub": KEY}).seal(update("stranger"), "hub")) == "unauthenticated"
    assert reason(hub, Wire({"hub": KEY[::-1]}).seal(update(), "hub")) == "tampered"
    assert reason(hub, Wire().seal(update(), "hub")) == "tampered"


def test_a_message_counts_once_even_out_of_order() -> None:
    site, hub = pair()
    first, second = (site.seal(update(), "hub") for _ in range(2))
    hub.open(second)
    hub.open(first)
    assert reason(hub, first) == "replayed"
    assert reason(hub, second) == "replayed"


def test_a_message_from_long_ago_is_refused() -> None:
    site, hub = pair()
    old = site.seal(update(), "hub")
    for _ in range(Wire.WINDOW + 1):
        hub.open(site.seal(Message(Kind.JOIN, "site", fields={"damaged": 0}), "hub"))
    assert reason(hub, old) == "replayed"


def test_sizes_are_bounded_before_anything_is_allocated() -> None:
    site, hub = pair(message_bytes=500, decoded_bytes=1000)
    assert reason(hub, site.seal(update(size=200), "hub")) == "oversized"
    huge = Message(Kind.TREE, "site", tensors=(Packed("tree", "float64", (2**31, 2**31), b"", 5),))
    tracemalloc.start()
    assert reason(hub, site.seal(huge, "hub")) == "oversized"
    assert tracemalloc.get_traced_memory()[1] < 10**5
    tracemalloc.stop()


def test_another_version_is_named() -> None:
    site, hub = pair()
    data = bytearray(site.seal(update(), "hub"))
    data[4] = 9
    assert reason(hub, bytes(data)) == "version"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"start": -1},
        {"weight": 0.0},
        {"root": "xyz"},
        {"stop": 1.5},
        {"held": True},
        {"more": 1},
        {"start": 2**64},
    ],
)
def test_fields_of_another_form_are_refused(fields: dict[str, object]) -> None:
    whole = dict(update().fields)
    message = Message(Kind.UPDATE, "site", 1, 1, {**whole, **fields} if fields else {})
    assert reason(Wire(), Wire().seal(message, "hub")) == "malformed"


def test_thousands_of_mutated_bodies_are_refused_or_read_but_never_crash() -> None:
    draw = random.Random(0)
    body = update().body
    tracemalloc.start()
    outcomes = set()
    for _ in range(5000):
        mutated = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            kind = draw.randrange(4)
            at = draw.randrange(len(mutated))
            if kind == 0:
                mutated[at] = draw.randrange(256)
            elif kind == 1:
                del mutated[at : at + draw.randint(1, 20)]
            elif kind == 2:
                mutated[at:at] = draw.randbytes(draw.randint(1, 20))
            else:
                mutated[at : at + 4] = b"\xff" * 4
            if not mutated:
                break
        try:
            read_body(bytes(mutated))
            outcomes.add("read")
        except Refused as error:
            outcomes.add(error.reason)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 10**6
    assert {"malformed", "version", "read"} <= outcomes


def test_a_deeply_nested_field_does_not_exhaust_the_stack() -> None:
    message = update()
    fields = b"[" * 100_000
    object.__setattr__(message, "fields", {})
    empty = Message(message.kind, message.sender, 7, 2).body
    body = empty[:-6] + len(fields).to_bytes(4, "little") + bytes(2) + fields
    with pytest.raises(Refused):
        read_body(body)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ClisonixError, match="too short"):
        Wire({"hub": b"secret"})
