from __future__ import annotations

import logging

import pytest

from fletching.progress import progress_bar, track


def test_track_yields_every_item_in_order() -> None:
    assert list(track(iter("abc"), desc="Reading")) == ["a", "b", "c"]


def test_track_is_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    list(track(range(3), desc="Reading"))
    assert capfd.readouterr() == ("", "")


def test_track_draws_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    list(track(range(3), desc="Reading", show=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "Reading" in err
    assert "3/3" in err


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("terminal", [True, False])
def test_track_decides_by_log_level_and_terminal(
    level: int,
    terminal: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(level, logger="fletching")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    list(track(range(3), desc="Reading"))
    assert ("Reading" in capfd.readouterr().err) is (terminal and level == logging.INFO)


def test_progress_bar_counts_steps(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(64, "Ranking", show=True) as advance:
        advance(32)
    assert "32/64" in capfd.readouterr().err


def test_progress_bar_takes_an_unknown_total(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(None, "Ranking", show=True) as advance:
        advance(5)
    assert "5/?" in capfd.readouterr().err
