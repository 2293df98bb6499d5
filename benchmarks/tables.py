"""The tables of the report."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import CUDNN, FAST, FAST_XLA, KERAS_LAYER, LSTM_FAST, ON_NUMPY, TWO_CALLS
from benchmarks.results import Backends, Memory, Results, Timing

OWN = (FAST, FAST_XLA, TWO_CALLS, ON_NUMPY)
WORST = 10  # cells of the grid to name
NOTHING = "-"


class Table(NamedTuple):
    """A table of texts; the first column is its rows' names."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        rule = ("---", *["---:"] * (len(self.columns) - 1))
        lines = "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, rule, *self.rows))
        return f"## {self.title}\n\n{lines}\n" + (f"\n{self.note}\n" if self.note else "")


def tables(results: Results) -> Iterator[Table]:
    """Yields a table for everything that has been measured."""
    if results.of_kind("layers"):
        yield from _speed(results)
    if results.of_kind("roofline"):
        yield _roofline(results.of_kind("roofline"))
    if results.of_kind("scaling"):
        yield _scaling(results.of_kind("scaling"))
    if results.of_kind("padding"):
        yield _padding(results.of_kind("padding"))
    if results.of_kind("recompute"):
        yield _recompute(results.of_kind("recompute"))
    if results.of_kind("overhead"):
        yield _overhead(results.of_kind("overhead"))
    if results.of_kind("gpu"):
        yield from _gpu(results.of_kind("gpu"))
    if results.memory:
        yield _memory(results.memory)
    if results.backends:
        yield _backends(results.backends)
    if results.cells:
        yield from _grid(results)


def environment_lines(environments: dict[str, dict[str, Any]]) -> list[str]:
    """One line, or where the results come from different places, a line for each kind of them."""
    lines: dict[str, list[str]] = {}
    for kind, environment in environments.items():
        lines.setdefault(", ".join(f"{name} {value}" for name, value in environment.items()), []).append(kind)
    return [f"{' and '.join(kinds)}: {line}" if len(lines) > 1 else line for line, kinds in lines.items()]


def groups(timings: Sequence[Timing]) -> dict[tuple[bool, str], dict[str, Timing]]:
    """Timings by (training, scenario) and contender, in the order of the run."""
    found: dict[tuple[bool, str], dict[str, Timing]] = {}
    for timing in timings:
        found.setdefault((timing.info["training"], timing.info["scenario"]), {})[timing.info["contender"]] = timing
    return found


def peers(timings: Sequence[Timing]) -> list[str]:
    """The contenders that are not lstm_fast."""
    return [name for name in dict.fromkeys(timing.info["contender"] for timing in timings) if name not in OWN]


def pass_name(training: bool) -> str:
    return "training" if training else "inference"


def _speed(results: Results) -> Iterator[Table]:
    layers = results.of_kind("layers")
    # FLOP/s of the product that the share is of: by NumPy, whose OpenBLAS everybody has.
    roofline = next((t.gflops for t in results.of_kind("roofline") if t.info["contender"] == "NumPy"), None)
    for training in (False, True):
        members = {scenario: group for (kind, scenario), group in groups(layers).items() if kind == training}
        contenders = dict.fromkeys(name for group in members.values() for name in group if name != FAST)
        rows, slower = [], []
        for scenario, group in members.items():
            fast = group.get(FAST)
            row = [scenario]
            row += [NOTHING] * 3 if fast is None else [_ms(fast), f"{fast.gflops:.1f}", _share(fast, roofline)]
            for name in contenders:
                other = group.get(name)
                if other is None or fast is None:
                    row.append(NOTHING if other is None else _ms(other))
                    continue
                ratio = other.seconds / fast.seconds
                row.append(f"{_ms(other)} ({ratio:.2f})")
                if ratio < 1 and name not in OWN:
                    slower.append(f"{name} at {scenario} ({ratio:.2f})")
            rows.append(row)
        if rows:
            note = (
                "Median ms; in brackets, how many times as fast FastLSTM is. GFLOP/s count real timesteps; share: of "
                f"NumPy's matrix product. Faster than FastLSTM: {', '.join(slower) or 'none of the others'}."
            )
            columns = ("B,T,D,H", f"{FAST} ms", "GFLOP/s", "share", *contenders)
            yield Table(f"Speed, {pass_name(training)}", columns, rows, note)


def _share(timing: Timing, roofline: float | None) -> str:
    return NOTHING if roofline is None else f"{timing.gflops / roofline:.0%}"


