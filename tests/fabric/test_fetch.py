"""Fetching recordings: checked, resumed, never half there, and never over what is there."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPMessage
from pathlib import Path
from urllib.request import Request

import numpy as np
import pytest
from loopback import Site, serve
from typer.testing import CliRunner

import clisonix.fabric.bring
from clisonix.cli import app
from clisonix.errors import ClisonixError
from clisonix.fabric.datasets import Archive, Dataset, Listed, dataset, datasets, listing_digest
from clisonix.fabric.download import Download, Patience, SafeRedirects
from clisonix.fabric.fetch import fetch
from clisonix.fabric.wheels import bring_wheel

CONNECT, CREATE, ADDRESSES = socket.socket.connect, socket.create_connection, socket.getaddrinfo
QUICK = Patience(attempts=3, wait_s=0.01, timeout_s=0.5)
BIG = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture(autouse=True)
def loopback(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may be reached here, and no other."""

    def local(address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1", address

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        local(address)
        CONNECT(self, address)

    def create(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        local(address)
        return CREATE(address, *args, **kwargs)  # type: ignore[arg-type]

    def addresses(host: str, *args: object, **kwargs: object) -> object:
        local((host, 0))
        return ADDRESSES(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", create)
    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site({"big.bin": BIG})) as running:
        yield running


@pytest.fixture
def nights(site: Site) -> Dataset:
    """Six small files of three people on the server, with its list of hashes."""
    files = {f"n/P{p}N{n}.edf": f"person {p} night {n}".encode() * 50 for p in range(3) for n in (1, 2)}
    site.files = dict(files)
    site.sums()
    origin = Listed(site.url, "SHA256SUMS.txt", dict.fromkeys(files, 1000), {})
    return Dataset(
        name="nights",
        title="Nights",
        licence="CC0",
        source="here",
        credit="nobody",
        config=None,
        files=6,
        bytes_about=6000,
        origin=origin,
        fields=r"n/P(?P<person>\d)N(?P<night>\d)\.edf",
    )


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def words(site: Site) -> Dataset:
    files = {f"top/recordings/{d}_ann_{t}.wav": f"{d}{t}".encode() * 100 for d in range(2) for t in range(3)}
    site.files["words.zip"] = zipped({**files, "top/README.md": b"credit", "top/evil.py": b"no"})
    listing = listing_digest({n.removeprefix("top/"): hashlib.sha256(b).hexdigest() for n, b in files.items()})
    members = r"[^/]+/(?P<path>recordings/[^/]+\.wav)"
    return Dataset(
        name="words",
        title="Words",
        licence="CC0",
        source="here",
        credit="nobody",
        config=None,
        files=6,
        bytes_about=6000,
        origin=Archive(f"{site.url}words.zip", None, members, r"[^/]+/(?P<path>README\.md)"),
        fields=r"recordings/(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav",
        listing=listing,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def get(site: Site, tmp_path: Path, *, checked: bool = True, name: str = "big.bin") -> bytes:
    download = Download(tmp_path / "x.part", patience=QUICK, checked=checked)
    download(site.url + name, tmp_path / "x")
    assert not (tmp_path / "x.part").exists()
    assert not (tmp_path / "x.part.json").exists()
    return (tmp_path / "x").read_bytes()


def test_a_cut_connection_goes_on_where_it_ended(site: Site, tmp_path: Path) -> None:
    site.cut["big.bin"] = [300_000, 300_000]
    assert get(site, tmp_path) == BIG
    assert [asked for _, asked in site.log] == [None, "bytes=300000-", "bytes=600000-"]


def test_the_next_process_goes_on_where_the_last_one_ended(site: Site, tmp_path: Path) -> None:
    site.cut["big.bin"] = [400_000, 0, 0, 0]
    with pytest.raises(ClisonixError, match=r"400000 bytes are kept, and the same command goes on"):
        get(site, tmp_path)
    site.log.clear()
    site.cut.clear()
    assert get(site, tmp_path) == BIG
    assert [asked for _, asked in site.log] == ["bytes=400000-"]


def test_a_server_that_ignores_range_starts_anew(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cut["big.bin"] = [400_000]
    assert get(site, tmp_path) == BIG


def test_two_versions_are_never_joined(site: Site, tmp_path: Path) -> None:
    site.cut["big.bin"] = [400_000, 0, 0, 0]
    with pytest.raises(ClisonixError):
        get(site, tmp_path)
    site.files["big.bin"] = BIG[::-1]
    site.cut.clear()
    assert get(site, tmp_path) == BIG[::-1]


def test_without_version_or_hash_nothing_is_joined(site: Site, tmp_path: Path) -> None:
    site.tags = False
    site.cut["big.bin"] = [400_000]
    assert get(site, tmp_path, checked=False) == BIG
    assert [asked for _, asked in site.log] == [None, None]


def test_a_part_that_is_complete_is_taken(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(BIG)
    assert get(site, tmp_path) == BIG


def test_a_part_that_is_longer_than_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(BIG + b"more")
    assert get(site, tmp_path) == BIG


def test_a_missing_file_is_told_at_once(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="answered 404"):
        get(site, tmp_path, name="nothing")
    assert len(site.log) == 1


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.answers["big.bin"] = [(503, {"Retry-After": "0"}), (429, {})]
    assert get(site, tmp_path) == BIG


def test_a_server_that_stays_busy_is_given_up(site: Site, tmp_path: Path) -> None:
    site.answers["big.bin"] = [(503, {})] * 3
    with pytest.raises(ClisonixError, match=r"answered 503, 3 times in a row"):
        get(site, tmp_path)


def test_a_silent_server_is_given_up(site: Site, tmp_path: Path) -> None:
    site.pause_s, site.block = 1.0, 10
    site.files["slow"] = b"x" * 20
    quick = Patience(attempts=2, wait_s=0.01, timeout_s=0.1)
    site.cut["slow"] = [0, 0]
    with pytest.raises(ClisonixError, match="2 times in a row"):
        Download(tmp_path / "x.part", patience=quick, checked=True)(site.url + "slow", tmp_path / "x")


def test_a_slow_server_that_goes_on_is_borne_with(site: Site, tmp_path: Path) -> None:
    site.pause_s, site.block = 0.02, 1 << 17
    assert get(site, tmp_path) == BIG


def test_redirects_are_followed_and_keep_the_range(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(BIG[:1000])
    site.answers["here"] = [(302, {"Location": "/big.bin"})]
    assert get(site, tmp_path, name="here") == BIG
    assert site.log[-1] == ("big.bin", "bytes=1000-")


def test_redirects_out_of_http_are_refused(site: Site, tmp_path: Path) -> None:
    site.answers["here"] = [(302, {"Location": "file:///etc/passwd"})]
    with pytest.raises(ClisonixError, match="not allowed"):
        get(site, tmp_path, name="here")
    with pytest.raises(ClisonixError, match="not secure"):
        SafeRedirects().redirect_request(Request("https://a/x"), io.BytesIO(), 302, "", HTTPMessage(), "http://a/x")


def test_no_server_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(ClisonixError, match=r"cannot download .* refused"):
            Download(tmp_path / "x.part", patience=QUICK, checked=True)(url, tmp_path / "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.part").symlink_to("/dev/full")
    with pytest.raises(ClisonixError, match=r"the disk is full: .* goes on from there"):
        get(site, tmp_path)


def test_a_listed_set_arrives_whole(site: Site, nights: Dataset, tmp_path: Path) -> None:
    counts: list[int] = []
    done = fetch(nights, tmp_path, arrived=counts.append, patience=QUICK)
    assert (done.arrived, done.kept) == (6, 0)
    assert "server's own list" in done.notes[0]
    found = content(tmp_path / "nights")
    record = json.loads(found.pop("fetched.json"))
    assert found == {k: v for k, v in site.files.items() if k.endswith(".edf")}
    assert record["sha256"] == {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    assert sum(counts) == sum(len(data) for data in site.files.values())


def test_a_set_that_is_there_is_checked_without_asking_the_server(
    site: Site, nights: Dataset, tmp_path: Path
) -> None:
    fetch(nights, tmp_path, patience=QUICK)
    site.log.clear()
    assert fetch(nights, tmp_path).kept == 6
    assert site.log == []
    (tmp_path / "nights/n/P1N1.edf").write_bytes(b"damaged")
    with pytest.raises(ClisonixError, match=r"P1N1\.edf is there already and is not what the source has"):
        fetch(nights, tmp_path)


def test_a_subset_asks_for_its_files_only(site: Site, nights: Dataset, tmp_path: Path) -> None:
    assert fetch(nights, tmp_path, subset={"person": "0-1", "night": "2"}, patience=QUICK).arrived == 2
    assert {path for path, _ in site.log} == {"SHA256SUMS.txt", "n/P0N2.edf", "n/P1N2.edf"}
    done = fetch(nights, tmp_path, patience=QUICK)
    assert (done.arrived, done.kept) == (4, 2)


def test_a_file_that_is_there_and_differs_is_not_overwritten(nights: Dataset, tmp_path: Path) -> None:
    mine = tmp_path / "nights/n/P1N1.edf"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(ClisonixError, match="move it away"):
        fetch(nights, tmp_path, patience=QUICK)
    assert mine.read_bytes() == b"mine"


def test_a_wrong_hash_puts_nothing_in_place(site: Site, nights: Dataset, tmp_path: Path) -> None:
    site.files["n/P1N1.edf"] = b"something else"
    with pytest.raises(ClisonixError, match=r"P1N1\.edf does not have the SHA-256"):
        fetch(nights, tmp_path, jobs=1, patience=QUICK)
    assert not (tmp_path / "nights/n/P1N1.edf").exists()
    # What came before it stays.
    assert (tmp_path / "nights/n/P0N1.edf").exists()


def test_a_torn_part_is_thrown_away_and_fetched_anew(site: Site, nights: Dataset, tmp_path: Path) -> None:
    part = tmp_path / "nights/.fetch/n/P1N1.edf.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(100))
    assert fetch(nights, tmp_path, patience=QUICK).arrived == 6


def test_a_list_that_is_not_the_pinned_one_stops_everything(site: Site, nights: Dataset, tmp_path: Path) -> None:
    right = listing_digest({p: hashlib.sha256(d).hexdigest() for p, d in site.files.items() if p.endswith(".edf")})
    assert fetch(replace(nights, listing=right), tmp_path / "a", patience=QUICK).notes == ()
    site.files["n/P1N1.edf"] = b"changed with its hash"
    del site.files["SHA256SUMS.txt"]
    site.sums()
    with pytest.raises(ClisonixError, match=r"the set has changed.*nothing was downloaded"):
        fetch(replace(nights, listing=right), tmp_path / "b", patience=QUICK)
    assert content(tmp_path / "b") == {} or not (tmp_path / "b/nights/n").exists()


def test_a_second_opinion_is_heard(site: Site, nights: Dataset, tmp_path: Path) -> None:
    assert isinstance(nights.origin, Listed)
    sha1 = {"n/P0N1.edf": hashlib.sha1(b"another").hexdigest()}
    doubted = replace(nights, origin=replace(nights.origin, sha1=sha1))
    with pytest.raises(ClisonixError, match=r"P0N1\.edf fits the server's own list but not the SHA-1"):
        fetch(doubted, tmp_path, jobs=1, patience=QUICK)
    assert not (tmp_path / "nights/n/P0N1.edf").exists()


def test_a_list_without_a_file_names_it(site: Site, nights: Dataset, tmp_path: Path) -> None:
    lines = site.files["SHA256SUMS.txt"].decode().splitlines()
    site.files["SHA256SUMS.txt"] = "\n".join(line for line in lines if "P2N1" not in line).encode()
    with pytest.raises(ClisonixError, match=r"does not name n/P2N1\.edf"):
        fetch(nights, tmp_path, patience=QUICK)


def test_a_page_instead_of_a_list_is_refused(site: Site, nights: Dataset, tmp_path: Path) -> None:
    site.files["SHA256SUMS.txt"] = b"<html>please sign in</html>"
    with pytest.raises(ClisonixError, match="not a list of SHA-256 sums"):
        fetch(nights, tmp_path, patience=QUICK)


def test_an_archive_is_unpacked_checked_and_its_hash_recorded(site: Site, words: Dataset, tmp_path: Path) -> None:
    done = fetch(words, tmp_path, patience=QUICK)
    assert (done.arrived, done.kept) == (7, 0)
    assert "no hash is published" in done.notes[0]
    found = content(tmp_path / "words")
    record = json.loads(found.pop("fetched.json"))["sha256"]
    assert record.pop(".archive.zip") == hashlib.sha256(site.files["words.zip"]).hexdigest()
    assert set(record) == set(found) == {*(f"recordings/{d}_ann_{t}.wav" for d in "01" for t in "012"), "README.md"}
    site.log.clear()
    assert fetch(words, tmp_path, patience=QUICK).arrived == 0
    assert site.log == []


def test_the_recorded_hash_of_an_archive_is_held_to(site: Site, words: Dataset, tmp_path: Path) -> None:
    fetch(words, tmp_path, subset={"digit": "0"}, patience=QUICK)
    site.files["words.zip"] += b"changed"
    with pytest.raises(ClisonixError, match="does not have the SHA-256"):
        fetch(words, tmp_path, patience=QUICK)


def test_members_that_are_not_the_pinned_ones_stay_out(site: Site, words: Dataset, tmp_path: Path) -> None:
    site.files["words.zip"] = zipped({"top/recordings/0_ann_0.wav": b"other"})
    with pytest.raises(ClisonixError, match="are not those that were checked"):
        fetch(words, tmp_path, patience=QUICK)
    assert not (tmp_path / "words/recordings").exists()


def test_a_path_that_leads_out_is_refused(site: Site, words: Dataset, tmp_path: Path) -> None:
    assert isinstance(words.origin, Archive)
    site.files["words.zip"] = zipped({"top/../../out.wav": b"x"})
    loose = replace(words, origin=replace(words.origin, members=r"top/(?P<path>.*)"))
    with pytest.raises(ClisonixError, match="leads out of its folder"):
        fetch(loose, tmp_path, patience=QUICK)


def test_an_archive_that_is_none_is_told(site: Site, words: Dataset, tmp_path: Path) -> None:
    right, site.files["words.zip"] = site.files["words.zip"], b"<html>"
    with pytest.raises(ClisonixError, match="not a whole zip file"):
        fetch(words, tmp_path, patience=QUICK)
    site.files["words.zip"] = right
    assert fetch(words, tmp_path, patience=QUICK).arrived == 7


def test_one_process_at_a_time(nights: Dataset, tmp_path: Path) -> None:
    (tmp_path / "nights").mkdir()
    handle = os.open(tmp_path / "nights", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ClisonixError, match="another process is fetching nights"):
        fetch(nights, tmp_path, patience=QUICK)
    os.close(handle)
    assert fetch(nights, tmp_path, patience=QUICK).arrived == 6


def test_too_little_room_is_told_before_the_download(site: Site, nights: Dataset, tmp_path: Path) -> None:
    assert isinstance(nights.origin, Listed)
    huge = replace(nights, origin=replace(nights.origin, about={"n/P0N1.edf": 1 << 60}))
    with pytest.raises(ClisonixError, match="MB are free"):
        fetch(huge, tmp_path, patience=QUICK)
    assert {path for path, _ in site.log} == {"SHA256SUMS.txt"}


def test_killed_anywhere_it_goes_on(site: Site, tmp_path: Path) -> None:
    site.block, site.pause_s = 20_000, 0.02
    part = tmp_path / "x.part"
    code = (
        "import sys; from pathlib import Path; from clisonix.fabric.download import Download, Patience\n"
        f"Download(Path({str(part)!r}), patience=Patience(), checked=True)"
        f"({site.url + 'big.bin'!r}, {str(tmp_path / 'x')!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    site.pause_s = 0
    had = part.stat().st_size
    assert get(site, tmp_path) == BIG
    assert site.log[-1][1] == f"bytes={had}-"


def test_one_failure_stops_the_others(site: Site, nights: Dataset, tmp_path: Path) -> None:
    for path in list(site.files)[1:6]:
        site.files[path] = bytes(2_000_000)
    site.block, site.pause_s = 1000, 0.01
    site.answers["n/P0N1.edf"] = [(404, {})]
    begin = time.monotonic()
    with pytest.raises(ClisonixError, match="404"):
        fetch(nights, tmp_path, jobs=3, patience=QUICK)
    assert time.monotonic() - begin < 5
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_without_pooch_the_extra_is_named(nights: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ClisonixError, match=r"pip install 'clisonix\[data\]'"):
        fetch(nights, tmp_path, patience=QUICK)


@pytest.mark.parametrize("entry", datasets(), ids=lambda d: d.name)
def test_every_set_of_the_registry_makes_sense(entry: Dataset) -> None:
    assert entry.licence
    assert entry.source.startswith("https://")
    if isinstance(entry.origin, Listed):
        assert entry.origin.base.startswith("https://")
        assert entry.origin.base.endswith("/")
        assert all(entry.is_member(path) for path in entry.origin.about)
        assert len(entry.origin.about) == entry.files
        count, size = entry.expect(entry.select({}))
        assert count == entry.files
        assert 0.85 < size / entry.bytes_about < 1.15
        assert entry.listing or len(entry.origin.sha1) == entry.files
    else:
        assert entry.origin.url.startswith(("https://", "pip:"))
        assert entry.origin.hash or (entry.listing and not entry.origin.url.startswith("pip:"))
    if entry.config is not None:
        assert (Path(__file__).parents[2] / entry.config).is_file()


def test_subsets_are_counted_before_the_download() -> None:
    sleep = dataset("sleep_edf")
    assert sleep.expect(sleep.select({"subject": "0-1,36", "night": "1"}))[0] == 4
    runs = dataset("eegmmidb")
    assert runs.expect(runs.select({"run": "4,8,12"}))[0] == 327


@pytest.mark.parametrize(
    ("subset", "hint"),
    [
        ({"person": "1"}, "no field 'person'"),
        ({"subject": "5-2"}, "backwards"),
        ({"subject": "1,,2"}, "names no values"),
    ],
)
def test_a_subset_that_means_nothing_is_told(subset: dict[str, str], hint: str) -> None:
    with pytest.raises(ClisonixError, match=hint):
        dataset("sleep_edf").select(subset)


def test_the_fetched_watch_set_is_what_its_recipe_reads(site: Site, tmp_path: Path) -> None:
    table = Path(pytest.importorskip("seglearn").__file__).parent / "data/watch_dataset.npy"
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as wheel:
        wheel.write(table, "seglearn/data/watch_dataset.npy")
        wheel.writestr("seglearn-1.2.5.dist-info/LICENSE", "BSD")
    site.files["w.whl"] = packed.getvalue()
    watch = dataset("watch_imu")
    assert isinstance(watch.origin, Archive)
    origin = replace(
        watch.origin, url=f"{site.url}w.whl", hash=f"sha256:{hashlib.sha256(site.files['w.whl']).hexdigest()}"
    )
    done = fetch(replace(watch, origin=origin), tmp_path, patience=QUICK)
    assert done.notes == ()

    from clisonix.train import load_config
    from clisonix.train.recordings import open_recordings

    assert watch.config is not None
    recipe = load_config(Path(__file__).parents[2] / watch.config, ())
    recordings = open_recordings(recipe.data, tmp_path)
    assert len(recordings) == 140
    assert {len(s.samples) for r in recordings for s in r.streams.values()} == {3}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in a folder, which is where pip looks."""
    wheel = tmp_path / "offered" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("tiny/data.txt", "recorded")
        content.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        content.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def test_a_wheel_comes_from_where_pip_looks(tiny: Path, tmp_path: Path) -> None:
    expected = hashlib.sha256(tiny.read_bytes()).hexdigest()
    there = bring_wheel("pip:tiny==1.0", tmp_path, expected)
    assert zipfile.ZipFile(there).read("tiny/data.txt") == b"recorded"
    tiny.unlink()
    assert bring_wheel("pip:tiny==1.0", tmp_path, expected) == there  # not asked for again


@pytest.mark.parametrize(("wanted", "hint"), [("tiny==1.0", "does not have the SHA-256"), ("tiny==2.0", "could not")])
def test_a_wrong_wheel_is_told_and_not_kept(tiny: Path, wanted: str, hint: str, tmp_path: Path) -> None:
    assert tiny.exists()
    with pytest.raises(ClisonixError, match=hint):
        bring_wheel(f"pip:{wanted}", tmp_path, 64 * "0")
    assert not (tmp_path / "wheel.zip").exists()


def test_the_command_shows_licence_and_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLISONIX_DATA", raising=False)
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["data", "list", "--json"]).stdout)
    assert listed["fsdd"]["licence"] == "CC BY-SA 4.0"
    nowhere = runner.invoke(app, ["data", "fetch", "fsdd"])
    assert "give --to DIR, or set CLISONIX_DATA" in str(nowhere.exception)
    unasked = runner.invoke(app, ["data", "fetch", "fsdd", "--to", str(tmp_path)])
    assert "--yes" in str(unasked.exception)
    for word in ("CC BY-SA 4.0", "https://github.com", "about 17 MB"):
        assert word in unasked.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_fetches(nights: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clisonix.fabric.datasets.datasets", lambda: (nights,))
    runner = CliRunner()
    args = ["data", "fetch", "nights", "--yes", "--subset", "person=1", "--json"]
    done = runner.invoke(app, args, env={"CLISONIX_DATA": str(tmp_path)})
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["arrived"] == 2
    assert clisonix.fabric.bring.RECORD in content(tmp_path / "nights")
