"""Which folder of `src/` may use which is checked, and the check can fail."""

import shutil
from pathlib import Path

import pytest

from tests.layers import ARCHITECTURE, wrong
from tests.nat import ROOT


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    (tmp_path / ARCHITECTURE).parent.mkdir()
    shutil.copy(ROOT / ARCHITECTURE, tmp_path / ARCHITECTURE)
    return tmp_path


def test_the_layers_are_as_drawn(copy):
    assert list(wrong(copy)) == []


@pytest.mark.parametrize(
    "line",
    [
        "use crate::commands::report::exit;",
        "fn spoil() { crate::commands::report::exit::DONE; }",
        "use crate::{aws, commands};",
    ],
)
def test_a_lower_layer_that_uses_a_higher_one_is_named(copy, line):
    ping = copy / "src/probes/ping.rs"
    ping.write_text(f"{ping.read_text()}\n{line}\n")
    [fault] = wrong(copy)
    assert fault.startswith("src/probes/ping.rs uses ")
    assert "probes may not" in fault


def test_the_drawing_names_the_folders_that_there_are(copy):
    (copy / "src/peers").mkdir()
    shutil.rmtree(copy / "src/tables")
    assert [fault.split(" the table")[0] for fault in wrong(copy)][:2] == [
        "peers is in src/ and not in",
        "tables is not in src/ and is in",
    ]
