"""From file names and archives to recordings that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from clisonix.errors import ClisonixError
from clisonix.train.config import DataConfig, SplitConfig, load_config
from clisonix.train.recordings import class_labels, open_recordings, split_recordings

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CSV = "x,m\n" + "".join(f"{i},{int(i in (10, 30))}\n" for i in range(50))


def data(**streams: dict[str, object]) -> DataConfig:
    return DataConfig.model_validate(
        {"streams": streams, "label": "subject", "window": {"length_s": 1.0}, "split": {"by": "subject", "fold": 0}}
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for subject in ("ann", "bob"):
        for take in (1, 2):
            soundfile.write(tmp_path / f"{subject}-{take}.wav", np.zeros(8000, np.float32), 8000)
            (tmp_path / f"{take}_{subject}.csv").write_text(CSV)
    return tmp_path


AUDIO: dict[str, object] = {"reader": "audio", "files": "*.wav", "name": "{subject}-{take}"}
TABLE: dict[str, object] = {
    "reader": "csv", "files": "*.csv", "name": "{take}_{subject}", "channels": ["x"], "rate_hz": 50, "marker": "m",
}  # fmt: skip


def test_streams_with_equal_fields_are_one_recording(root: Path) -> None:
    found = open_recordings(data(audio=AUDIO, table=TABLE), root)
    assert len(found) == 4
    for recording in found:
        assert set(recording.streams) == {"audio", "table"}
        assert [e.time_s for e in recording.events] == [0.2, 0.6]
    assert {tuple(sorted(r.fields.items())) for r in found} == {
        (("subject", s), ("take", t)) for s in ("ann", "bob") for t in (1, 2)
    }
    assert class_labels(found, around_events=False) == ["ann", "bob"]


def test_names_of_files_do_not_name_recordings(root: Path) -> None:
    assert all("ann" not in r.name for r in open_recordings(data(audio=AUDIO), root))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({**AUDIO, "files": "*.flac"}, r"no file below .* matches '\*\.flac'"),
        ({**AUDIO, "name": "{subject}_{take}"}, "does not fit the pattern"),
        ({**AUDIO, "name": "{subject}-1", "files": "*-1.wav"}, None),
        ({**AUDIO, "name": "{other}-{take}"}, "no field 'subject'"),
    ],
)
def test_patterns(root: Path, source: dict[str, object], sentence: str | None) -> None:
    if sentence is None:
        assert len(open_recordings(data(audio=source), root)) == 2
        return
    with pytest.raises(ClisonixError, match=sentence):
        open_recordings(data(audio=source), root)


def test_two_files_with_the_same_fields_are_refused(root: Path) -> None:
    (root / "again").mkdir()
    soundfile.write(root / "again/ann-1.wav", np.zeros(100, np.float32), 8000)
    with pytest.raises(ClisonixError, match="have the same fields"):
        open_recordings(data(audio={**AUDIO, "files": "**/*.wav"}), root)


def test_no_data_root_is_one_sentence() -> None:
    with pytest.raises(ClisonixError, match="give --data DIR or set CLISONIX_DATA"):
        open_recordings(data(audio=AUDIO), None)


def test_splits(root: Path) -> None:
    found = open_recordings(data(audio=AUDIO), root)

    def split(**options: object) -> tuple[set[object], set[object]]:
        train, test = split_recordings(found, SplitConfig.model_validate({"by": "take", **options}))
        return {r.fields["take"] for r in train}, {r.fields["take"] for r in test}

    assert split(test=[2]) == ({1}, {2})
    assert split(fold=0) == ({2}, {1})
    assert split(folds=2, fold=1) == ({1}, {2})
    for options, sentence in (
        ({"test": [3]}, "no recording has take 3"),
        ({"fold": 2}, "fold 2 of 2 does not exist"),
        ({"test": [1, 2]}, "leaves 0 recordings to train on"),
        ({"by": "tkae"}, "no field 'tkae'; did you mean 'take'"),
    ):
        with pytest.raises(ClisonixError, match=sentence):
            split(**options)


def test_embedded_split_holds_people_out() -> None:
    config = load_config(CONFIGS / "quickstart.yaml")
    found = open_recordings(config.data, None)
    assert len(found) == 140
    for fold in range(5):
        train, test = split_recordings(found, config.data.split.model_copy(update={"fold": fold}))
        people = [{r.fields["subject"] for r in side} for side in (train, test)]
        assert not people[0] & people[1]
        assert (len(people[0]), len(people[1])) == (8, 2)


@pytest.mark.parametrize(("name", "recordings", "classes"), [("watch", 140, 7), ("ssvep", 6, 2), ("fsdd", 1200, 10)])
def test_provided_configs_read_their_recordings(data_root: Path, name: str, recordings: int, classes: int) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    found = open_recordings(config.data, data_root)
    assert len(found) == recordings
    assert len(class_labels(found, config.data.window.around == "events")) == classes
