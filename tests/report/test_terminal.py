"""What stands on a terminal: 80 columns, colours, progress; and `krs` as a person runs it, in a terminal of its own."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import sys
import termios
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.cells import cell_len

import keras_relu_suite as package
from keras_relu_suite import _bar, cli, report
from keras_relu_suite.analysis import inspection
from keras_relu_suite.report import tables, terminal, text

ROOT = Path(package.__file__).parents[1]
LONG = "a_block/of_many/layers_with/a_name/that_does_not_want/to_end/prelu_activation_number_17"
DEVICES = [f"device{i}" for i in range(8)]


def widest(shown):
    return max(map(cell_len, shown.splitlines()))


@pytest.fixture(params=[80, 100, 120])
def columns(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


# Width.


def many_devices(v):
    """The verification as if eight devices had each given other bits."""
    content = json.loads(report.as_json(v))
    content["devices"] = [{**content["devices"][0], "name": name} for name in DEVICES]
    content["checks"] = [{**c, "device": name, "answers": name}
                         for c in content["checks"] if c["device"] == "reference" for name in DEVICES]  # fmt: skip
    for key in ("in_place", "end_to_end"):
        content[key] = [{**e, "device": n} for e in content[key] if e["device"] == "reference" for n in DEVICES]
    return {**content, "matrix": report.matrix(content)}


def test_verify(columns, held, failed, incomplete):
    for v in (held, failed, incomplete):
        assert widest(v.summary()) <= columns
        assert widest(text.verification_text(many_devices(v.to_dict()))) <= columns
        renamed = json.loads(report.as_json(v.to_dict()).replace('"first"', f'"{LONG}"'))
        for finding in renamed["findings"]:
            finding["message"] = finding["message"].replace("first", LONG)
        shown = text.verification_text(renamed)
        assert widest(shown) <= columns
        assert LONG[:8] in shown


def test_eight_devices_lose_no_number(columns, held):
    v = many_devices(held.to_dict())
    shown = " ".join(text.verification_text(v).split())
    for group in v["matrix"]["groups"]:
        for cell in group["cells"]:
            assert text.function_cell(cell["check"]) in shown
    for e in v["end_to_end"]:
        assert f"{e['rms']:.3g}" in shown and f"{e['limit']:.3g}" in shown


def test_the_verdict_of_every_kind_is_on_the_first_line(held, failed, incomplete):
    for v, word in ((held, "HOLDS on"), (failed, "FAILS: "), (incomplete, "INCOMPLETE: ")):
        assert word in " ".join(v.summary().split("activation")[0].split())
    assert "FAILS" in next(line for line in failed.summary().splitlines() if line.startswith("classes "))


def test_inspect_diagnose_devices(columns, monkeypatch):
    K = keras.layers
    model = keras.Sequential([keras.Input((6,)), K.Dense(4, name="d" * 60), K.ReLU(name="r" * 60), K.Dense(2)])
    model.layers[0].bias.assign([-99.0, 1, 1, 1])
    shown = inspection.inspect_model(model, "model.keras").summary()
    assert widest(shown) <= columns and "relu" in shown
    found = package.diagnose(model, np.zeros((32, 6), np.float32))
    monkeypatch.setattr(terminal, "print", lambda line, flush: printed.append(line), raising=False)
    printed = []
    terminal.show(found.summary())
    assert widest(printed[0]) <= columns and "1 of 4 units dead" in " ".join(printed[0].split())
    window = found.window.to_dict()
    window["sites"] = [{**s, "rare": {"1": 0.1}, "dying": [1], "dormant": [1, 2], "low_gradient": [1], "saturated": [2],
                        "always_on": [3], "not_a_number": [3]} for s in window["sites"]]  # fmt: skip
    shown = report.window_text(window, [("x" * 200, "no reason")], ["the verdicts"])
    assert widest(shown) <= columns
    survey = [{"name": "ssh://a-user@a-host-with-a-name.example.org:2222", "available": False, "platform": "",
               "kind": "any Linux over ssh", "engine": "", "version": "",
               "reason": "it did not answer within 10 s: " + "no route " * 12},
              {"name": "xnnpack", "available": True, "reason": None, "kind": "host CPU", "engine": "ai-edge-litert",
               "version": "2.3.0", "platform": ""}]  # fmt: skip
    assert widest(report.devices_text(survey)) <= columns
    monkeypatch.setenv("COLUMNS", "120")
    shown = report.window_text({**window, "sites": [{**window["sites"][0], "name": "r"}]})
    for words in ("1 NaN", "1 rare", "1 dying", "2 dormant", "1 low gradient", "1 saturated", "1 always on"):
        assert words in shown


def test_a_table_folds_words_before_numbers(monkeypatch):
    rows = [["some words that may be folded", "12345", "ok, 12,345 ±1"], ["x" * 70, "1", "ok"]]
    shown = tables.table([("what", ""), ("n", "right"), ("cell", "whole")], rows, most=50)
    assert widest(shown) <= 50 and "12345" in shown and "ok, 12,345 ±1" in shown and shown.count("x") == 70
    narrow = tables.table([("what", ""), ("n", "right"), ("cell", "whole")], rows, most=14)
    assert widest(narrow) <= 14 and narrow.count("x") == 70
    assert sorted(re.findall(r"\d", narrow)) == sorted(re.findall(r"\d", shown)), "as the last resort digits are folded"


@pytest.mark.parametrize(("asked", "given"), [("20", 72), ("80", 80), ("100", 100), ("500", 120), ("", 80), ("x", 80)])
def test_how_wide_it_is(monkeypatch, asked, given):
    monkeypatch.setenv("COLUMNS", asked)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: (_ for _ in ()).throw(OSError()))
    assert terminal.width() == given


def test_paths_are_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = "/" + "a/" * 60
    assert path in terminal.wrapped(f"written to {path}")
    assert widest(terminal.wrapped("a" * 200)) == 80


# Colours.


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_on(monkeypatch, file, **environment):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", file)
    terminal.show("m.tflite: FAILS: 1 error\nerror KRS101: x [b]y[/b] 12\nrelu  ok")
    return file.getvalue()


def test_colours_on_a_terminal_and_nowhere_else(monkeypatch):
    plain = "m.tflite: FAILS: 1 error\nerror KRS101: x [b]y[/b] 12\nrelu  ok\n"
    coloured = shown_on(monkeypatch, Terminal())
    assert "\x1b[1;31mFAILS\x1b[0m" in coloured and "\x1b[1;31merror KRS101\x1b[0m" in coloured
    assert "\x1b[1;32mok\x1b[0m" in coloured and re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    assert shown_on(monkeypatch, io.StringIO()) == plain
    assert shown_on(monkeypatch, Terminal(), NO_COLOR="1") == plain
    assert "\x1b" not in shown_on(monkeypatch, Terminal(), TERM="dumb")


# Progress.


def bar_on(monkeypatch, **environment):
    """What a terminal gets of a bar."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main, end = os.openpty()
    with open(end, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with _bar.shown() as told:
            for i in range(5):
                if told is not None:
                    told("every input code", i, 4)
        os.write(end, b"END")
        seen = b""
        while not seen.endswith(b"END"):
            seen += os.read(main, 65536)
    os.close(main)
    return seen.decode()


def test_the_bar_says_what_is_left(monkeypatch):
    seen = bar_on(monkeypatch)
    assert "every input code" in seen and "4/4" in seen and "left: 0:00:00" in re.sub(r"\x1b\[[\d;]*m", "", seen)


@pytest.mark.parametrize("value", ["1", "true", "woodpecker"])
def test_the_bar_is_quiet_in_ci(monkeypatch, value):
    assert bar_on(monkeypatch, CI=value) == "END"
    assert "every input" in bar_on(monkeypatch, CI="false")


def test_the_bar_has_no_colours_where_none_are_wanted(monkeypatch):
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|38;[\d;]+|9\d)m")
    assert colour.search(bar_on(monkeypatch)) and not colour.search(bar_on(monkeypatch, NO_COLOR="1"))


