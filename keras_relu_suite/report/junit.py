"""JUnit XML, which every CI system shows: a test case for each comparison that held, a failure for each finding."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from keras_relu_suite.report.text import headline

# What XML 1.0 cannot hold, not even escaped; names come from files that may be damaged.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(v: dict[str, Any]) -> str:
    """The report of one `Verification.to_dict()`.

    An error is a `failure`. What could not be run is an `error`: CI systems count `skipped` as passed, and it is not.
    A warning passes and stands in the `system-out`, unless the verification was strict.
    """
    cases = [_case("function", f"{c['site']} on {c['device']}") for c in v["checks"] if c["beyond_bound"] == 0]
    cases += [_case("in place", f"{i['name']} on {i['device']}") for i in v["in_place"] if i["holds"]]
    cases += [_case("end to end", f"{e['name']} on {e['device']}") for e in v["end_to_end"] if e["holds"]]
    cases += [_finding(f, v["strict"]) for f in v["findings"]]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(f"krs verify {v['file']}"), **counts})
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _clean(
        "\n".join([headline(v), *(f"not compared: {text}" for text in v["not_compared"])])
    )
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _case(kind: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": f"krs.{kind}", "name": _clean(name)})


def _finding(f: dict[str, Any], strict: bool) -> ElementTree.Element:
    where = " on ".join(str(f[key]) for key in ("site", "device") if f[key] is not None)
    case = _case("findings", f"{f['code']} {where}".strip())
    text = _clean(f"{f['message']}\n\n{f['what']}\n{f['why']}\nFix: {f['fix']}")
    if f["severity"] == "warning" and not strict:
        ElementTree.SubElement(case, "system-out").text = f"warning {f['code']}: {text}"
        return case
    tag = "error" if f["severity"] == "coverage" else "failure"
    child = ElementTree.SubElement(case, tag, {"type": f["code"], "message": _clean(f["message"])})
    child.text = text
    return case


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
