"""The Markdown table of results of the bench: ``python benchmarks/table.py benchmarks/results/*.jsonl``.

Each cell is the median over the files; where there are several, the least and the most of them stand behind it.
"""

import json
import statistics
import sys
from pathlib import Path

from byhand.bench.row import amount


def table(paths: list[Path]) -> str:
    """The table of all rows that have a goal or another side, with the receipts under it."""
    receipts, rows = [], {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["part"] == "receipt":
                receipts.append(record)
            elif "measure" in record:
                rows.setdefault(record["measure"], []).append(record)
    lines = ["| measure | ours | other side | ratio | goal | reached |", "|---|---:|---:|---:|---|---|"]
    for measure, found in rows.items():
        ours, other = (_span(found, name, found[0]["unit"]) for name in ("ours", "other"))
        beside = f"{found[0]['other_side']}: {other}" if other else ""
        reached = [record["reached"] for record in found if record["reached"] is not None]
        verdict = "" if not reached else f"{sum(reached)} of {len(reached)}"
        cells = (measure, ours, beside, _span(found, "ratio", "×"), found[0]["goal"] or "", verdict)
        lines.append(f"| {' | '.join(cells)} |")
    for told in receipts:
        versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        machine = f"{told['cpu']}, {told['cores']} cores, {told['threads']} threads"
        lines += ["", f"`{told['command']}`, {told['rounds']} rounds, {told['started']}: {machine}; {versions}"]
    return "\n".join(lines)


def _span(found: list[dict], name: str, unit: str) -> str:
    values = [record[name] for record in found if record[name] is not None]
    if not values:
        return ""
    text = amount(statistics.median(values), unit)
    return f"{text} ({amount(min(values), unit)} to {amount(max(values), unit)})" if len(values) > 1 else text


if __name__ == "__main__":
    print(table([Path(name) for name in sys.argv[1:]]))
