"""The whole way: a real fit on real scans, exported, verified on every device, reported."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_relu_suite import demo as module
from keras_relu_suite import devices, errors


@pytest.mark.slow
def test_the_demo(demo):
    folder, printed = demo
    assert sorted(p.name for p in folder.iterdir()) == [
        "model.keras", "model_float32.tflite", "model_int8.tflite", "report.html", "report.json", "test.npz",
    ]  # fmt: skip
    content = json.loads((folder / "report.json").read_text())
    assert content["accuracy"] >= 0.97
    assert [f["accuracy"] > 0.97 for f in content["files"]] == [True, True]
    assert content["training"]["windows"][-1]["sites"][0]["samples"] == 1437
    here = devices.available()
    hosts = [name for name in here if name in devices.HOST]
    for file, verification in zip(content["files"], content["verifications"], strict=True):
        assert verification["holds"] and verification["exit_code"] == 0
        assert {d["name"] for d in verification["devices"]} == set(here)
        assert set(file["latency"]) == set(hosts)  # an emulated device's time is no latency
    lines = content["lines"]
    assert len(lines) == 6 + len(hosts) + (len(here) > len(hosts))
    assert " ".join(" ".join(lines).split()) in " ".join(printed.split())
    page = (folder / "report.html").read_text()
    assert "prelu4" in page and "data:image/png;base64" in page
    assert "[4/4]" in (folder.parent / "said").read_text()


def test_the_digits_are_split_the_same_way_every_time():
    x, y, x_test, y_test = module.digits()
    assert x.shape == (1437, 8, 8, 1) and x_test.shape == (360, 8, 8, 1)
    np.testing.assert_array_equal(x, module.digits()[0])
    assert 0 <= x.min() and x.max() == 1 and set(y_test) == set(range(10))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="Cannot make the folder"):
        module.demo(tmp_path / "file" / "out")


def test_without_scikit_learn_it_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(errors.MissingPackageError, match=r"pip install 'keras-relu-suite\[demo\]'"):
        module.digits()
