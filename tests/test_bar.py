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


def test_without_a_terminal_nothing_is_told(capfd):
    with _bar.shown() as told:
        assert told is None
    assert capfd.readouterr() == ("", "")
