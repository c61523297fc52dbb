"""Prometheus reads the meter's figures, from this machine only, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from meter_fakes import ExactCounter, TickingCounter, World, cpu_model, sampled
from prometheus_client.parser import text_string_to_metric_families
from virtual_meter import virtual_meter

from clisonix.errors import ClisonixError
from clisonix.meter import Meter, MetricsServer, Unavailable, serve_metrics
from clisonix.meter.following import metrics_server
from clisonix.meter.following.exposition import Exposition, escape

CONNECT = socket.socket.connect
Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(autouse=True)
def loopback(no_network: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine may be reached here, and no other."""

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1", address
        CONNECT(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(0.5)
    assert not [thread for thread in left if thread.is_alive()]


def ask(server: MetricsServer, path: str = "/metrics", host: str | None = None, verb: str = "GET") -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", server.port)
    with socket.socket() as connection.sock:
        connection.sock.settimeout(5)
        connection.sock.connect(("127.0.0.1", server.port))
        connection.request(verb, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        answer.body = answer.read().decode()  # type: ignore[attr-defined]
    return answer


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge"), family.name
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def one(found: Samples, name: str, **labels: str) -> float:
    (value,) = [v for told, v in found.get(name, []) if labels.items() <= told.items()]
    return value


def test_every_figure_with_its_labels() -> None:
    world = World()
    gpu = TickingCounter(world)
    gpu.parameters["uuid"] = "GPU-aaaa"
    away = Unavailable("rapl", "the file may only be read by root", code="permission")
    meter, recorder = virtual_meter(world, [gpu, cpu_model(world)], place="FRA", unavailable=[away])
    with recorder.window("train/dense/epoch-1"):
        sampled(world, recorder, 3.0, 300.0)
    with recorder.window("evaluate"):
        sampled(world, recorder, 2.0, 300.0)
        with serve_metrics(meter) as server:
            answer = ask(server)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.body)  # type: ignore[attr-defined]
    live = meter.live()
    labels = {"device": "gpu:0", "source": "nvml-counter", "scope": "GPU board", "uuid": "GPU-aaaa"}
    assert one(found, "clisonix_energy_joules_total", **labels) == live.devices[0].energy.joules
    assert one(found, "clisonix_energy_joules_low", **labels) == live.devices[0].energy.low
    assert one(found, "clisonix_energy_joules_high", **labels) == live.devices[0].energy.high
    assert one(found, "clisonix_energy_seconds_total", **labels) == pytest.approx(5.0)
    assert one(found, "clisonix_power_watts", **labels) == pytest.approx(300.0, rel=0.02)
    assert one(found, "clisonix_power_watts", source="cpu-time-model") == pytest.approx(3.1)
    assert one(found, "clisonix_window_joules", window="train/dense") == pytest.approx(909.3, rel=0.02)
    assert one(found, "clisonix_window_seconds", window="train/dense") == pytest.approx(3.0)
    assert [one(found, "clisonix_window_open", window=name) for name in ("train/dense", "evaluate")] == [0.0, 1.0]
    low, middle, high = (one(found, f"clisonix_co2e_grams{end}", place="FRA") for end in ("_low", "", "_high"))
    assert 0 < low < middle < high
    assert one(found, "clisonix_sensor_unavailable", sensor="rapl", reason="permission") == 1.0


def test_what_is_unknown_has_no_line() -> None:
    world = World()
    gpu = TickingCounter(world)
    meter, recorder = virtual_meter(world, [gpu])
    page = Exposition(meter)
    assert "clisonix_power_watts" not in samples(page.text())
    assert "clisonix_co2e_grams" not in samples(page.text())
    sampled(world, recorder, 3.0, 300.0)
    gpu.failure = "the GPU is lost"
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 300.0)
    found = samples(Exposition(meter).text())
    assert one(found, "clisonix_energy_joules_total", device="gpu:0") > 0
    assert "clisonix_power_watts" not in found
    assert "clisonix_window_joules" not in found
    assert one(found, "clisonix_window_seconds", window="w") > 0
    assert one(found, "clisonix_sensor_unavailable", device="gpu:0", reason="driver-error") == 1.0
    nothing, _ = virtual_meter(world, [], unavailable=[Unavailable("nvml", "no driver", code="no-driver")])
    found = samples(Exposition(nothing).text())
    assert [name for name in found if "joules" in name or "watts" in name] == []
    assert one(found, "clisonix_sensor_unavailable", reason="no-driver") == 1.0


def test_counters_never_fall_and_no_device_is_counted_twice() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [ExactCounter(world), cpu_model(world)])
    page, before = Exposition(meter), -1.0
    for _ in range(5):
        sampled(world, recorder, 1.0, 100.0)
        ((labels, joules),) = samples(page.text())["clisonix_energy_joules_total"]
        assert labels["source"] == "rapl-counter"
        assert joules > before
        before = joules