def _roofline(timings: Sequence[Timing]) -> Table:
    rows = []
    for timing in timings:
        about = {name: value for name, value in timing.info.items() if name not in ("kind", "contender", "flop")}
        description = ", ".join(f"{name} {value}" for name, value in about.items())
        rows.append((timing.info["contender"], _ms(timing), f"{timing.gflops:.1f}", description))
    note = "A share may exceed 100 %: the core type tells which vectors OpenBLAS uses, not always the widest there are."
    return Table("Roofline: a large product of float32 matrices", ("by", "ms", "GFLOP/s", "with"), rows, note)


def _scaling(timings: Sequence[Timing]) -> Table:
    by_threads: dict[tuple[bool, str], dict[int, Timing]] = {}
    for timing in timings:
        place = by_threads.setdefault((timing.info["training"], timing.info["scenario"]), {})
        place[timing.info["threads"]] = timing
    rows = []
    for (training, scenario), times in by_threads.items():
        if 1 not in times or len(times) == 1:  # a machine with one processor, or a part of the benchmarks
            continue
        one, (threads, many) = times[1], max(times.items())
        gain = one.seconds / many.seconds
        row = (f"{pass_name(training)} {scenario}", _ms(one), f"{threads}", _ms(many))
        rows.append((*row, f"{gain:.2f}", f"{gain / threads:.0%}"))
    columns = ("pass, B,T,D,H", "ms, 1 thread", "threads", "ms", "times as fast", "efficiency")
    return Table("Threads", columns, rows, "lstm_fast on NumPy.")


def _padding(timings: Sequence[Timing]) -> Table:
    pairs: dict[tuple[bool, bool], dict[bool, Timing]] = {}
    for timing in timings:
        two_way = "bidirectional" in timing.info["scenario"]
        pairs.setdefault((timing.info["training"], two_way), {})[timing.info["masked"]] = timing
    rows = []
    for (training, _), pair in pairs.items():
        if len(pair) < 2:
            continue
        masked, unmasked = pair[True], pair[False]
        padding = masked.info["padding"]
        gain = unmasked.seconds / masked.seconds
        row = (f"{pass_name(training)} {masked.info['scenario']}", _ms(masked), _ms(unmasked), f"{gain:.2f}")
        rows.append((*row, f"{1 / (1 - padding):.2f}", f"{padding:.1%}"))
    columns = ("pass, B,T,D,H", "ms, masked", "ms, unmasked", "times as fast", "by timesteps", "padding")
    note = "FastLSTM on one padded batch; by timesteps: all of them over the real ones."
    return Table("Padding", columns, rows, note)


def _recompute(timings: Sequence[Timing]) -> Table:
    first = timings[0]
    rows = [(t.info["contender"], _ms(t), f"{t.seconds / first.seconds:.2f}") for t in timings]
    columns = ("contender", "ms", f"times {first.info['contender']}")
    return Table(f"Recomputation of the gates, training {first.info['scenario']}", columns, rows)


def _overhead(timings: Sequence[Timing]) -> Table:
    rows = [(timing.info["contender"], f"{1e6 * timing.seconds:.1f}") for timing in timings]
    return Table(f"A call with next to no work, inference {timings[0].info['scenario']}", ("contender", "µs"), rows)


def _gpu(timings: Sequence[Timing]) -> Iterator[Table]:
    for training in (False, True):
        members = {scenario: group for (kind, scenario), group in groups(timings).items() if kind == training}
        rivals = [name for name in peers(timings) if not name.startswith((LSTM_FAST, CUDNN))]
        rows, ratios = [], []
        for scenario, group in members.items():
            ours, cudnn = (_fastest(group, family) for family in (LSTM_FAST, CUDNN))
            ratio = cudnn[1].seconds / ours[1].seconds if ours and cudnn else None
            ratios += [] if ratio is None else [ratio]
            row = [scenario, *_us(ours), *_us(cudnn), NOTHING if ratio is None else f"{ratio:.2f}"]
            row.append(f"{ours[1].info['share_of_floor']:.0%}" if ours else NOTHING)
            row.append(" / ".join(_us_of_graph(group, family) for family in (LSTM_FAST, CUDNN)))
            row += [_us((name, group[name]))[0] if name in group else NOTHING for name in rivals]
            rows.append(row)
        if rows:
            below = sum(ratio < 1 for ratio in ratios)
            note = "Median µs a timestep of the longest row; graph: replayed from a CUDA graph, lstm_fast / cuDNN. "
            note += "Share: of the floor, which benchmarks/floors.py explains."
            if ratios:
                note += f" Times as fast: median {statistics.median(ratios):.2f}; below 1: {below} of {len(ratios)}."
            columns = (f"{LSTM_FAST} µs", "through", f"{CUDNN} µs", "through", "times as fast", "share", "graph µs")
            title = f"GPU, {pass_name(training)}"
            yield Table(title, ("B,T,D,H", *columns, *(f"{name} µs" for name in rivals)), rows, note)


