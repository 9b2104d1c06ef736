"""Where river's detectors alarm on streams made here, which the tests make again.

Usage: concept.py > tests/oracles/concept.json
       concept.py --check tests/oracles/concept.json

Needs river 0.26.
"""

import csv
import json
import sys

# River 0.26 writes DictReader[...], which Python has from 3.12 on.
if not hasattr(csv.DictReader, "__class_getitem__"):
    csv.DictReader.__class_getitem__ = classmethod(lambda cls, _: cls)

from river import drift  # noqa: E402

MASK = (1 << 64) - 1


def uniform(seed, index):
    bits = ((seed * 0x100000001B3 + index + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return float((bits ^ (bits >> 31)) >> 11) / float(1 << 53)


def rate(kind, place):
    return {
        "none": 0.2,
        "sudden": 0.2 if place < 0.5 else 0.35,
        "slow": 0.15 + 0.3 * place,
        "falling": 0.5 if place < 0.4 else 0.3,
        "twice": 0.1 if place < 0.3 else 0.3 if place < 0.7 else 0.6,
    }[kind]


def alarms(kind, seed, count):
    adwin, of_bits, ddm = drift.ADWIN(), drift.ADWIN(), drift.binary.DDM()
    page, page_of_bits = drift.PageHinkley(), drift.PageHinkley()
    names = ["adwin", "adwin_bits", "ddm", "ddm_warning", "page_hinkley", "page_hinkley_bits"]
    found = {name: [] for name in names}
    warned = False
    for index in range(count):
        of_index = rate(kind, index / count)
        wrong = uniform(seed, 2 * index) < of_index
        draw = uniform(seed, 2 * index + 1)
        value = of_index * 2.0 * (draw * draw)
        for detector, x in ((adwin, value), (of_bits, int(wrong)), (ddm, wrong), (page, value),
                            (page_of_bits, int(wrong))):
            detector.update(x)
        alarmed = [adwin.drift_detected, of_bits.drift_detected, ddm.drift_detected,
                   ddm.warning_detected and not warned,
                   page.drift_detected, page_of_bits.drift_detected]
        warned = ddm.warning_detected
        for name, hit in zip(names, alarmed):
            if hit:
                found[name].append(index)
    return found


found = {}
for kind in ("none", "sudden", "slow", "falling", "twice"):
    for seed, count in ((1, 2_000), (2, 6_000), (3, 6_000), (4, 12_000)):
        found[f"{kind}-{seed}-{count}"] = alarms(kind, seed, count)
if sys.argv[1:2] == ["--check"]:
    with open(sys.argv[2]) as file:
        assert json.load(file) == found, "river alarms elsewhere than the fixture says"
    print("river alarms where the fixture says")
else:
    print(json.dumps(found))
