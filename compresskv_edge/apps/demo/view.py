"""How `make demo` shows its result: figures first, and last a picture that makes the point in one look.

Everything can be read without colours: right and wrong, kept and lost have signs of their own. Where the output cannot
show block characters, ASCII takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .measure import N_CELLS, Answer, DemoResult, Measurement

_NARROW = 64  # columns: below, answers stand under the questions
_FULL, _OURS = "full cache", "compressed"


@dataclass(frozen=True)
class _Signs:
    shades: str  # from nothing kept to all
    full: str  # of a bar
    evidence: str
    lost: str
    right: str
    wrong: str


_BLOCKS = _Signs(" ░▒▓█", "█", "◆", "◇", "✓", "✗")
_ASCII = _Signs(" .:+#", "#", "O", "x", "ok", "WRONG")


def show(result: DemoResult, console: Console) -> None:
    """Print all of it."""
    signs = _BLOCKS if console.encoding.startswith("utf") else _ASCII
    console.print("\nTokens kept per layer")
    for layer, n_kept in enumerate(result.compressed.kv.n_tokens_kept):
        console.print(_layer_bar(layer, n_kept, result.n_prompt_tokens, console, signs), highlight=False)
    console.print()
    console.print(_numbers_table(result))
    console.print("Each cache read the document once; every question came right behind it.")
    _show_picture(result, console, signs)
    console.print(f"\n{_point(result)}\n", highlight=False)


def _show_picture(result: DemoResult, console: Console, signs: _Signs) -> None:
    n = len(result.answers)
    console.print(
        f"\n{n} question{'s' * (n > 1)} about {result.title}, {result.n_prompt_tokens} tokens\n", style="bold"
    )
    if console.width >= _NARROW:
        console.print(_row(Text(""), (Text(_FULL, style="bold"), Text(_OURS, style="bold")), console))
    for answer in result.answers:
        console.print(Text(answer.question))
        for line in _answer_lines(answer, console, signs):
            console.print(line)
    console.print()
    for line in _legend(signs, console):
        console.print(line)
    console.print()
    for name, value, text in (
        ("KV memory", lambda m: m.kv.kv_bytes, lambda m: f"{m.kv.kv_bytes / 1e6:.2f} MB"),
        ("decoding", lambda m: m.decode_tokens_per_s, lambda m: f"{m.decode_tokens_per_s:.0f} tokens/s"),
    ):
        for line in _bars(name, value, text, result, console, signs):
            console.print(line)


def _answer_lines(answer: Answer, console: Console, signs: _Signs) -> Iterator[Table | Text]:
    strip = _strip(answer, signs, console.width)
    verdicts = [
        _verdict(f"{name}: " if console.width < _NARROW else "", text, right, signs)
        for name, text, right in (
            (_FULL, answer.full, answer.full_is_right),
            (_OURS, answer.compressed, answer.compressed_is_right),
        )
    ]
    if console.width < _NARROW:
        yield from (strip, *verdicts)
        return
    yield _row(strip, verdicts, console)


def _row(strip: Text, cells: Sequence[Text], console: Console) -> Table:
    width = N_CELLS + 2
    row = Table.grid(padding=(0, 1))
    row.add_column(width=width)
    for _ in cells:
        row.add_column(width=(console.width - width - 3) // 2, overflow="fold")
    row.add_row(strip, *cells)
    return row


def _verdict(name: str, text: str, right: bool, signs: _Signs) -> Text:
    sign = signs.right if right else signs.wrong
    return Text(f"{name}{sign} {text}", style="green" if right else "red")


def _strip(answer: Answer, signs: _Signs, width: int) -> Text:
    """The document from left to right: how much of it was kept, and the evidence."""
    step = 1 if width >= len(answer.kept) + 2 else 2
    strip = Text("|", style="dim")
    for i in range(0, len(answer.kept), step):
        if i <= answer.evidence < i + step:
            kept = answer.has_evidence
            strip.append(signs.evidence if kept else signs.lost, style="bold green" if kept else "bold red")
        else:
            strip.append(_shade(max(answer.kept[i : i + step]), signs), style="cyan")
    return strip.append("|", style="dim")


def _shade(share: float, signs: _Signs) -> str:
    """Kept shares are small: the darkest shade begins at a third."""
    return signs.shades[min(int(share * 3 * len(signs.shades)), len(signs.shades) - 1)]


def _legend(signs: _Signs, console: Console) -> Iterator[Text]:
    step = 100 / (3 * len(signs.shades))
    shades = ", ".join(f"{sign} {i * step:.0f}%" for i, sign in enumerate(signs.shades) if i)
    yield Text(f"the document from start to end; kept of it: {shades} or more", style="dim")
    yield Text.assemble(
        ("the evidence: ", "dim"), (signs.evidence, "bold green"), (" kept, ", "dim"),
        (signs.lost, "bold red"), (" lost", "dim"),
    )  # fmt: skip


def _bars(
    name: str,
    value: Callable[[Measurement], float],
    text: Callable[[Measurement], str],
    result: DemoResult,
    console: Console,
    signs: _Signs,
) -> Iterator[Text]:
    sides = ((_FULL, result.full, "red"), (_OURS, result.compressed, "green"))
    width = max(1, console.width - 38)
    most = max(value(side) for _, side, _ in sides)
    for label, side, style in sides:
        head = f"{name if label == _FULL else '':<10} {label}  " if console.width >= _NARROW else f"{label} "
        bar = signs.full * max(1, round(width * value(side) / most)) if console.width >= _NARROW else ""
        said = text(side) if console.width >= _NARROW else f"{name} {text(side)}"
        yield Text.assemble(head, (bar, style), " " if bar else "", said)


def _layer_bar(layer: int, n_kept: int, n_tokens: int, console: Console, signs: _Signs) -> str:
    width = max(1, min(30, console.width - 18))
    n = max(1, round(width * n_kept / n_tokens))
    rest = "░" if signs is _BLOCKS else "."
    return f"  {layer:2d} {signs.full * n}{rest * (width - n)} {n_kept:4d} ({n_kept / n_tokens:.0%})"


def _numbers_table(result: DemoResult) -> Table:
    table = Table(box=box.SIMPLE)
    for name in ("", _FULL, _OURS):
        table.add_column(name, overflow="fold")
    rows: Sequence[tuple[str, Callable[[Measurement], str]]] = (
        ("KV cache while answering, MB", lambda m: f"{m.kv.kv_bytes / 1e6:.2f}"),
        ("KV cache at its peak, MB", lambda m: f"{m.kv.kv_bytes_peak / 1e6:.2f}"),
        ("reading document and question, ms", lambda m: f"{m.prefill_ms:.0f}"),
        ("eviction, ms", lambda m: f"{m.eviction_ms:.1f}"),
    )
    for name, text in rows:
        table.add_row(name, text(result.full), text(result.compressed))
    return table


def _point(result: DemoResult) -> str:
    n_full = sum(answer.full_is_right for answer in result.answers)
    n_ours = sum(answer.compressed_is_right for answer in result.answers)
    kept = result.compressed.kv.n_tokens_kept
    share = sum(kept) / len(kept) / result.n_prompt_tokens
    speed = result.compressed.decode_tokens_per_s / result.full.decode_tokens_per_s
    return (
        f"With {share:.0%} of the tokens, the model answers {n_ours} of {len(result.answers)} questions "
        f"(full cache: {n_full}), decodes {speed:.1f} times as fast, and its cache takes "
        f"{result.compressed.kv.kv_bytes / result.full.kv.kv_bytes:.0%} of the memory."
    )
