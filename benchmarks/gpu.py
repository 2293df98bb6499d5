"""Builds, tests and measures the CUDA kernels on this machine's GPU, within a deadline, from the source tree as it is.

python -m benchmarks.gpu --output results
python -m benchmarks.gpu --output results --tune --shapes 64,256,128 64,256,512

Nothing is installed and the source tree stays as it is: a copy of it with what is compiled goes to a scratch folder.
Needed are Keras, PyTorch, pytest-benchmark, pybind11, cmake and nvcc. Results are gpu.json and report.md, which
benchmarks.report reads and writes, and a log of each step; with --tune, tune.jsonl and tune.md.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, results, tables, tune
from benchmarks.command import parser, write_json
from benchmarks.scenarios import GPU_SCENARIOS, IMDB
from benchmarks.tables import NOTHING, Table
from lstm_fast.bench.scenarios import Scenario

ROOT = Path(__file__).parents[1]
TREE = ("lstm_fast", "tests", "benchmarks", "csrc", "pyproject.toml", "CMakeLists.txt", "setup.py")
STEPS = ("build", "test", "short", "rest")
# Seconds that a command of a step may take at most; the deadline holds for all. With less than LEAST left, none begins.
LIMITS = {"build": 600, "test": 120, "short": 90, "rest": 120, "tune": 480}
LEAST = 10
SHORT_SIZES = (64, 128, 256, 512, 1024)
SHORT_PRECISIONS = ("float32", "tf32", "bfloat16")
TUNED = ("64,256,64", "64,256,128", "64,256,256", "64,256,512", "64,256,1024", "16,1024,768")
CHECKED = ("5,3,24", "9,2,72")  # a check runs every cut of them
SHOWN_ROWS, SHOWN_FAILURES = 15, 6
KILLED = "killed: out of time"


@dataclasses.dataclass
class Line:
    """What a step came to."""

    step: str
    result: str
    seconds: float = 0.0
    failed: bool = False


@dataclasses.dataclass
class Session:
    """One run: where things are, how much time is left, and what has happened."""

    output: Path
    scratch: Path
    deadline: float  # seconds since the epoch
    architecture: str | None = None
    keras_backend: str = "torch"
    lines: list[Line] = dataclasses.field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.scratch / "tree"

    @property
    def results(self) -> Path:
        return self.scratch / "results.jsonl"

    def left(self) -> float:
        return self.deadline - time.time()

    def environment(self, **more: str) -> dict[str, str]:
        """Of the processes that run what was built."""
        kept = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}  # benchmarks set it
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(self.tree), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "KERAS_BACKEND": self.keras_backend,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "BENCHMARK_DEVICE": "cuda",
            **more,
        }

    def call(
        self,
        step: str,
        command: Sequence[str],
        log: str,
        limit: float,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> tuple[int | None, str, float]:
        """Runs a command; returns its exit status, None if it was killed, what it wrote, and its seconds."""
        start = time.time()
        with (self.output / log).open("a+b") as file:
            file.write(f"$ {step}: {' '.join(map(str, command))}\n".encode())
            file.flush()
            begin = file.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(timeout=max(1.0, min(limit, self.left())))
            except subprocess.TimeoutExpired:
                status = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
            process.wait()
            file.seek(begin)
            text = file.read().decode(errors="replace")
        return status, text, time.time() - start

    def note(self, step: str, result: str, seconds: float = 0.0, *, failed: bool = False) -> None:
        self.lines.append(Line(step, result, seconds, failed))

    # The steps.

    def build(self) -> None:
        """Compiles for this GPU only, into a copy of the source tree."""
        self._copy()
        architecture = self.architecture or capability()
        if architecture is None:
            self.note("build", "nvidia-smi shows no GPU; --architecture, 90 for example, builds without", failed=True)
            return
        build, start = self.scratch / "build", time.time()
        version = re.search(r'__version__ = "(.+?)"', (self.tree / "lstm_fast" / "__init__.py").read_text())
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"),
            *(["-GNinja"] if shutil.which("ninja") and not (build / "Makefile").exists() else []),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={_output([sys.executable, '-m', 'pybind11', '--cmakedir'])}",
            f"-DLSTM_FAST_VERSION={version[1] if version else '0'}",
            "-DLSTM_FAST_CUDA=ON",
            f"-DLSTM_FAST_CUDA_ARCHITECTURES={architecture}-real",
            "-DLSTM_FAST_WERROR=OFF",  # of a compiler nobody has seen yet
        ]
        jobs = str(min(16, os.cpu_count() or 1))
        for command in (
            configure,
            ["cmake", "--build", str(build), "--parallel", jobs],
            ["cmake", "--install", str(build), "--prefix", str(self.tree / "lstm_fast")],
        ):
            status, text, _ = self.call("build", command, "build.log", LIMITS["build"])
            if status != 0:
                self.note("build", _why(status, text), time.time() - start, failed=True)
                return
        self.note("build", f"sm_{architecture}, {jobs} jobs", time.time() - start)

    def _copy(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.so", ".*")
        for name in TREE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=ignored)
            elif source.exists():
                shutil.copy(source, self.tree / name)

    def test(self) -> None:
        """The tests that need a GPU, with each framework; every cut of small problems, also under compute-sanitizer.

        All at once, as they keep the processor busier than the GPU; then what minds the others.
        """
        if not (self.tree / "tests" / "test_gpu.py").exists():
            self.note("test", "there is no tests/test_gpu.py", failed=True)
            return
        work: list[Callable[[], None]] = []
        for backend in ("torch", "jax", "tensorflow"):
            if importlib.util.find_spec(backend) is None:
                self.note(f"test {backend}", "not installed")
            else:
                work.append(functools.partial(self._test, backend, "gpu and not alone"))
        work.append(functools.partial(self._check, "every cut", ()))
        found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if found:
            for tool in ("memcheck", "racecheck"):
                sanitizer = (found, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20")
                work.append(functools.partial(self._check, tool, sanitizer))
        else:
            self.note("compute-sanitizer", "not installed")
        with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
            for future in [pool.submit(call) for call in work]:
                future.result()
        if importlib.util.find_spec("torch"):
            self._test("torch", "gpu and alone")

    def _test(self, backend: str, marked: str) -> None:
        name = f"test {backend}{'' if 'not' in marked else ' alone'}"
        if self.left() < LEAST:
            self.note(name, "no time left")
            return
        report = self.scratch / f"{name.replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        workers = ["-n", "4"] if importlib.util.find_spec("xdist") and "not" in marked else []
        options = ["-m", marked, "-v", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", *workers]
        command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-Wdefault", *options]
        environment = self.environment(KERAS_BACKEND=backend, OMP_NUM_THREADS="2")
        log = f"{name.replace(' ', '-')}.log"
        status, text, seconds = self.call(name, command, log, LIMITS["test"], environment, self.tree)
        result, failed = _of_tests(report, status, text)
        self.note(name, result, seconds, failed=failed or result.startswith("0 passed"))

    def _check(self, name: str, prefix: Sequence[str]) -> None:
        """Every cut of small problems."""
        lines = self.scratch / f"check-{name.replace(' ', '-')}.jsonl"
        lines.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.tune", "--once", "--output", str(lines)]
        # Under a sanitizer a kernel takes a hundred times as long.
        deadline = time.time() + 0.6 * min(LIMITS["test"], self.left())
        some = ["--deadline", str(deadline), "--precisions", *tune.NUMBERS]
        shapes = ["--shapes", *CHECKED] if prefix else []
        environment = self.environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        log = f"check-{name.replace(' ', '-')}.log"
        status, text, seconds = self.call(
            name, [*prefix, *command, *some, *shapes], log, LIMITS["test"], environment, self.tree
        )
        seen = _lines(lines)
        wrong = [line for line in seen if not line["right"]]
        result = f"{len(seen)} cuts run, {len(wrong)} wrong"
        if wrong:
            first = wrong[0]
            result += f", first {first['shape']} {first['precision']} {first['pass']} {first.get('forced')}"
        if summary := re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text):
            result += f"; {summary[-1]}"
        self.note(
            name,
            result if status in (0, 1) and seen else f"{result}; {_why(status, text)}",
            seconds,
            failed=status != 0 or not seen,
        )

    def short(self) -> None:
        """What matters most, first: cuDNN in one process, then ours in one for each size, as it may break it."""
        sizes = [Scenario(64, 256, size, size) for size in SHORT_SIZES]
        precisions = f"({' or '.join(SHORT_PRECISIONS)})"
        everywhere = " or ".join(f"({_selected(scenario)})" for scenario in sizes)
        self._benchmark("short", "cuDNN", f"({everywhere}) and {precisions} and cudnn_torch", 2 * LIMITS["short"])
        for scenario in sizes:
            ours = f"{_selected(scenario)} and {precisions} and fast_torch and not fast_torch_x3"
            self._benchmark("short", f"lstm_fast {scenario}", ours, LIMITS["short"])

    def rest(self) -> None:
        """Everything else, a process for each scenario; FlashRNN last, as it compiles for each."""
        scenarios = (IMDB, *(scenario for scenario in GPU_SCENARIOS if scenario != IMDB))
        short = f"({' or '.join(SHORT_PRECISIONS)}) and (cudnn_torch or (fast_torch and not fast_torch_x3))"
        for scenario in scenarios:
            done = scenario in [Scenario(64, 256, size, size) for size in SHORT_SIZES]
            others = f"{_selected(scenario)} and not flashrnn{f' and not ({short})' if done else ''}"
            self._benchmark("rest", f"{scenario}", others, LIMITS["rest"])
        if importlib.util.find_spec("flashrnn"):
            for scenario in scenarios:
                if not scenario.bidirectional and not scenario.padded:
                    self._benchmark(
                        "rest", f"FlashRNN {scenario}", f"{_selected(scenario)} and flashrnn", LIMITS["rest"]
                    )

    def _benchmark(self, step: str, name: str, selected: str, limit: float) -> None:
        """Runs what a -k expression selects of benchmarks/test_gpu.py."""
        label = f"{step} {name}"
        if self.left() < LEAST:
            self.note(label, "no time left")
            return
        report = self.scratch / "benchmark.xml"
        report.unlink(missing_ok=True)
        end = time.time() + min(limit, self.left())
        environment = self.environment(
            BENCHMARK_DEADLINE=str(end - LEAST / 2), BENCHMARK_LINES=str(self.results), BENCHMARK_SECONDS="0.2"
        )
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", "-Wdefault"]
        command = [sys.executable, "-m", "pytest", "benchmarks/test_gpu.py", "-k", f"test_layer and {selected}"]
        status, text, seconds = self.call(label, [*command, *options], "benchmark.log", limit, environment, self.tree)
        result, failed = _of_tests(report, status, text)
        self.note(label, result, seconds, failed=failed)

    def tune(self, shapes: Sequence[str], precisions: Sequence[str]) -> None:
        """Times every cut of some problems."""
        lines = self.output / "tune.jsonl"
        lines.unlink(missing_ok=True)
        work = [(shape, precision) for shape in shapes for precision in precisions]
        for n, (shape, precision) in enumerate(work):
            if self.left() < LEAST:
                self.note("tune", f"no time left from {shape} {precision} on")
                break
            share = self.left() / (len(work) - n)
            command = [sys.executable, "-m", "benchmarks.tune", "--output", str(lines), "--shapes", shape]
            some = ["--precisions", precision, "--deadline", str(time.time() + 0.8 * share)]
            status, text, seconds = self.call(
                f"tune {shape} {precision}", [*command, *some], "tune.log", 1.2 * share, self.environment(), self.tree
            )
            if status != 0:
                self.note(f"tune {shape} {precision}", _why(status, text), seconds, failed=True)

    # What is told of it.

    def write(self) -> list[Table]:
        """Writes what has been measured, and returns its tables."""
        measured = _lines(self.results)
        if not measured:
            return []
        environments = [line.pop("environment") for line in measured]
        path = self.output / "gpu.json"
        write_json(path, {"machine_info": {"lstm_fast": environments[-1]}, "benchmarks": measured})
        read = results.read([path])
        rendered = list(tables.tables(read))
        report.write(read, rendered, self.output, ())
        return rendered

    def table(self) -> Table:
        """What each step came to; of the benchmarks, what is more than that they ran."""
        plain = [line for line in self.lines if line.step.startswith("rest ") and not line.failed]
        rows = [
            (line.step, "FAILED" if line.failed else "", f"{line.seconds:.0f}", line.result)
            for line in self.lines
            if line not in plain
        ]
        if plain:
            none = sum(line.result == "no time left" for line in plain)
            seconds = sum(line.seconds for line in plain)
            rows.append(("rest", "", f"{seconds:.0f}", f"{len(plain) - none} scenarios; no time left for {none}"))
        return Table("Steps", ("step", "", "s", "result"), rows)


def tuned(path: Path) -> Table | None:
    """The fastest cut of each problem and pass beside the chosen one; None where there is none."""
    problems: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in _lines(path):
        problems.setdefault((line["shape"], line["precision"], line["pass"]), []).append(line)
    rows = []
    for problem, lines in problems.items():
        chosen = next((line for line in lines if line["chosen"]), None)
        usable = [line for line in lines if line["right"]]
        wrong = len(lines) - len(usable)
        if chosen is None or not usable:
            rows.append((" ".join(problem), *[NOTHING] * 6, f"{wrong}"))
            continue
        best = min(usable, key=lambda line: line["us_per_step"])
        ratio = chosen["us_per_step"] / best["us_per_step"]
        times = (f"{line['us_per_step']:.2f}" for line in (chosen, best))
        cuts = (_cut(line["cut"]) for line in (chosen, best))
        texts = [text for pair in zip(times, cuts, strict=True) for text in pair]
        rows.append((" ".join(problem), *texts, f"{ratio:.2f}", f"{len(lines) - 1}", f"{wrong}"))
    columns = ("B,T,H precision pass", "chosen µs", "cut", "best µs", "cut", "gain", "tried", "wrong")
    note = "µs a timestep of the recurrence alone. A cut: kernel, exchange, blocks of a group x rows, warps."
    return Table("Cuts", columns, rows, note) if rows else None


def _cut(cut: Mapping[str, Any]) -> str:
    return f"{cut['variant']} {cut['exchange']} {cut['blocks']}x{cut['rows']} {cut['warps']}w"


def capability() -> str | None:
    """The compute capability of the first GPU, 90 for example; None if there is none."""
    text = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"])
    return text.replace(".", "") if re.fullmatch(r"\d+\.\d+", text) else None


def _output(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _selected(scenario: Scenario) -> str:
    """The -k expression for a scenario by the name that conftest.py gives it."""
    size = f"{scenario.batch}x{scenario.time}x{scenario.features}x{scenario.units}"
    kinds = {"bidirectional": scenario.bidirectional, "padded": scenario.padded}
    return " and ".join([size, *(kind if has else f"not {kind}" for kind, has in kinds.items())])


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON, of which the last may be cut off."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _why(status: int | None, text: str) -> str:
    """Why a command failed: the line of what it wrote that looks like the reason."""
    last = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in last if re.search(r"error|fatal|not found", line, re.IGNORECASE)]
    line = (telling[-1:] or last[-1:] or [""])[0][:200]
    return f"{KILLED if status is None else f'exit status {status}'}: {line}"


def _of_tests(report: Path, status: int | None, text: str) -> tuple[str, bool]:
    """What a run of pytest came to, and whether that is a failure."""
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))
    except (OSError, ET.ParseError):  # killed or crashed
        done = {word: len(re.findall(rf"\b{word}\b", text)) for word in ("PASSED", "FAILED")}
        return f"{done['PASSED']} passed, {done['FAILED']} failed until {_why(status, text)}", True
    bad = [
        f"{case.get('name')}" for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    result = f"{len(cases) - len(bad) - skipped} passed, {skipped} skipped, {len(bad)} failed"
    if bad:
        result += f": {', '.join(bad[:SHOWN_FAILURES])}{' ...' if len(bad) > SHOWN_FAILURES else ''}"
    nothing = 5  # of pytest: no tests were selected
    return result, bool(bad) or status not in (0, nothing)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("gpu", __doc__)
    options.add_argument("--output", type=Path, required=True, help="folder for results and logs")
    options.add_argument("--scratch", type=Path, default=ROOT / "build" / "gpu", help="folder to build and run in")
    options.add_argument("--deadline", type=float, default=480.0, help="seconds after which nothing runs any more")
    options.add_argument("--steps", nargs="+", choices=STEPS, help="what to do, in this order; default: all")
    options.add_argument("--architecture", help="compute capability to build for, such as 90; default: the GPU's")
    options.add_argument("--tune", action="store_true", help="build, then time every cut instead of testing")
    options.add_argument("--shapes", nargs="+", default=TUNED, help="what to tune: B,T,H each")
    options.add_argument("--precisions", nargs="+", choices=tune.NUMBERS, default=SHORT_PRECISIONS, help="likewise")
    given = options.parse_args(arguments)
    session = Session(
        given.output.resolve(),
        given.scratch.resolve(),
        time.time() + given.deadline,
        given.architecture,
    )
    session.output.mkdir(parents=True, exist_ok=True)
    session.scratch.mkdir(parents=True, exist_ok=True)
    session.results.unlink(missing_ok=True)
    run(session, given.steps or (("build",) if given.tune else STEPS))
    shown: list[Table] = []
    if given.tune and not any(line.failed for line in session.lines):
        session.tune(given.shapes, given.precisions)
        shown += [table for table in (tuned(session.output / "tune.jsonl"),) if table]
        (session.output / "tune.md").write_text("\n".join(table.markdown() for table in shown))
    else:
        shown += session.write()
    write_json(session.output / "steps.json", {"steps": [dataclasses.asdict(line) for line in session.lines]})
    report.show([_cut_off(table) for table in (session.table(), *shown)])
    return int(any(line.failed for line in session.lines))


def run(session: Session, steps: Sequence[str]) -> None:
    """Takes the steps; without a build that worked, none of the others."""
    for step in steps:
        if session.left() < LEAST:
            session.note(step, "no time left")
            continue
        getattr(session, step)()
        if step == "build" and any(line.failed for line in session.lines):
            return


def _cut_off(table: Table) -> Table:
    shown = table.rows[:SHOWN_ROWS]
    left = len(table.rows) - len(shown)
    note = f"{left} more rows in the folder of results." if left else ""
    return table._replace(rows=shown, note=note)


if __name__ == "__main__":
    sys.exit(main())
