"""Runs the comparisons of benches/comparisons.toml and writes what they came to. See scripts/bench."""

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

DOCUMENT, PLOT = Path("docs/benchmarks.md"), Path("docs/benchmarks.svg")
PYTHONS = {"python": ("STREAMREC_PEERS_PYTHON", "benches/peers/.venv/bin/python"),
           "fbgemm_python": ("STREAMREC_FBGEMM_PYTHON", "benches/peers/.venv-fbgemm/bin/python"),
           "input_python": ("STREAMREC_INPUT_PYTHON", "benches/peers/.venv-input/bin/python"),
           "expectations_python": ("STREAMREC_EXPECTATIONS_PYTHON", "benches/peers/.venv-expectations/bin/python"),
           "drift_python": ("STREAMREC_DRIFT_PYTHON", "benches/peers/.venv-drift/bin/python")}


def build(names):
    """The programs of our benchmarks."""
    flags = [flag for name in names for flag in ("--bench", name)]
    profile = os.environ.get("STREAMREC_BENCH_PROFILE", "bench")
    command = ["cargo", "bench", "--locked", "--no-run", "--message-format=json",
               "--profile", profile, *flags]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit(f"{' '.join(command)} ended with {built.returncode}: see what it said above")
    programs = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and "bench" in message["target"]["kind"]:
            programs[message["target"]["name"]] = message["executable"]
    return programs


def fill(value, words):
    if isinstance(value, list):
        return [fill(part, words) for part in value]
    return re.sub(r"\{([\w:]+)\}", lambda found: words[found[1]], value)


def absent_interpreters(comparisons):
    """Those of `PYTHONS` that the comparisons need and that are not there, each with who needs it."""
    text = json.dumps(comparisons)
    needed = {name: os.environ.get(variable, place) for name, (variable, place) in PYTHONS.items()
              if f"{{{name}}}" in text}
    return [f"{path} ({PYTHONS[name][0]})" for name, path in needed.items() if not shutil.which(path)]


def run(side, words):
    """The last JSON line that a side prints; none where it cannot run here."""
    command = fill(side["command"], words)
    environment = {name: fill(text, words) for name, text in side.get("env", {}).items()}
    if not shutil.which(command[0]):
        print(f"  {side['name']}: {command[0]} is not there, left out", file=sys.stderr)
        return None
    ended = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode or not lines:
        print(f"  {side['name']}: {' '.join(command)} ended with {ended.returncode}, left out",
              file=sys.stderr)
        return None
    return json.loads(lines[-1])


def compare(comparison, rounds, words):
    """Each side's windows, by name, ours first."""
    sides = [{"name": "StreamRec", **comparison["ours"]}, *comparison["peers"]]
    windows, others, versions = {}, {}, {}
    for number in range(rounds):
        load = Path("/proc/loadavg").read_text().split()[0]
        print(f"{comparison['name']}: round {number + 1} of {rounds}, load {load}", file=sys.stderr)
        for side in sides:
            line = run(side, words)
            if line is None:
                continue
            value = line[comparison["field"]]
            windows.setdefault(side["name"], []).extend(value if isinstance(value, list) else [value])
            for field in comparison.get("also", []):
                others.setdefault(field, {}).setdefault(side["name"], []).append(line[field])
            versions |= line.get("versions", {})
            if "version" in line and side["name"] != "StreamRec":
                versions[side["name"].split(",")[0]] = line["version"]
    return {**comparison, "windows": windows, "others": others, "versions": versions}


def left_out(result):
    """The sides of a comparison that have no figure."""
    return {"StreamRec", *(peer["name"] for peer in result["peers"])} - set(result["windows"])


class Results:
    """What comparisons came to, kept in a file line by line, for a run that goes on later or in parts."""

    def __init__(self, path, of):
        self.path, self.of = path, of
        lines = path.read_text().splitlines() if path and path.exists() else []
        kept = [json.loads(line) for line in lines]
        # What was not committed may have changed since.
        trusted = not of["commit"].endswith("-dirty")
        self.known = {line["name"]: line["result"] for line in kept if trusted and line["of"] == of}

    def keep(self, name, result):
        # A side that was left out may run the next time.
        if self.path and not left_out(result):
            fields = {field: result[field] for field in ("windows", "others", "versions")}
            with self.path.open("a") as file:
                print(json.dumps({"name": name, "of": self.of, "result": fields}), file=file)