def test_verify_tells_how_far_it_is(int8_file, chain, data):
    heard = []
    v = package.verify(int8_file, model=chain, data=data, devices=["xnnpack", "reference"],
                       progress=lambda *news: heard.append(news))  # fmt: skip
    assert v
    codes = [(done, total) for what, done, total in heard if what == "every input code"]
    assert codes[0][0] == 0 and codes[-1] == (4, 4) and codes == sorted(codes)
    samples = [(done, total) for what, done, total in heard if what == "in place and end to end"]
    assert samples[0] == (0, 96) and samples == sorted(samples) and all(done < total for done, total in samples)


# A terminal of its own.


def in_terminal(arguments, columns=80, **environment):
    """The exit code and all that a person sees of `krs` in a terminal that is that wide."""
    usual = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    theirs = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "COLUMNS", "FORCE_COLOR")}
    pid, main = pty.fork()
    if pid == 0:  # pragma: no cover
        # Not execv: pytest's readline has set COLUMNS behind Python's back.
        command = [sys.executable, "-m", "keras_relu_suite", *map(str, arguments)]
        os.execve(sys.executable, command, {**theirs, **usual, **environment})
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen = b""
    while True:
        ready, _, _ = select.select([main], [], [], 240)
        assert ready, seen.decode(errors="replace")
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()


def settled(seen):
    """What stays on the screen: without the bar, which is wiped, and without colours."""
    after = seen[seen.rfind("\x1b[2K") + 4 :] if "\x1b[2K" in seen else seen
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", after).replace("\r", "")


@pytest.mark.slow
def test_krs_in_a_terminal(int8_file, keras_file, data_file, tmp_path):
    arguments = ("verify", int8_file, "--model", keras_file, "--data", data_file, "--report", tmp_path / "r.json")
    code, seen = in_terminal(arguments)
    assert code == 0, seen
    assert "every input code" in seen and "left:" in seen and "in place and end to end" in seen
    assert "\x1b[1;32mHOLDS" in seen and "\x1b[?25h" in seen, "the cursor is shown again"
    shown = settled(seen)
    assert widest(shown) <= 80 and "HOLDS on xnnpack, reference" in " ".join(shown.split())
    code, quiet = in_terminal(arguments, NO_COLOR="1", CI="true")
    assert code == 0 and "\x1b" not in quiet and "every input code" not in quiet
    code, seen = in_terminal(("report", tmp_path / "r.json"))
    assert code == 0 and (tmp_path / "r.html").is_file() and str(tmp_path / "r.html") in seen.replace("\r\n", "")
    code, seen = in_terminal(("inspect", int8_file), columns=72)
    assert code == 0 and widest(settled(seen)) <= 72 and "PRELU" in seen


def test_the_command_line_shows_what_the_terminal_can(monkeypatch, capfd, int8_file):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["krs", "verify", str(int8_file), "--device", "reference"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out, err = capfd.readouterr()
    assert done.value.code == 0 and err == "" and widest(out) <= 80 and "\x1b" not in out
