"""Progress: what the export tells, and a line on a terminal that is gone in the end; silence everywhere else."""

from __future__ import annotations

import os
import sys

import pytest

import keras_relu_suite as krs
from keras_relu_suite import _bar, _stderr


@pytest.mark.parametrize(
    ("ranges", "steps"), [("minmax", ["calibrate"]), ("percentile", ["calibrate", "measure ranges"])]
)
def test_export_tells_how_far_it_is(chain, data, tmp_path, capfd, ranges, steps):
    heard = []
    options = {"mode": "int8", "calibration": data, "ranges": ranges, "batch_size": 4}
    told = krs.export(chain, tmp_path / "a.tflite", **options, progress=lambda *news: heard.append(news))
    for what in steps:
        counts = [(done, total) for name, done, total in heard if name == what]
        assert counts == [(i, len(data) // 4) for i in range(len(data) // 4 + 1)]
    order = ["measure activations", "convert", *steps, "lower"]
    assert list(dict.fromkeys(name for name, _, _ in heard)) == order
    capfd.readouterr()
    assert told.sha256 == krs.export(chain, tmp_path / "b.tflite", **options).sha256
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_it_even_while_the_converter_is_silenced(monkeypatch):
    main, end = os.openpty()
    with open(end, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("CI", raising=False)
        with _bar.shown() as told, _stderr.silent():
            told("measure", 0, 0)
            for i in range(8):
                told("calibrate", i, 7)
        os.write(end, b"END")
        seen = b""
        while not seen.endswith(b"END"):
            seen += os.read(main, 65536)
    os.close(main)
    assert b"calibrate" in seen and b"7/7" in seen
    assert b"\x1b[2K" in seen[seen.rindex(b"7/7") :], "the line is not wiped at the end"


def drawn(monkeypatch, *news):
    """What a terminal is shown."""
    main, end = os.openpty()
    with open(end, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("CI", raising=False)
        with _bar.shown() as told:
            for one in news:
                told(*one)
        os.write(end, b"END")
        seen = b""
        while not seen.endswith(b"END"):
            seen += os.read(main, 65536)
    os.close(main)
    return seen.decode()


def test_work_goes_on_under_another_name_and_begins_anew_at_0(monkeypatch):
    from rich.progress import Progress

    begun = []
    real = Progress.reset
    monkeypatch.setattr(Progress, "reset", lambda self, *a, **k: (begun.append(1), real(self, *a, **k))[1])
    seen = drawn(monkeypatch, ("relu: train", 0, 5), ("relu: export", 1, 5), ("elu: train", 2, 5))
    assert len(begun) == 1 and "elu: train" in seen and "2/5" in seen
    drawn(monkeypatch, ("calibrate", 0, 3), ("calibrate", 3, 3), ("measure", 0, 3))
    assert len(begun) == 3


def test_without_a_terminal_nothing_is_told(capfd):
    with _bar.shown() as told:
        assert told is None
    assert capfd.readouterr() == ("", "")
