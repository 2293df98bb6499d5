"""The tables of the report, of rows of results."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import (
    BASELINE,
    CUDNN,
    FAST,
    FAST_XLA,
    KERAS_LAYER,
    LSTM_FAST,
    ON_NUMPY,
    PRODUCT,
    PYTORCH,
    TWO_CALLS,
    XLA,
    verdicts,
)
from benchmarks.results import File, Row, pass_name
from lstm_fast.bench.turns import ratio
from lstm_fast.bench.words import significant

OWN = (FAST, FAST_XLA, TWO_CALLS, ON_NUMPY)
ONE_BY_ONE = ("layers", "recompute", "overhead")  # suites that measure each after the other, in rounds of its own
WORST = 10  # cells of the grid to name
SHOWN_CHARACTERS = 120  # of the result of a step
NOTHING = "-"


class Table(NamedTuple):
    """A table of texts; the first column is its rows' names."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        rule = ("---", *["---:"] * (len(self.columns) - 1))
        texts = ([text.replace("|", r"\|") for text in line] for line in (self.columns, rule, *self.rows))
        lines = "\n".join(f"| {' | '.join(line)} |" for line in texts)
        return f"## {self.title}\n\n{lines}\n" + (f"\n{self.note}\n" if self.note else "")


class Cell(NamedTuple):
    """One cell of the grid; a ratio says how many times as fast lstm_fast is."""

    batch: int
    time: int
    features: int
    units: int
    pass_: str
    ratios: dict[str, float]  # over the fastest contender of each framework

    def __str__(self) -> str:
        return f"{self.pass_} {self.batch},{self.time},{self.features},{self.units}"


def tables(files: Sequence[File]) -> Iterator[Table]:
    """Yields a table for everything that has been measured, and one of what failed.

    Raises:
        ValueError: rows lack what their table shows; the message begins with the names of the files.
    """
    good: dict[str, list[Row]] = {}
    bad = []
    for row in (row for file in files for row in file.rows):
        if "error" in row.facts:
            bad.append((f"{row.suite} {row.name}", row.contender, f"{row.facts['error']}"[:200]))
        else:
            good.setdefault(row.suite, []).append(row)
    for suite in sorted(good, key=lambda suite: list(TABLES).index(suite) if suite in TABLES else -1):
        try:
            products = good.get("roofline", []) if suite == "layers" else []
            yield from TABLES[suite](good[suite] + products)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            names = ", ".join(f"{file.path}" for file in files if suite in file.suites)
            found = f"{suite}: {error!r}"
            raise ValueError(f"{names}: expected rows that benchmarks.tables can show, found {found}") from error
    if bad:
        yield Table("Failed", ("suite, case", "contender", "why"), bad)


def head(files: Sequence[File]) -> list[str]:
    """Says of each file which suites it has and where they come from; of equal machines only once."""
    lines: dict[str, list[str]] = {}
    for file in files:
        machine = ", ".join(f"{name} {value}" for name, value in file.header.environment.items())
        lines.setdefault(machine, []).append(f"- {' and '.join(file.suites)}: {file.header}")
    return ["\n".join([*origins, "", machine]).strip() for machine, origins in lines.items()]


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows by (pass, case) and contender, in the order of the run."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.pass_, row.case), {})[row.contender] = row
    return found


def peers(rows: Sequence[Row]) -> list[str]:
    """The contenders that are not lstm_fast."""
    return [name for name in dict.fromkeys(row.contender for row in rows) if name not in OWN]


def cells(rows: Sequence[Row]) -> list[Cell]:
    """The cells of the grid; each ratio is over what is called in the same way.

    That is within TensorFlow, as a graph or by XLA, or from Python.
    """
    found = []
    for (pass_, _), group in groups(rows).items():
        own = min((group[name] for name in (FAST, FAST_XLA) if name in group), key=lambda row: row.median)
        ratios = {"Keras": _over(own, group, BASELINE, XLA), "PyTorch": _over(group[ON_NUMPY], group, PYTORCH)}
        shape = (int(own.facts[name]) for name in ("batch", "time", "features", "units"))
        found.append(Cell(*shape, pass_, {name: value for name, value in ratios.items() if value is not None}))
    return found


