"""Seeded faults: the harmful ones are found, the harmless ones are not, with the model and with the metadata alone.

The mutators and the label of harm are those of `scripts/benchmark.py faults`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices, semantics
from keras_relu_suite.describe import describe
from keras_relu_suite.export import metadata
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import fidelity, implied

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
FILES = {"prelus": ("int8", "float16"), "residual": ("int8",), "dense": ("float32",), "leaky": ("int16", "float32")}


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules."""
    sys.path.insert(0, SCRIPTS)
    names = ("mutants", "labels", "subjects", "surgery")
    yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.{name}") for name in names})
    sys.path.remove(SCRIPTS)


@pytest.fixture(scope="module")
def files(bench):
    return {subject.name: subject for subject in bench.subjects.subjects(0, FILES)}


@pytest.fixture(scope="module")
def opened():
    """Processes that all the verifications here share."""
    there = {name: devices.get(name) for name in devices.available(devices.HOST)}
    yield there
    for device in there.values():
        device.close()


def verified(subject, data, opened, model=False):
    there = [opened[name] for name in subject.devices if name in opened]
    given = {"model": subject.model, "data": subject.samples} if model else {}
    return krs.verify(data, devices=there if model else [opened["reference"]], **given)


def planted(bench, subject, kind, wanted, seed=0):
    """The first mutant with that label."""
    random = np.random.default_rng(seed)
    for _ in range(20):
        mutant = bench.mutants.mutant(subject.data, kind, random)
        if mutant is None or not bench.labels.runs(mutant.data):
            continue
        if bench.labels.label(bench.labels.difference(subject.data, mutant)) == wanted:
            return mutant
    return None


# kind, file, what finds it with nothing but the metadata (or one of two)
HARMFUL = [
    ("alpha zeroed", "prelus int8", "KRS102"),
    ("sign flipped", "prelus int8", "KRS102"),
    ("alpha scaled", "prelus int8", "KRS103"),
    ("alpha scaled", "leaky int16", "KRS103"),
    ("alpha scaled", "dense float32", "KRS103"),
    ("two channels swapped", "prelus float16", "KRS102 KRS103"),
    ("slope clipped to [0, 1]", "prelus int8", "KRS102"),
    ("alpha scale per channel", "prelus int8", "KRS101"),
    ("wrong channel axis", "prelus int8", "KRS203"),
    ("wrong channel axis", "prelus float16", "KRS203"),
    ("LEAKY ↔ PRELU", "prelus int8", "KRS102"),
    ("kink shifted, codes kept", "prelus int8", "KRS207"),
    ("scales exchanged", "prelus int8", "KRS208"),
    ("scales exchanged", "leaky int16", "KRS208"),
    ("saturating calibration", "prelus int8", "KRS208"),
    ("saturating calibration", "residual int8", "KRS208"),
    ("wrong clip", "dense float32", "KRS203"),
    ("ReLU6 ↔ ReLU", "dense float32", "KRS203"),
    ("fused activation dropped", "dense float32", "KRS201"),
    ("fused activation added", "prelus int8", "KRS202"),
]


@pytest.mark.parametrize(("kind", "name", "code"), HARMFUL)
def test_harmful_faults_are_found_from_the_metadata(bench, files, opened, kind, name, code):
    mutant = planted(bench, files[name], kind, "harmful")
    assert mutant is not None
    v = verified(files[name], mutant.data, opened)
    assert v.exit_code == 1 and {f.code for f in v.errors} & set(code.split()), v.summary()


@pytest.mark.parametrize("name", [f"{network} {mode}" for network, modes in FILES.items() for mode in modes])
def test_the_correct_files_hold_everywhere(files, opened, name):
    for model in (True, False):
        v = verified(files[name], files[name].data, opened, model)
        assert v, v.summary()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("kink shifted", "prelus int8"),
        ("output zero point ± 1", "residual int8"),
        ("ReLU6 ↔ ReLU", "residual int8"),
        ("fused activation dropped", "residual int8"),
        ("LEAKY ↔ PRELU", "leaky float32"),
    ],
)
def test_harmless_changes_hold(bench, files, opened, kind, name):
    mutant = planted(bench, files[name], kind, "harmless")
    assert mutant is not None
    v = verified(files[name], mutant.data, opened)
    assert v, v.summary()


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{network} {mode}" for network, modes in FILES.items() for mode in modes])
def test_every_kind_in_every_file_against_the_model(bench, files, opened, name):
    tried = 0
    for kind in bench.mutants.KINDS:
        mutant = planted(bench, files[name], kind, "harmful", seed=1)
        if mutant is not None:
            tried += 1
            v = verified(files[name], mutant.data, opened, model=True)
            assert v.exit_code == 1, (kind, v.summary())
    assert tried >= 4  # a file without PReLU has no slopes of channels to damage