def _fastest(group: dict[str, Timing], family: str) -> tuple[str, Timing] | None:
    """The fastest of the contenders whose names begin alike."""
    members = [(name, timing) for name, timing in group.items() if name.startswith(family)]
    return min(members, key=lambda member: member[1].seconds, default=None)


def _us(contender: tuple[str, Timing] | None) -> tuple[str, str]:
    """Microseconds a timestep, and what the parentheses of the name say."""
    if contender is None:
        return NOTHING, NOTHING
    name, timing = contender
    through = name.partition("(")[2].rstrip(")")
    if name.startswith(CUDNN) and CUDNN.lower() not in timing.info.get("kernel", CUDNN).lower():
        through += f", without {CUDNN}"  # PyTorch has a loop of its own for what cuDNN does not take
    return f"{1e6 * timing.seconds / timing.info['time']:.2f}", through


def _us_of_graph(group: dict[str, Timing], family: str) -> str:
    infos = [timing.info for name, timing in group.items() if name.startswith(family)]
    steps = [1e6 * info["graph_seconds"] / info["time"] for info in infos if "graph_seconds" in info]
    return f"{min(steps):.2f}" if steps else NOTHING


def of_tensorflow(lines: Sequence[dict[str, Any]]) -> Table:
    """The table of benchmarks.gpu_tensorflow, of the lines that it writes."""
    rows = []
    for line in lines:
        name = f"{pass_name(line['training'])} {line['what']}"
        if "error" in line:
            rows.append((name, *[NOTHING] * 4, f"FAILED: {line['error']}"[:100]))
            continue
        ours, cudnn = line["ms"][FAST], line["ms"][KERAS_LAYER]
        said = [] if line["fused"] else ["Keras's own layer ran"]
        said += [] if line["right"] else ["WRONG"]
        rows.append((name, f"{ours:.2f}", f"{cudnn:.2f}", f"{cudnn / ours:.2f}", f"{line['off']:.1e}", ", ".join(said)))
    columns = ("pass, case", f"{FAST} ms", f"{KERAS_LAYER} ms", "times as fast", "off", "")
    note = "Median ms of a step; off: the largest norm of a difference over the norm of Keras's result."
    return Table("TensorFlow", columns, rows, note)


def _memory(memory: Memory) -> Table:
    first, *_ = memory.megabytes.values()
    rows = [(name, f"{size:.0f}", f"{size / first:.2f}") for name, size in memory.megabytes.items()]
    title = f"Memory of a training step, single IMDB model, batch {memory.batch}, {memory.time} timesteps"
    return Table(title, ("contender", "MB", f"times {next(iter(memory.megabytes))}"), rows, "Rise of the peak.")


def _backends(backends: Backends) -> Table:
    rows = []
    for backend, contenders in backends.ms.items():
        plain, fast = contenders["keras.layers.LSTM"], contenders[FAST]
        for label, kind in (("", "all"), (", masked", "real")):
            ratio = plain[kind] / fast[kind]
            rows.append((f"{backend}{label}", f"{fast[kind]:.0f}", f"{plain[kind]:.0f}", f"{ratio:.1f}"))
    title = f"Keras's backends: training step, single IMDB model, batch {backends.batch}, {backends.time} timesteps"
    columns = ("backend", f"{FAST} ms", "keras.layers.LSTM ms", "times as fast")
    return Table(title, columns, rows, f"train_on_batch; {backends.padding:.1%} of the timesteps are padding.")


def _grid(results: Results) -> Iterator[Table]:
    for framework in ("Keras", "PyTorch"):
        ratios = {str(cell): cell.ratios[framework] for cell in results.cells if framework in cell.ratios}
        if not ratios:
            continue
        ranked = sorted(ratios.items(), key=lambda item: item[1])
        below = sum(ratio < 1 for ratio in ratios.values())
        note = f"{len(ratios)} cells, median {statistics.median(ratios.values()):.2f}; below 1: {below}."
        rows = [(name, f"{ratio:.2f}") for name, ratio in ranked[:WORST]]
        title = f"Grid: the worst cells against {framework}"
        yield Table(title, ("pass, B,T,D,H", "times as fast"), rows, note)


def _ms(timing: Timing) -> str:
    return f"{1e3 * timing.seconds:.2f}"