def _over(own: Row, group: dict[str, Row], *names: str) -> float | None:
    """How many times as long the fastest of these contenders takes; None if there is none.

    Where all took turns it is the median over the rounds.
    """
    others = [group[name] for name in names if name in group]
    if not others or not own.facts.get("right", True):
        return None
    if own.suite in ONE_BY_ONE:
        return min(row.median for row in others) / own.median
    return ratio(own.seconds, *(row.seconds for row in others))


Extra = Callable[[Row, dict[str, Row]], str]  # a column, of FastLSTM's row and all of the case


def _compared(title: str, note: str = "", **extra: Extra) -> Callable[[Sequence[Row]], Iterator[Table]]:
    """A table with FastLSTM's time, and how many times as long each other contender takes."""

    def render(rows: Sequence[Row]) -> Iterator[Table]:
        products = [(PRODUCT, row) for row in rows if (row.suite, row.contender) == ("roofline", "NumPy")]
        members = [row for row in rows if row.suite != "roofline"]
        contenders = [name for name in dict.fromkeys(row.contender for row in members) if name not in (FAST, PRODUCT)]
        lines, slower = [], []
        for group in ({**dict(products), **group} for group in groups(members).values()):
            fast = group.get(FAST)
            anyone = next(row for name, row in group.items() if name != PRODUCT)
            line = [anyone.name, *([NOTHING] * (1 + len(extra)) if fast is None else [_ms(fast)])]
            line += [] if fast is None else [text(fast, group) for text in extra.values()]
            for name in contenders:
                times = _over(fast, group, name) if fast else None
                time = _ms(group[name]) if name in group else NOTHING
                line.append(time if times is None else f"{time} ({times:.2f})")
                if times is not None and times < 1 and name not in OWN:
                    slower.append(f"{name} at {anyone.name} ({times:.2f})")
            lines.append(line)
        how = "" if members[0].suite in ONE_BY_ONE else ", the median of the rounds"
        said = f"Median ms; in brackets, how many times as fast {FAST} is{how}. {note}".strip()
        said += f" Faster than {FAST}: {', '.join(slower) or 'none of the others'}."
        yield Table(title, ("pass, case", f"{FAST} ms", *extra, *contenders), lines, said)

    return render


def _share(own: Row, group: dict[str, Row]) -> str:
    """Of the rate of NumPy's matrix product, whose OpenBLAS everybody has."""
    times = _over(own, group, PRODUCT)
    return NOTHING if times is None else f"{own.facts['flop'] / group[PRODUCT].facts['flop'] * times:.0%}"


def _memory_of(other: Row, own: Row) -> str:
    """How many times as much memory the other one takes."""
    sizes = [row.facts.get("peak_bytes") for row in (other, own)]
    return f"{sizes[0] / sizes[1]:.2f}" if all(sizes) else NOTHING


def _remarks(own: Row, _: dict[str, Row]) -> str:
    said = [] if own.facts["fused"] else ["Keras's own layer ran"]
    return ", ".join(said if own.facts["right"] else [*said, verdicts.WRONG])


def _roofline(rows: Sequence[Row]) -> Iterator[Table]:
    lines = []
    for row in rows:
        description = ", ".join(f"{name} {value}" for name, value in row.facts.items() if name != "flop")
        lines.append((row.contender, _ms(row), f"{row.gflops:.1f}", description))
    note = "A share may exceed 100 %: the core type tells which vectors OpenBLAS uses, not always the widest there are."
    title = "Roofline: a large product of float32 matrices"
    yield Table(title, ("by", "ms", "GFLOP/s", "with"), lines, note)