def test_a_long_run_makes_no_more_series() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [ExactCounter(world)])
    for k in range(30):
        with recorder.window(f"train/dense/epoch-{k}"):
            sampled(world, recorder, 0.2, 100.0)
    seconds = samples(Exposition(meter).text())["clisonix_window_seconds"]
    assert seconds == [({"window": "train/dense"}, pytest.approx(6.0))]
    whole = samples(Exposition(meter, levels=None, most=10).text())
    assert len(whole["clisonix_window_seconds"]) == 10
    assert whole["clisonix_windows_left_out"] == [({}, 20.0)]


def test_labels_are_escaped() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [ExactCounter(world)])
    name = 'a\\n"b"\nc {é}'
    with recorder.window(name):
        sampled(world, recorder, 1.0, 100.0)
    assert one(samples(Exposition(meter).text()), "clisonix_window_seconds", window=name) == pytest.approx(1.0)
    assert escape('\\"\n') == '\\\\\\"\\n'


def test_figures_of_windows_cost_a_hundredth_of_a_core_at_most() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [ExactCounter(world)])
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 100.0)
    page, calls = Exposition(meter), []
    trace = meter.trace

    def slow(*, fresh: bool = True):
        calls.append(time.perf_counter())
        time.sleep(0.002)
        return trace(fresh=fresh)

    meter.trace = slow  # type: ignore[method-assign]
    end_s = time.perf_counter() + 0.5
    while time.perf_counter() < end_s:
        page.text()
    assert len(calls) <= 3


def test_only_this_machine_may_ask() -> None:
    with pytest.raises(ClisonixError, match=r"'0\.0\.0\.0' would open them to others"):
        serve_metrics(Meter([]), host="0.0.0.0")
    with pytest.raises(ClisonixError, match="port 70000"):
        serve_metrics(Meter([]), 70000)
    with serve_metrics(Meter([]), host="localhost") as server:
        assert server._server is not None
        assert server._server.socket.getsockname() == ("127.0.0.1", server.port)
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        assert ask(server, host="evil.example").status == 403
        assert ask(server, host=f"localhost:{server.port}").status == 200
        assert ask(server, "/secrets").status == 404
        assert ask(server, "/metrics?x=1").status == 200
        assert ask(server, verb="POST").status == 501
        head = ask(server, verb="HEAD")
        assert (head.status, head.body) == (200, "")  # type: ignore[attr-defined]
        assert "Python" not in (head.headers["Server"] or "")


def test_a_figure_that_fails_is_told_to_the_scraper() -> None:
    meter = Meter([])
    meter.live = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    with serve_metrics(meter) as server:
        answer = ask(server)
        assert answer.status == 500
        assert "ZeroDivisionError" in answer.body  # type: ignore[attr-defined]
        assert ask(server, "/other").status == 404


def test_it_ends_at_once_and_gives_the_port_back() -> None:
    with serve_metrics(Meter([])) as server:
        with pytest.raises(ClisonixError, match=f"port {server.port} of 127.0.0.1 cannot be used"):
            serve_metrics(Meter([]), server.port).__enter__()
        began_s = time.perf_counter()
    assert time.perf_counter() - began_s < 0.5
    server.close()
    with serve_metrics(Meter([]), server.port) as again:
        assert ask(again).status == 200
    with pytest.raises(ClisonixError, match="used before"):
        again.__enter__()
    with pytest.raises(ConnectionRefusedError):
        ask(again)


def test_a_silent_client_does_not_keep_it_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Answer, "timeout", 0.1)
    with serve_metrics(Meter([])) as server, socket.socket() as silent:
        silent.connect(("127.0.0.1", server.port))
        time.sleep(0.05)
        began_s = time.perf_counter()
        server.close()
    assert time.perf_counter() - began_s < 2.0


def test_a_forked_child_neither_ends_it_nor_keeps_the_port() -> None:
    reading, writing = os.pipe()
    with serve_metrics(Meter([])) as server:
        child = os.fork()
        if child == 0:
            server.close()
            os.read(reading, 1)
            os._exit(0)
        time.sleep(0.05)
        assert ask(server).status == 200
    with pytest.raises(ConnectionRefusedError):
        ask(server)
    with serve_metrics(Meter([]), server.port) as again:
        assert ask(again).status == 200
    os.write(writing, b"x")
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_it_serves_a_running_meter_and_figures_stand_after_its_end() -> None:
    with Meter() as meter, serve_metrics(meter) as server:
        with meter.window("work"):
            sum(range(300_000))
        during = samples(ask(server).body)  # type: ignore[attr-defined]
        assert "clisonix_energy_joules_total" in during
    after = samples(Exposition(meter).text())
    assert one(after, "clisonix_window_open", window="work") == 0.0
    for _, joules in after["clisonix_window_joules"]:
        assert joules > 0