def ratio(result, sides):
    """Ours over the best peer's, so that more is better for us."""
    medians = {name: statistics.median(values) for name, values in sides.items()}
    ours = medians.pop("StreamRec", None)
    if ours is None or not medians:
        return None, None
    more = result["better"] == "more"
    best = (max if more else min)(medians, key=medians.get)
    return best, ours / medians[best] if more else medians[best] / ours


def rows_of(result):
    """(what, unit, each side's figures, best peer, ratio) of the comparison and what is told beside."""
    fields = [(result["name"], result["unit"], result["windows"])]
    fields += [(f"{result['name'].rsplit(',', 1)[0]}, {field.split('_')[0]}",
                "MiB" if field.endswith("_mib") else result["unit"], sides)
               for field, sides in result["others"].items()]
    for what, unit, sides in fields:
        best, times = ratio(result, sides)
        if best:
            yield what, unit, sides, best, times


def table(results, head):
    lines = [head, "", "| work | unit | StreamRec | best peer | its figure | ratio | asked |",
             "|---|---|---|---|---|---|---|"]
    for result in results:
        for what, unit, sides, best, times in rows_of(result):
            ours, theirs = (statistics.median(sides[name]) for name in ("StreamRec", best))
            lines.append(f"| {what} | {unit} | {ours:,.0f} | {best} | {theirs:,.0f} "
                         f"| **{times:.2f}** | {result['need']:g} |")
        if "above" in result and "StreamRec" in result["windows"]:
            field, name = result["above"]
            ours, base = (statistics.median(sides["StreamRec"])
                          for sides in (result["windows"], result["others"][field]))
            lines.append(f"| {result['name']} | {result['unit']} | {ours:,.0f} | {name} | {base:,.0f} "
                         f"| **{ours - base:+,.0f}** | {result['need']:+g} at most |")
    lines += ["", "Medians of all windows (least to greatest):", ""]
    for result in results:
        told = [f"{name} {statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
                for name, values in result["windows"].items()]
        if not result["peers"]:
            told += [f"{field} {statistics.median(sides['StreamRec']):,.0f}"
                     for field, sides in result["others"].items() if "StreamRec" in sides]
        told += [f"{name} left out" for name in sorted(left_out(result))]
        lines.append(f"- {result['name']}, {result['unit']}: {'; '.join(told)}.")
    return "\n".join(lines)


def plot(results):
    """Bars of the ratios on a scale of logarithms; readable on light and dark pages."""
    bars = [(what, times, result["need"], best)
            for result in results for what, _, _, best, times in rows_of(result)]
    height, left, width = 34 * len(bars) + 56, 330, 380
    from math import log2
    low, high = -2, max(3, max((log2(times) for _, times, _, _ in bars), default=0) + 0.5)

    def x(times):
        return left + width * (max(low, log2(times)) - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" '
             f'viewBox="0 0 860 {height}" font-family="system-ui, sans-serif" font-size="13" '
             'role="img" aria-label="StreamRec against the best peer">',
             "<style>text{fill:#24292f}.axis{stroke:#8c959f}.bar{fill:#0969da}.less{fill:#bc4c00}"
             ".need{stroke:#1a7f37;stroke-width:3}@media(prefers-color-scheme:dark){"
             "text{fill:#e6edf3}.axis{stroke:#6e7681}.bar{fill:#58a6ff}.less{fill:#f0883e}"
             ".need{stroke:#3fb950}}</style>",
             f'<text x="{left}" y="18">times as fast as the best peer (green: asked)</text>']
    for power in range(low, int(high) + 1):
        at = x(2.0 ** power)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="28" y2="{height - 22}" '
                     f'stroke-dasharray="{"none" if power == 0 else "2 4"}"/>'
                     f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{2.0 ** power:g}</text>')
    for index, (what, times, need, best) in enumerate(bars):
        y = 36 + 34 * index
        start, end = sorted((x(1), x(times)))
        kind = "bar" if times >= 1 else "less"
        parts.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(what)}</text>'
                     f'<rect class="{kind}" x="{start:.1f}" y="{y}" width="{max(1, end - start):.1f}" '
                     f'height="20" rx="2"/><line class="need" x1="{x(need):.1f}" x2="{x(need):.1f}" '
                     f'y1="{y - 3}" y2="{y + 23}"/><text x="{end + 6:.1f}" y="{y + 15}">{times:.2f} '
                     f'({escape(best)})</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(block, text):
    """Puts a table between the markers of its block, the main one without a name."""
    begin, end = (f"<!-- {' '.join(filter(None, ('scripts/bench', block, word)))} -->" for word in ("begin", "end"))
    document = DOCUMENT.read_text()
    before, rest = document.split(begin)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ")[1]
    return os.uname().machine