def _padding(rows: Sequence[Row]) -> Iterator[Table]:
    pairs: dict[tuple[str, bool], dict[bool, Row]] = {}
    for row in rows:
        pairs.setdefault((row.pass_, "bidirectional" in row.case), {})[row.facts["masked"]] = row
    lines = []
    for pair in pairs.values():
        if len(pair) < 2:
            continue
        masked, unmasked = pair[True], pair[False]
        padding = masked.facts["padding"]
        line = (masked.name, _ms(masked), _ms(unmasked), f"{unmasked.median / masked.median:.2f}")
        lines.append((*line, f"{1 / (1 - padding):.2f}", f"{padding:.1%}"))
    columns = ("pass, B,T,D,H", "ms, masked", "ms, unmasked", "times as fast", "by timesteps", "padding")
    note = "FastLSTM on one padded batch; by timesteps: all of them over the real ones."
    yield Table("Padding", columns, lines, note)


def _threads(rows: Sequence[Row]) -> Iterator[Table]:
    numbers = sorted({row.facts["threads"] for row in rows})
    by_number: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_number.setdefault(row.name, {})[row.facts["threads"]] = row
    lines = []
    for name, found in by_number.items():
        times = (
            f"{_ms(found[n])} ({found[1].median / found[n].median:.1f})" if n in found else NOTHING for n in numbers
        )
        lines.append((name, *times))
    note = "Median ms; in brackets, how many times as fast as one thread. lstm_fast on NumPy."
    yield Table("Threads", ("pass, B,T,D,H", *map(str, numbers)), lines, note)


def _memory(rows: Sequence[Row]) -> Iterator[Table]:
    first = rows[0]
    sizes = {row.contender: row.facts["peak_bytes"] for row in rows}
    lines = [(name, f"{size / 1e6:.0f}", f"{size / sizes[first.contender]:.2f}") for name, size in sizes.items()]
    columns = ("contender", "MB", f"times {first.contender}")
    yield Table(f"Memory of a training step, {first.case}", columns, lines, "Rise of the peak.")


def _grid(rows: Sequence[Row]) -> Iterator[Table]:
    found = cells(rows)
    for framework in ("Keras", "PyTorch"):
        ratios = {f"{cell}": cell.ratios[framework] for cell in found if framework in cell.ratios}
        if not ratios:
            continue
        ranked = sorted(ratios.items(), key=lambda item: item[1])
        below = sum(value < 1 for value in ratios.values())
        note = f"{len(ratios)} cells, median {statistics.median(ratios.values()):.2f}; below 1: {below}."
        lines = [(name, f"{value:.2f}") for name, value in ranked[:WORST]]
        title = f"Grid: the worst cells against {framework}"
        yield Table(title, ("pass, B,T,D,H", "times as fast"), lines, note)


def _exports(rows: Sequence[Row]) -> Iterator[Table]:
    writers = list(dict.fromkeys(row.contender for row in rows))
    for backend in dict.fromkeys(row.facts["backend"] for row in rows):
        members = [row for row in rows if row.facts["backend"] == backend]
        lines = [
            (case, *(group[name].facts["outcome"] for name in writers)) for (_, case), group in groups(members).items()
        ]
        packages = members[0].facts["packages"]
        note = f"The largest difference to the model. {', '.join(f'{name} {packages[name]}' for name in packages)}."
        yield Table(f"Exports, Keras on {backend}", ("format, LSTM, mask", *writers), lines, note)


