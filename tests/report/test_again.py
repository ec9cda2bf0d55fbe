"""`krs report FILE.json`: the same page again, and one line for what is no report."""

from __future__ import annotations

import json

import pytest
from json_keys import spoilt

from keras_relu_suite import cli, errors, report
from keras_relu_suite.report import schema


@pytest.fixture(scope="module")
def saved(held, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return held.save(folder / "v.json"), held.save(folder / "new.html")


def krs(capfd, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["krs", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    return done.value.code, *capfd.readouterr()


def test_the_same_bytes(capfd, saved, tmp_path):
    source, page = saved
    code, out, err = krs(capfd, "report", source, tmp_path / "again.html")
    assert (code, err) == (0, "") and out.strip() == str(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    copy = tmp_path / "copy.json"
    copy.write_bytes(source.read_bytes())
    code, out, _ = krs(capfd, "report", copy)
    assert code == 0 and copy.with_suffix(".html").read_bytes() == page.read_bytes()


def test_a_failing_report_is_drawn_as_failing(failed, tmp_path):
    source = failed.save(tmp_path / "f.json")
    page = report.redraw(source)
    assert page.read_text() == report.html(failed.to_dict()) and "FAILS" in page.read_text()


def test_a_run_of_the_demo(run, tmp_path):
    (tmp_path / "report.json").write_text(report.as_json(run))
    assert report.redraw(tmp_path / "report.json").read_text() == report.html(run)


def mistakes(saved):
    text = saved[0].read_text()
    content = json.loads(text)
    sketch = content["sketches"][0]

    def but(**changes):
        return json.dumps({**content, **changes})

    def sketched(**changes):
        return but(sketches=[{**sketch, **changes}])

    return {
        "truncated": (text[: len(text) // 2], "is cut off"),
        "empty": ("", "is not JSON"),
        "no JSON": ("# README", "is not JSON"),
        "too deep": ("[" * 100_000, "is not JSON"),
        "NaN": (text.replace('"size": ', '"size": NaN, "x": ', 1), "NaN is not JSON"),
        "a list": ("[]", "kind=None"),
        "foreign": ('{"kind": "sarif"}', "JSON of a verification, demo, comparison. Received: kind='sarif'"),
        "a kind that is no name": ('{"kind": []}', "kind=[]"),
        "of another version": (but(schema_version=0), "Expected schema_version=1"),
        "without a version": (json.dumps({"kind": "verification"}), "schema_version=None"),
        "of a run before": ('{"kind": "demo", "schema_version": 1}', "run `krs demo` again"),
        "from before there were sketches": (but(sketches=None), "$.sketches"),
        "a string for a list": (but(devices="xnnpack"), "$.devices"),
        "a verdict of no kind": (but(exit_code=4), "$.exit_code"),
        "a matrix of other sites": (but(matrix={**content["matrix"], "sites": []}), "matrix.sites"),
        "a map that is no base64": (sketched(map={**sketch["map"], "errors": "?"}), "cannot be read"),
        "a map of another size": (sketched(map={**sketch["map"], "shape": [1, 1]}), "bytes, not 1"),
        "a map that is too large": (sketched(map={**sketch["map"], "shape": [10**9, 10**9]}), "shape"),
        "a curve that is short": (sketched(curve={**sketch["curve"], "x": [0]}), "different lengths"),
        "a device that was not there": (sketched(devices=["nobody"]), "did not check it"),
        "rates of another number": (
            but(in_place=[{**content["in_place"][0], "on_rates": {"keras": [1], "device": [1]}}]), "12 numbers"
        ),
    }  # fmt: skip


def test_what_is_no_report_is_one_line_and_exit_2(capfd, saved, tmp_path):
    for name, (text, words) in mistakes(saved).items():
        source = tmp_path / "x.json"
        source.write_text(text)
        code, out, err = krs(capfd, "report", source)
        assert code == 2 and out == "" and len(err.splitlines()) == 1, (name, err[:500])
        assert words in err and err.startswith("krs: ") and "Traceback" not in err, (name, err[:500])
        assert not source.with_suffix(".html").exists(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.json",), "Cannot read"),
        (("SAVED", "x.txt"), "ends in .html"),
        (("SAVED", "nowhere/x.html"), "must exist and be writable"),
        ((), "Missing argument"),
    ],
)
def test_mistakes_on_the_command_line(capfd, saved, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = krs(capfd, "report", *(saved[0] if a == "SAVED" else a for a in arguments))
    assert code == 2 and words in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_whatever_key_is_missing_or_of_another_type_is_told(saved, tmp_path):
    source, tried = tmp_path / "x.json", set()
    for place, missing, text in spoilt(saved[0].read_text()):
        optional = missing and place[-1] in ("keras", "equal_classes") and "metric" in place
        if optional or "packages" in place[:-1]:
            continue
        tried.add(place)
        source.write_text(text)
        with pytest.raises(errors.UsageError, match="not what krs wrote|another version|has no page"):
            report.redraw(source)
    assert len(tried) > 100


@pytest.mark.parametrize("kind", ["verification", "demo", "comparison"])
def test_the_schemas_are_also_in_the_docs(kind):
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / f"{kind}.schema.json"
    assert json.loads(page.read_text()) == schema.schema(kind)


def test_the_schema_of_the_demo_says_yes_and_no(run):
    described = schema.schema("demo")
    assert list(schema.errors(run, described)) == []
    for change in (
        lambda c: c["training"]["windows"][0].pop("dead"),
        lambda c: c["training"]["gradients"][0]["layers"][0].update(gradient="small"),
        lambda c: c["training"]["alphas"][0]["sites"][0]["slopes"].update(beta=1),
        lambda c: c["files"][0]["latency"].update(xnnpack="fast"),
        lambda c: c.update(new=1),
    ):
        copy = json.loads(report.as_json(run))
        change(copy)
        assert list(schema.errors(copy, described))
