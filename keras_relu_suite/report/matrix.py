"""The device matrix: activations × devices × findings, with the devices that agree bit for bit side by side."""

from __future__ import annotations

from typing import Any


def matrix(v: dict[str, Any]) -> dict[str, Any]:
    """The matrix of a verification.

    Args:
        v: `devices`, `sites`, `checks` and `findings` of `Verification.to_dict()`.

    Returns:
        `groups`: the devices that gave the same bits for every activation, and a cell for each activation: the check of
        one of them, None if it was not run, and the codes found there. `sites`: the codes that hold for an activation
        on every device. `not_checked`: the devices that ran no activation, with the reason.
    """
    checks = {(c["site"], c["device"]): c for c in v["checks"]}
    names = [s["name"] for s in v["sites"]]
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    not_checked = []
    for device in (d["name"] for d in v["devices"]):
        mine = [checks.get((name, device)) for name in names]
        if not any(mine):
            not_checked.append({"device": device, "reason": _reason(v, device)})
            continue
        codes = [_codes(v, name, device) for name in names]
        key = (*(c and (c["answers"], c["compared"]) for c in mine), *map(tuple, codes))
        cells = [
            {"site": name, "check": c and {k: c[k] for k in _SHOWN}, "codes": found}
            for name, c, found in zip(names, mine, codes, strict=True)
        ]
        groups.setdefault(key, {"devices": [], "cells": cells})["devices"].append(device)
    return {
        "groups": list(groups.values()),
        "sites": [{"site": name, "codes": _codes(v, name, None)} for name in names],
        "not_checked": not_checked,
    }


_SHOWN = ("compared", "off_by_rounding", "beyond_bound")


def _codes(v: dict[str, Any], site: str, device: str | None) -> list[str]:
    return sorted({f["code"] for f in v["findings"] if f["site"] == site and f["device"] == device})


def _reason(v: dict[str, Any], device: str) -> str:
    """Why a device ran no activation."""
    record = next(d for d in v["devices"] if d["name"] == device)
    found = [f"{f['code']}: {f['message']}" for f in v["findings"] if f["device"] == device]
    return str(record["unavailable"] or next(iter(found), "no activation has a probe"))