def _against(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each tree that this one was compared with: files of several comparisons may lie in one folder."""
    comparisons: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        comparisons.setdefault((row.facts["other"], row.facts["threshold"]), []).append(row)
    for members in comparisons.values():
        yield _comparison(members)


def _comparison(rows: Sequence[Row]) -> Table:
    lines = []
    for found in verdicts.lines(rows):
        this = found.rows[0]
        if found.interval is None:
            lines.append((this.name, this.contender, *[NOTHING] * 4, found.verdict, found.why[:200]))
            continue
        low, median, high = (f"{value:.2f}" for value in found.interval)
        # The first attempt's, as the interval is.
        own, other = (
            next(row for row in found.rows if row.facts["tree"] == tree) for tree in (verdicts.THIS, verdicts.OTHER)
        )
        memory = _memory_of(other, own)
        lines.append((own.name, own.contender, median, f"{low} to {high}", _ms(own), memory, found.verdict, ""))
    facts = rows[0].facts
    columns = ("pass, case", "contender", "times as fast", "95 % interval", "ms", "memory of the other", "verdict", "")
    note = (
        "Slower or faster: the interval of the median ratio says that one of both takes more than "
        f"{100 * facts['threshold']:g}% longer, and so it does in new processes. Figures are those of the first ones. "
        "Nothing is timed that computes something wrong in one of the trees."
    )
    return Table(f"This tree against {facts['other']}", columns, lines, note)


def _gpu(rows: Sequence[Row]) -> Iterator[Table]:
    for pass_ in (pass_name(False), pass_name(True)):
        members = {case: group for (kind, case), group in groups(rows).items() if kind == pass_}
        rivals = [name for name in peers(rows) if not name.startswith((LSTM_FAST, CUDNN))]
        lines, ratios = [], []
        for case, group in members.items():
            ours, cudnn = (_fastest(group, family) for family in (LSTM_FAST, CUDNN))
            times = cudnn.median / ours.median if ours and cudnn else None
            ratios += [] if times is None else [times]
            line = [case, *_us(ours), *_us(cudnn), NOTHING if times is None else f"{times:.2f}"]
            line.append(f"{ours.facts['share_of_floor']:.0%}" if ours else NOTHING)
            line.append(" / ".join(_us_of_graph(group, family) for family in (LSTM_FAST, CUDNN)))
            line += [_us(group.get(name))[0] for name in rivals]
            lines.append(line)
        if lines:
            below = sum(value < 1 for value in ratios)
            note = "Median µs a timestep of the longest row; graph: replayed from a CUDA graph, lstm_fast / cuDNN. "
            note += "Share: of the floor, which benchmarks/floors.py explains."
            if ratios:
                note += f" Times as fast: median {statistics.median(ratios):.2f}; below 1: {below} of {len(ratios)}."
            columns = (f"{LSTM_FAST} µs", "through", f"{CUDNN} µs", "through", "times as fast", "share", "graph µs")
            yield Table(f"GPU, {pass_}", ("B,T,D,H", *columns, *(f"{name} µs" for name in rivals)), lines, note)


def _fastest(group: dict[str, Row], family: str) -> Row | None:
    """The fastest of the contenders whose names begin alike."""
    members = [row for name, row in group.items() if name.startswith(family)]
    return min(members, key=lambda row: row.median, default=None)


def _us(row: Row | None) -> tuple[str, str]:
    """Microseconds a timestep, and what the parentheses of the name say."""
    if row is None:
        return NOTHING, NOTHING
    through = row.contender.partition("(")[2].rstrip(")")
    if row.contender.startswith(CUDNN) and CUDNN.lower() not in row.facts.get("kernel", CUDNN).lower():
        through += f", without {CUDNN}"  # PyTorch has a loop of its own for what cuDNN does not take
    return f"{1e6 * row.median / row.facts['time']:.2f}", through


def _us_of_graph(group: dict[str, Row], family: str) -> str:
    facts = [row.facts for name, row in group.items() if name.startswith(family)]
    steps = [1e6 * fact["graph_seconds"] / fact["time"] for fact in facts if "graph_seconds" in fact]
    return f"{min(steps):.2f}" if steps else NOTHING


def telling(rows: Sequence[Row]) -> list[Row]:
    """Of all cuts of a problem the chosen one and the fastest that is right; both know how many there were."""
    problems: dict[str, list[Row]] = {}
    for row in rows:
        problems.setdefault(row.name, []).append(row)
    kept = []
    for members in problems.values():
        counts = {"tried": len(members) - 1, "wrong": sum(not row.facts["right"] for row in members)}
        chosen = next((row for row in members if row.facts["chosen"]), members[0])
        usable = (row for row in members if row.facts["right"] and row.seconds)
        best = min(usable, key=lambda row: row.median, default=chosen)
        for row in (chosen, best)[: 1 + (best is not chosen)]:
            kept.append(dataclasses.replace(row, facts={**counts, **row.facts}))  # counts that are there stay
    return kept


def _cuts(rows: Sequence[Row]) -> Iterator[Table]:
    pairs: dict[str, list[Row]] = {}
    for row in telling(rows):
        pairs.setdefault(row.name, []).append(row)
    lines = []
    for name, pair in pairs.items():
        chosen, best = pair[0], pair[-1]
        tried, wrong = (f"{chosen.facts[count]}" for count in ("tried", "wrong"))
        if not (chosen.facts["chosen"] and chosen.seconds and best.facts["right"]):
            lines.append((name, *[NOTHING] * 5, tried, wrong))
            continue
        texts = [text for row in (chosen, best) for text in (_us(row)[0], _cut(row.facts["cut"]))]
        lines.append((name, *texts, f"{chosen.median / best.median:.2f}", tried, wrong))
    columns = ("pass, B,T,H precision", "chosen µs", "cut", "best µs", "cut", "gain", "tried", "wrong")
    note = "µs a timestep of the recurrence alone. A cut: kernel, exchange, blocks of a group x rows, warps."
    yield Table("Cuts", columns, lines, note)


def _cut(cut: Mapping[str, Any]) -> str:
    return f"{cut['variant']} {cut['exchange']} {cut['blocks']}x{cut['rows']} {cut['warps']}w"


def _parts(rows: Sequence[Row]) -> Iterator[Table]:
    lines = [
        (row.name, row.contender, f"{1e6 * row.median / row.facts['time']:.4f}", f"{row.facts['off']:.1e}")
        for row in rows
    ]
    note = (
        "µs a timestep, from CUDA graphs. Off: the norm of the difference to the first way over the norm of its result."
    )
    yield Table("Parts of a training step", ("part, B,T,H precision", "computed", "µs", "off"), lines, note)


def _steps(rows: Sequence[Row]) -> Iterator[Table]:
    """What each step of benchmarks.gpu came to; of the benchmarks, what is more than that they ran."""
    plain = [row for row in rows if row.case.startswith("rest ") and not row.facts["failed"]]
    lines = [
        (row.case, "FAILED" if row.facts["failed"] else "", f"{row.median:.0f}", row.facts["result"][:SHOWN_CHARACTERS])
        for row in rows
        if row not in plain
    ]
    if plain:
        none = sum(row.facts["undone"] for row in plain)
        result = f"{len(plain) - none} scenarios; no time left for {none}"
        lines.append(("rest", "", f"{sum(row.median for row in plain):.0f}", result))
    yield Table("Steps", ("step", "", "s", "result"), lines)


def _ms(row: Row) -> str:
    return significant(1e3 * row.median)


# By suite, in the order of the report.
TABLES: Mapping[str, Callable[[Sequence[Row]], Iterator[Table]]] = {
    "layers": _compared(
        "Speed",
        "GFLOP/s count real timesteps; share: of NumPy's matrix product.",
        **{"GFLOP/s": lambda own, _: f"{own.gflops:.1f}", "share": _share},
    ),
    "roofline": _roofline,
    "padding": _padding,
    "recompute": _compared("Recomputation of the gates"),
    "overhead": _compared("A call with next to no work"),
    "turns": _compared("In turns", "Share: of the rate of NumPy's matrix product, in turns, too.", share=_share),
    "threads": _threads,
    "gpu": _gpu,
    "tensorflow": _compared(
        "TensorFlow",
        "Off: the largest norm of a difference over the norm of Keras's result.",
        off=lambda own, _: f"{own.facts['off']:.1e}",
        remarks=_remarks,
    ),
    "parts": _parts,
    "cuts": _cuts,
    "memory": _memory,
    "backends": _compared("Keras's backends", "A step is train_on_batch."),
    "grid": _grid,
    "exports": _exports,
    "reviews": _compared(
        "Reviews",
        f"A step is some batches. Memory: how many times as much {KERAS_LAYER} takes.",
        memory=lambda own, group: _memory_of(group[KERAS_LAYER], own),
    ),
    "against": _against,
    "steps": _steps,
}
