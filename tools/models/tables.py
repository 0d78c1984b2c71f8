"""Tables of docs/models.md from tests/models/cards.json: `python tools/models/tables.py` puts them between marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gguf_copy import top_heads

ROOT = Path(__file__).parents[2]
CARDS, PAGE = ROOT / "tests" / "models" / "cards.json", ROOT / "docs" / "models.md"


def table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def share(cell: dict[str, int]) -> str:
    return f"{cell['right'] / cell['n']:.2f}"


def grid(cells: list[dict[str, Any]]) -> str:
    """Lengths down, depths across; sums at both ends."""
    lengths, depths = (sorted({c[key] for c in cells}) for key in ("n_token", "depth"))

    def total(**where: object) -> dict[str, int]:
        chosen = [c for c in cells if all(c[k] == v for k, v in where.items())]
        return {"right": sum(c["right"] for c in chosen), "n": sum(c["n"] for c in chosen)}

    lines = [
        [
            str(n),
            *(share(total(n_token=n, depth=d)) for d in depths),
            share(total(n_token=n)),
            str(total(n_token=n)["n"]),
        ]
        for n in lengths
    ]
    lines.append(["all", *(share(total(depth=d)) for d in depths), share(total()), str(total()["n"])])
    return table(["tokens", *(f"{d:.0%}" for d in depths), "all", "n"], lines)


def tasks(figures: dict[str, list[dict[str, int]]]) -> str:
    lines = [[name, " / ".join(map(share, parts)), str(parts[0]["n"])] for name, parts in figures.items()]
    return table(["task", "right", "n"], lines)


def heads(scores: list[list[float]]) -> str:
    top, _ = top_heads(scores)
    cells = [[f"**{s:.3f}**" if (i, j) in top else f"{s:.3f}" for j, s in enumerate(r)] for i, r in enumerate(scores)]
    return table(["layer", *(f"h{j}" for j in range(len(scores[0])))], [[str(i), *row] for i, row in enumerate(cells)])


def ablation(figures: dict[str, Any], scores: list[list[float]]) -> str:
    flat = sorted((s for row in scores for s in row), reverse=True)
    n, n_top, others = figures["n"], len(figures["top"]), figures["no_others"]
    return (
        f"The top tenth ({n_top} of {len(flat)}, bold) holds {sum(flat[:n_top]) / sum(flat):.3f} of the score. "
        f"Right answers of {n}, 1024 tokens: {figures['all']} with all heads, {figures['no_top']} with the top tenth "
        f"silenced, {' '.join(map(str, others))} with as many others (random draws)."
    )


def eviction(figures: dict[str, dict[str, int]]) -> str:
    """Choices of heads down, budgets across; a table for each length."""
    parts = []
    for n_token, counts in figures.items():
        n = counts["n"]
        names = [re.fullmatch(r"(.*) (\d+%)", name) for name in counts]
        shares = list(dict.fromkeys(m[2] for m in names if m))
        choices = list(dict.fromkeys(m[1] for m in names if m))
        lines = [[name, *(f"{counts[name] / n:.3f}" for _ in shares)] for name in ("full", "oracle")]
        lines += [[choice, *(f"{counts[f'{choice} {s}'] / n:.3f}" for s in shares)] for choice in choices]
        parts.append(table([f"{n_token} tokens, n = {n}", *shares], lines))
    return "\n\n".join(parts)


def perplexity(figures: dict[str, dict[str, float]]) -> str:
    lines = [[name, f"{f['token']:.1f}", f"{f['bits_a_byte']:.3f}"] for name, f in figures.items()]
    return table(["text", "perplexity by token", "bits a byte"], lines)


def render(card: dict[str, Any]) -> dict[str, str]:
    return {
        "grid": grid(card["grid"]),
        "tasks": tasks(card["tasks"]),
        "heads": heads(card["scores"]),
        "ablation": ablation(card["ablation"], card["scores"]),
        "eviction": eviction(card["eviction"]),
        "perplexity": perplexity(card["perplexity"]),
    }


def main() -> None:
    page = PAGE.read_text()
    for name, card in json.loads(CARDS.read_text()).items():
        for part, text in render(card).items():
            begin, end = f"<!-- {name} {part} -->\n", "\n<!-- end -->"
            page = re.sub(
                re.escape(begin) + ".*?" + re.escape(end), lambda _, t=begin + text + end: t, page, flags=re.S
            )
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