def from_one(text):
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got `{text}`")
    return int(text)


def arguments():
    # Its own name is no command: scripts/bench is what one calls.
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=from_one, default=3, metavar="N",
                        help="how often sides take turns (default 3)")
    parser.add_argument("--only", metavar="WORDS", help="comparisons whose names hold these words")
    parser.add_argument("--list", action="store_true", help="list the comparisons, and run none")
    parser.add_argument("--skip-missing", action="store_true",
                        help="leave out peers whose interpreter is not there; nothing is written then")
    parser.add_argument("--results", type=Path, metavar="FILE",
                        help="keep what each comparison came to in FILE; those that it holds, of this "
                             "commit, machine and settings, are not run again")
    parser.add_argument("--print", action="store_true", help="print the table, and write nothing")
    args = parser.parse_args()
    threads, scratch = os.environ.get("THREADS", "2"), os.environ.get("STREAMREC_SCRATCH")
    if not (threads.isdecimal() and int(threads)):
        parser.error(f"THREADS: expected a number from 1, got `{threads}`")
    if args.results and not args.results.parent.is_dir():
        parser.error(f"--results {args.results}: {args.results.parent} is no folder")
    if scratch is not None and not Path(scratch).is_dir():
        parser.error(f"STREAMREC_SCRATCH: expected a folder, and `{scratch}` is none")
    return args, threads, scratch


def set_up(comparison, words):
    """Makes what both sides read."""
    command = fill(comparison.get("setup", []), words)
    if not command:
        return True
    if not shutil.which(command[0]):
        problem = f"{command[0]} is not there"
    elif status := subprocess.run(command).returncode:
        problem = f"{' '.join(command)} ended with {status}"
    else:
        return True
    print(f"{comparison['name']}: left out, {problem}", file=sys.stderr)
    return False


def main():
    args, threads, scratch = arguments()
    comparisons = tomllib.loads(Path("benches/comparisons.toml").read_text())["comparison"]
    blocks = {}
    for comparison in comparisons:
        blocks.setdefault(comparison.get("block", ""), []).append(comparison["name"])
    comparisons = [c for c in comparisons if not args.only or args.only in c["name"]]
    if not comparisons:
        sys.exit(f"--only {args.only}: no comparison has such a name; --list names all")
    if args.list:
        print("\n".join(comparison["name"] for comparison in comparisons))
        return
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                            text=True).stdout.strip()
    kept = Results(args.results, {"commit": commit, "cpu": cpu(), "threads": threads, "rounds": args.rounds})
    missing = [c for c in comparisons if c["name"] not in kept.known]
    absent = absent_interpreters(missing)
    if absent and not args.skip_missing:
        sys.exit(f"the peers' interpreters are not there: {', '.join(absent)}; benches/peers/README.md tells how to make "
                 "them, the variables where others are, and --skip-missing does without")
    needed = set(re.findall(r"\{bench:(\w+)\}", json.dumps(missing)))
    programs = {f"bench:{name}": path for name, path in (build(sorted(needed)) if needed else {}).items()}
    pythons = {name: os.environ.get(variable, place) for name, (variable, place) in PYTHONS.items()}
    results = []
    for comparison in comparisons:
        if comparison["name"] in kept.known:
            results.append(comparison | kept.known[comparison["name"]])
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            words = {"threads": threads, "folder": folder, **pythons, **programs}
            if set_up(comparison, words):
                results.append(compare(comparison, args.rounds, words))
            else:
                results.append({**comparison, "windows": {}, "others": {}, "versions": {}})
        kept.keep(comparison["name"], results[-1])
    versions = sorted({f"{name} {version}" for result in results
                       for name, version in result["versions"].items()})
    only = f' --only "{args.only}"' if args.only else ""
    head = (f"`scripts/bench --rounds {args.rounds}{only}`, commit {commit}, "
            f"{datetime.date.today()}, {cpu()}, {threads} threads; {', '.join(versions)}.")
    print(table(results, head))
    gaps = [f"{result['name']}: {', '.join(sorted(left_out(result)))}" for result in results if left_out(result)]
    # A block is written when all of it was run.
    for block, names in ({} if args.print else blocks).items():
        own = [result for result in results if result["name"] in names]
        if len(own) == len(names) and not any(map(left_out, own)):
            write(block, table(own, head))
            if not block:
                PLOT.write_text(plot(own))
    if gaps:
        sys.exit("without a figure, so that nothing of their block is written: " + "; ".join(gaps))


if __name__ == "__main__":
    main()