# The pieces.


def test_devices_that_are_given_open_stay_open(int8_file):
    with devices.get("reference") as device:
        assert krs.verify(int8_file, devices=[device])
        process = device._process
        assert process is not None and process.poll() is None
        assert krs.verify(int8_file, devices=[device, "builtin"])
        assert device._process is process


def test_our_metadata_can_be_written_into_any_file(int8_file, chain):
    bare = schema.copy(schema.read(int8_file.read_bytes()))
    bare.metadata = []
    v = krs.verify(metadata.annotated(schema.write(bare), describe(chain), "int8"), devices=["reference"])
    assert v and v.reference == "metadata"


@pytest.mark.parametrize(
    ("trained", "encoded", "across"),
    [
        ((1, 1, 8), (1, 1, 8), False),
        ((8,), (1, 1, 8), False),
        ((8, 1, 1), (1, 1, 8), False),  # channels_first, which the converter moves last
        ((8, 1, 1), (8, 1, 1), False),
        ((1, 1, 8), (8, 1, 1), True),
        ((1, 1, 8), (1, 8, 1), True),
        ((8, 1, 1), (1, 8, 1), True),
        ((1, 1, 1), (1, 1, 8), False),
        ((4, 4, 8), (4, 4, 8), False),
    ],
)
def test_slopes_along_another_axis(trained, encoded, across):
    assert fidelity._across(trained, encoded) is across


@pytest.mark.parametrize(("off", "finds"), [(1.9, False), (2.1, True)])
def test_a_slope_of_a_float_file_may_be_two_percent_off(bench, files, opened, off, finds):
    subject = files["dense float32"]
    surgery = bench.surgery.Surgery(subject.data)
    site = next(s for s in graph.sites(surgery.file).sites if s.op.name == "PRELU")
    alpha = surgery.file.tensors[site.op.inputs[1]]
    changed = np.where(np.arange(alpha.data.size) == 3, alpha.data * (1 + off / 100), alpha.data).astype(np.float32)
    surgery.store(alpha.index, changed)
    v = verified(subject, surgery.data(), opened)
    assert bool(v) is not finds, v.summary()


def test_a_slope_that_is_not_the_nearest_code_is_found_from_1_lsb_on(bench, files, opened):
    """Also within 2 %: the next code of a slope near 1 is 1 % off, and 1.3 LSB."""
    subject = files["prelus int8"]
    surgery = bench.surgery.Surgery(subject.data)
    site = graph.sites(surgery.file).sites[0]
    alpha = surgery.file.tensors[site.op.inputs[1]]
    codes = alpha.data.astype(np.int64).ravel()
    largest = int(np.argmax(codes))
    x_min = float(site.input.scale[0]) * (-128 - int(site.input.zero_point[0]))
    steps = int(np.ceil(1.0 / (float(alpha.scale[0]) * abs(x_min) / float(site.output.scale[0]))))
    codes[largest] -= steps
    assert steps * alpha.scale[0] < 0.02 * alpha.real().ravel()[largest], "within 2 %"
    surgery.store(alpha.index, codes.astype(np.int8))
    v = verified(subject, surgery.data(), opened)
    assert {f.code for f in v.errors} == {"KRS103"} and v.errors[0].channel == largest


def test_codes_apply_what_their_range_cuts_off(files):
    """ReLU6 on a tensor of [0, 6] is there under any name; identity on one of [-1, 1] is not ReLU."""
    file = schema.read(files["residual int8"].data)
    site = next(s for s in graph.sites(file).sites if s.op.fused == "RELU6")
    relu, six, line = semantics.relu(), semantics.relu(max_value=6), semantics.linear()
    assert float(site.output.zero_point[0]) == -128
    assert implied.same(six, line, site) and implied.same(six, relu, site)
    prelu = next(s for s in graph.sites(file).sites if s.op.name == "PRELU")
    assert not implied.same(relu, line, prelu) and not implied.same(prelu.semantics, relu, prelu)


def test_codes_that_are_moved_between_scales(bench, files):
    subject = files["prelus int8"]
    clean = schema.read(subject.data)
    assert graph.reread(clean) == ()
    mutant = planted(bench, subject, "kink shifted, codes kept", "harmful")
    ((op, steps),) = graph.reread(schema.read(mutant.data))
    assert op.name == "TRANSPOSE" and steps == pytest.approx(1)
