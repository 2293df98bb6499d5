"""Builds, tests and measures the CUDA kernels on this machine's GPU, within a deadline, from the source tree as it is.

python -m benchmarks.gpu kernels --output results         # 9 minutes: few units, new kernels, padding, all processors
python -m benchmarks.gpu tensorflow --output results      # 12 minutes: FastLSTM beside Keras's cuDNN
python -m benchmarks.gpu all --output results             # every test and scenario, as far as time allows
python -m benchmarks.gpu tune --output results --shapes 64,256,128 64,256,512

Nothing is installed and the source tree stays as it is: a copy of it with what is compiled goes to a scratch folder.
Needed are Keras, pytest-benchmark, pybind11, cmake and nvcc, and PyTorch or TensorFlow; benchmarks.carry brings what is
missing to a machine without a package index.
A second call with the same sources leaves out steps that are done, and takes those that failed last. Results are
results.jsonl, which benchmarks.report reads, and its page, report.md. What failing commands wrote last is in
failures.txt; the scratch folder has all of it.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
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

from benchmarks import carry, report, results, tune
from benchmarks.command import parsed, parser
from benchmarks.results import Row
from benchmarks.scenarios import GPU_SCENARIOS, IMDB, IMDB_REPEATING, PRECISIONS, SMALL_GPU_SCENARIOS
from benchmarks.tables import Table, tables, telling
from lstm_fast.bench.scenarios import Scenario

ROOT = Path(__file__).parents[1]
TREE = ("lstm_fast", "tests", "benchmarks", "csrc", "pyproject.toml", "CMakeLists.txt", "setup.py")
# Seconds for each step of a run, in the order of the steps. The run's deadline holds for all together.
RUNS: Mapping[str, Mapping[str, float]] = {
    "kernels": {
        "build": 150,
        "smoke": 50,
        "small": 110,
        "parts": 30,
        "search": 60,
        "sanitize": 50,
        "reviews": 50,
        "threads": 40,
    },
    "tensorflow": {
        "libraries": 60,
        "build": 150,
        "smoke": 90,
        "layers": 150,
        "models": 150,
        "jit": 60,
        "devices": 60,
    },
    "all": {"build": 600, "test": 240, "short": 600, "rest": 3600},
    "tune": {"build": 600, "tune": 3600},
}
DEADLINES = {"kernels": 540.0, "tensorflow": 720.0, "all": 480.0, "tune": 480.0}
NEEDED = ("libraries", "build")  # if one of these fails, the others cannot run
# A command of a step may take so many seconds at most. None begins with less than LEAST left.
LIMITS = {"test": 120, "short": 90, "rest": 120}
LEAST = 10
OURS = "fast_torch and not fast_torch_x3 and not fast_torch_every"  # for -k
SHORT_SIZES = (64, 128, 256, 512, 1024)
SHORT_SCENARIOS = (
    *(Scenario(64, 256, size, size) for size in SHORT_SIZES),
    *(Scenario(1, 256, size, size) for size in (128, 512)),
)
SHORT_PRECISIONS = PRECISIONS
TUNED = ("64,256,64", "64,256,128", "64,256,256", "64,256,512", "64,256,1024", "16,1024,768")
TUNED_PRECISIONS = ("float32", "tf32", "bfloat16")
SEARCHED, SEARCHED_PRECISIONS = ("64,256,32", "64,256,64", "64,256,128", "1,256,64"), ("float32", "bfloat16", "float16")
PARTED, PARTED_PRECISIONS = ("64,256,64", "64,256,128", "64,256,32", "64,1354,64,2"), ("float32", "tf32", "bfloat16")
CHECKED = ("5,3,24", "9,2,72")  # a check runs every cut of them
SANITIZED_CUTS = 50
SMOKE = {
    "torch": "agrees_with_reference or a_row_with_nan or cuda_graph or test_layer",
    "tensorflow": "agrees_with_reference or every_mode or test_devices or test_layer",
}
WRITTEN = ("results.jsonl", "report.md", "failures.txt")
# A machine may have CUDA's libraries here, beside the packages of Python.
LIBRARIES = ("/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
SHOWN_ROWS, SHOWN_FAILURES = 15, 6
FAILURE_BYTES, FAILURES_BYTES = 4_000, 200_000  # of the output of a failing command, and of all
KILLED, NO_TIME = "killed: out of time", "no time left"


@dataclasses.dataclass
class Line:
    """What a step, or a part of it, came to."""

    step: str
    result: str
    seconds: float = 0.0
    failed: bool = False


@dataclasses.dataclass
class Session:
    """One run: where things are, how much time is left, and what has happened.

    A rehearsal takes the same steps with small sizes and without a GPU: on what is compiled already, and on the
    emulated device of the tests.
    """

    run: str
    command: str
    output: Path
    scratch: Path
    deadline: float  # seconds since the epoch
    architecture: str | None = None
    shapes: Sequence[str] = TUNED
    precisions: Sequence[str] = TUNED_PRECISIONS
    rehearsal: bool = False
    lines: list[Line] = dataclasses.field(default_factory=list)
    until: float = float("inf")  # of the step that is being taken

    @property
    def keras_backend(self) -> str:
        return "tensorflow" if self.run == "tensorflow" else "torch"

    @property
    def tree(self) -> Path:
        return ROOT if self.rehearsal else self.kept / "tree"

    @property
    def kept(self) -> Path:
        """The folder of what the run has found, from one call to the next."""
        return self.scratch / self.run

    @property
    def results(self) -> Path:
        return self.kept / "results.jsonl"

    @functools.cached_property
    def commit(self) -> str:
        """The commit of the sources, as the processes in their copy are told it."""
        commit, changed = results.commit_of(ROOT)
        return f"{commit}{' changed' * changed}"

    def left(self) -> float:
        return min(self.deadline, self.until) - time.time()

    def open(self, afresh: bool) -> None:
        """Makes the folders; what other sources have led to is forgotten."""
        mark, now = self.kept / "sources", f"{_fingerprint()} {self.rehearsal}"
        if afresh or not mark.exists() or mark.read_text() != now:
            shutil.rmtree(self.kept, ignore_errors=True)
        for folder in (self.output, self.kept):
            folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(now)

    def take(self, steps: Sequence[str]) -> None:
        """Takes steps that an earlier call has not finished; what every other one comes to stays for the next call."""
        records = {name: self.kept / f"step-{name}.json" for name in steps}
        known = {name: json.loads(path.read_text()) for name, path in records.items() if path.exists()}
        finished = {name for name, lines in known.items() if not any(_undone(Line(**line)) for line in lines)}
        end = time.time()
        for name in sorted(steps, key=lambda name: name not in NEEDED and name in known and name not in finished):
            end += RUNS[self.run][name]  # the steps after it may use what a step leaves of its time
            if name in finished:
                self.lines += [dataclasses.replace(Line(**line), seconds=0.0) for line in known[name]]
                continue
            before = len(self.lines)
            self.until = end
            if self.left() < LEAST:
                self.note(name, NO_TIME)
                continue
            try:
                getattr(self, name)()
            except Exception as error:  # the steps after it may work
                self.note(name, f"{type(error).__name__}: {error}".partition("\n")[0][:200], failed=True)
            lines = self.lines[before:]
            records[name].write_text(json.dumps([dataclasses.asdict(line) for line in lines]))
            if name in NEEDED and any(line.failed for line in lines):
                return

    def environment(self, **more: str) -> dict[str, str]:
        """Of the processes that run what was built."""
        kept = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}  # benchmarks set it
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(self.tree), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "KERAS_BACKEND": self.keras_backend,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "BENCHMARK_DEVICE": "cpu" if self.rehearsal else "cuda",
            results.COMMIT: self.commit,
            **(self._of_tensorflow() if self.run == "tensorflow" else {}),
            **more,
        }

    def _of_tensorflow(self) -> dict[str, str]:
        """Where it finds CUDA's libraries and compilers, and keeps what it compiles."""
        listed = self.kept / "libraries.txt"
        folders = [*(listed.read_text().split("\n") if listed.exists() else ()), os.environ.get("LD_LIBRARY_PATH")]
        toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
            "XLA_FLAGS": " ".join(filter(None, [os.environ.get("XLA_FLAGS"), f"--xla_gpu_cuda_data_dir={toolkit}"])),
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "CUDA_CACHE_PATH": str(self.scratch / "compiled"),
            "CUDA_CACHE_MAXSIZE": str(2**32 - 1),
            "LSTM_FAST_CACHE": str(self.scratch / "compiled"),
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
        with (self.kept / log).open("a+b") as file:
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
        if status != 0:
            with (self.kept / "failures.txt").open("a") as failures:
                print(f"$ {step}: {' '.join(map(str, command))}\n{text[-FAILURE_BYTES:]}\n", file=failures)
        return status, text, time.time() - start

    def note(self, step: str, result: str, seconds: float = 0.0, *, failed: bool = False) -> None:
        self.lines.append(Line(step, result, seconds, failed))

    # The steps.

    def build(self) -> None:
        """Compiles for this GPU only, into a copy of the source tree."""
        if self.rehearsal:
            self.note("build", "what is compiled already")
            return
        self._copy()
        architecture = self.architecture or capability()
        if architecture is None:
            self.note("build", "nvidia-smi shows no GPU; --architecture, 90 for example, builds without", failed=True)
            return
        build, start = self.scratch / f"build-{self.run}", time.time()
        version = re.search(r'__version__ = "(.+?)"', (self.tree / "lstm_fast" / "__init__.py").read_text())
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"),
            *(["-GNinja"] if shutil.which("ninja") and not (build / "Makefile").exists() else []),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={_output([sys.executable, '-m', 'pybind11', '--cmakedir'])}",
            f"-DLSTM_FAST_VERSION={version[1] if version else '0'}",
            "-DLSTM_FAST_CUDA=ON",
            f"-DLSTM_FAST_CUDA_ARCHITECTURES={architecture}-real",
            "-DLSTM_FAST_WERROR=OFF",  # because nobody has seen this compiler yet
            f"-DLSTM_FAST_TENSORFLOW={'ON' if self.run == 'tensorflow' else 'AUTO'}",
        ]
        jobs = str(min(16, os.cpu_count() or 1))
        for command in (
            configure,
            ["cmake", "--build", str(build), "--parallel", jobs],
            ["cmake", "--install", str(build), "--prefix", str(self.tree / "lstm_fast")],
        ):
            status, text, _ = self.call("build", command, "build.log", self.left())
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
        work += self._sanitizers()
        _side_by_side(work)
        if importlib.util.find_spec("torch"):
            self._test("torch", "gpu and alone")

    def smoke(self) -> None:
        """Some of the tests that need a GPU, with the framework of the run."""
        self._test(self.keras_backend, "gpu and not alone", SMOKE[self.keras_backend])

    def sanitize(self) -> None:
        """A part of all cuts under compute-sanitizer."""
        most = 2 if self.rehearsal else SANITIZED_CUTS
        work = self._sanitizers(most)
        if self.rehearsal:
            self._check("every cut", (), most)
        elif work:
            _side_by_side(work)

    def _sanitizers(self, most: int | None = None) -> list[Callable[[], None]]:
        found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if not found:
            self.note("compute-sanitizer", "not installed")
            return []
        options = ("--error-exitcode", "9", "--print-limit", "20")
        return [
            functools.partial(self._check, tool, (found, "--tool", tool, *options), most)
            for tool in ("memcheck", "racecheck")
        ]

    def _test(self, backend: str, marked: str, selected: str | None = None) -> None:
        name = f"test {backend}{'' if 'not' in marked else ' alone'}"
        if self.left() < LEAST:
            self.note(name, NO_TIME)
            return
        report = self.kept / f"{name.replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        workers = ["-n", "4"] if importlib.util.find_spec("xdist") and "not" in marked else []
        options = ["-m", marked, "-v", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", *workers]
        options += ["-k", selected] if selected else []
        command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-Wdefault", *options]
        environment = self.environment(KERAS_BACKEND=backend, OMP_NUM_THREADS="2")
        log = f"{name.replace(' ', '-')}.log"
        status, text, seconds = self.call(name, command, log, LIMITS["test"], environment, self.tree)
        result, failed = _of_tests(report, status, text)
        nothing = result.startswith("0 passed") and not self.rehearsal
        self.note(name, result, seconds, failed=failed or nothing)

    def _check(self, name: str, prefix: Sequence[str], most: int | None = None) -> None:
        """Every cut of small problems, or as many as are asked for."""
        lines = self.kept / f"check-{name.replace(' ', '-')}.jsonl"
        lines.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.tune", "--once", "--output", str(lines)]
        # A kernel takes a hundred times as long under a sanitizer.
        deadline = time.time() + 0.6 * min(LIMITS["test"], self.left())
        some = ["--deadline", str(deadline), "--precisions", *(("float32",) if self.rehearsal else tune.NUMBERS)]
        some += [] if most is None else ["--most", str(most)]
        some += ["--emulated"] if self.rehearsal else []
        shapes = ["--shapes", *(CHECKED[:1] if self.rehearsal else CHECKED)] if prefix or self.rehearsal else []
        environment = self.environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        log = f"check-{name.replace(' ', '-')}.log"
        status, text, seconds = self.call(
            name, [*prefix, *command, *some, *shapes], log, LIMITS["test"], environment, self.tree
        )
        seen = _rows(lines)
        wrong = [row for row in seen if not row.facts["right"]]
        result = f"{len(seen)} cuts run, {len(wrong)} wrong"
        if wrong:
            first = wrong[0]
            result += f", first {first.name} {first.facts['forced']}"
        if summary := re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text):
            result += f"; {summary[-1]}"
        self.note(
            name,
            result if status in (0, 1) and seen else f"{result}; {_why(status, text)}",
            seconds,
            failed=status != 0 or not seen,
        )

    def short(self) -> None:
        """What matters most."""
        self._pairs("short", SHORT_SCENARIOS, SHORT_PRECISIONS)

    def small(self) -> None:
        """Few units, where a timestep takes least, in every precision, and a single row."""
        self._pairs("small", SMALL_GPU_SCENARIOS, PRECISIONS)

    def reviews(self) -> None:
        """The batch of the worked example, its padding masked, and not; then also with every timestep computed."""
        self._pairs("reviews", (IMDB, IMDB_REPEATING), ("float32", "bfloat16"), "fast_torch_every")

    def _pairs(self, step: str, scenarios: Sequence[Scenario], precisions: Sequence[str], also: str = "") -> None:
        """First cuDNN in one process, then ours in one for each number of units, as it may break it."""
        if self.rehearsal:
            self._benchmark(step, "lstm_fast", f"float32 and {OURS}", LIMITS["short"])
            return
        some = f"({' or '.join(precisions)})"
        of_units: dict[int, list[Scenario]] = {}
        for scenario in scenarios:
            of_units.setdefault(scenario.units, []).append(scenario)
        limit = min(2 * LIMITS["short"], self.left() / 2)
        self._benchmark(step, "cuDNN", f"{_any_of(scenarios)} and {some} and cudnn_torch", limit)
        for n, (units, members) in enumerate(of_units.items()):
            ours = f"{_any_of(members)} and {some} and ({OURS}{f' or {also}' if also else ''})"
            limit = min(LIMITS["short"], self.left() / (len(of_units) - n))
            self._benchmark(step, f"lstm_fast H={units}", ours, limit)

    def rest(self) -> None:
        """Everything else, a process for each scenario; FlashRNN last, as it compiles for each."""
        scenarios = (IMDB, *(scenario for scenario in GPU_SCENARIOS if scenario != IMDB))
        short = f"({' or '.join(SHORT_PRECISIONS)}) and (cudnn_torch or ({OURS}))"
        for scenario in scenarios:
            done = scenario in SHORT_SCENARIOS
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
            self.note(label, NO_TIME)
            return
        report = self.kept / "benchmark.xml"
        report.unlink(missing_ok=True)
        end = time.time() + min(limit, self.left())
        environment = self.environment(
            BENCHMARK_DEADLINE=str(end - LEAST / 2), BENCHMARK_LINES=str(self.results), BENCHMARK_SECONDS="0.2"
        )
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", "-Wdefault"]
        command = [sys.executable, "-m", "pytest", "benchmarks/test_gpu.py", "-k", f"test_layer and {selected}"]
        options += ["--benchmark-disable"] if self.rehearsal else []
        status, text, seconds = self.call(label, [*command, *options], "benchmark.log", limit, environment, self.tree)
        result, failed = _of_tests(report, status, text)
        self.note(label, result, seconds, failed=failed)

    def parts(self) -> None:
        """The passes of few units, and each product around them."""
        self._forget("parts")
        shapes, precisions = (("2,3,16", "2,3,16,2"), ("float32",)) if self.rehearsal else (PARTED, PARTED_PRECISIONS)
        command = [sys.executable, "-m", "benchmarks.gpu_parts", "--output", str(self.results), "--shapes", *shapes]
        command += ["--precisions", *precisions, "--deadline", str(time.time() + 0.8 * self.left())]
        command += ["--emulated"] if self.rehearsal else []
        status, text, seconds = self.call("parts", command, "parts.log", self.left(), self.environment(), self.tree)
        found = len([row for row in _rows(self.results) if row.suite == "parts"])
        result = f"{found} timed" if status == 0 else f"{found} timed until {_why(status, text)}"
        self.note("parts", result, seconds, failed=status != 0)

    def tune(self) -> None:
        """Times every cut of the problems that were asked for."""
        self._tune([(shape, (precision,)) for shape in self.shapes for precision in self.precisions])

    def search(self) -> None:
        """The same of few units, in one process for each shape."""
        if self.rehearsal:
            self._tune([("2,2,16", ("float32",))])
        else:
            self._tune([(shape, SEARCHED_PRECISIONS) for shape in SEARCHED])

    def _tune(self, work: Sequence[tuple[str, Sequence[str]]]) -> None:
        self._forget("cuts")
        for n, (shape, precisions) in enumerate(work):
            name = f"tune {shape} {' '.join(precisions)}"
            if self.left() < LEAST:
                self.note(name, NO_TIME)
                continue
            share = self.left() / (len(work) - n)
            command = [sys.executable, "-m", "benchmarks.tune", "--output", str(self.results), "--shapes", shape]
            some = ["--precisions", *precisions, "--deadline", str(time.time() + 0.8 * share)]
            some += ["--emulated", "--most", "1"] if self.rehearsal else []
            status, text, seconds = self.call(
                name, [*command, *some], "tune.log", 1.2 * share, self.environment(), self.tree
            )
            tried = sum((row.suite, row.case.split()[0]) == ("cuts", shape) for row in _rows(self.results))
            result = f"{tried} cuts" if status == 0 else f"{tried} cuts until {_why(status, text)}"
            self.note(name, result, seconds, failed=status != 0)

    def _forget(self, suite: str) -> None:
        """Leaves out the rows of a suite that an earlier call has measured."""
        if self.results.exists():
            self._write(self.results, [row for row in _rows(self.results) if row.suite != suite])

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        """Writes rows with the header of those that there are; nothing was measured where there is none."""
        found = results.read([self.results])[0].header if self.results.exists() else None
        commit, _, changed = self.commit.partition(" ")
        own = results.Header(commit, bool(changed), results.now(), self.command, found.environment if found else {})
        with results.writing(path, lambda: own) as add:
            for row in rows:
                add(row)

    def threads(self) -> None:
        """The kernels for the processor, with more and more threads."""
        self._forget("threads")
        command = [sys.executable, "-m", "benchmarks.run", "threads", "--append", "--output", str(self.results)]
        command += ["--quick"] if self.rehearsal else []
        environment = self.environment(BENCHMARK_DEVICE="cpu")
        status, text, seconds = self.call("threads", command, "threads.log", self.left(), environment, self.tree)
        cores = f"{len(os.sched_getaffinity(0))} processors"
        self.note("threads", cores if status == 0 else _why(status, text), seconds, failed=status != 0)

    def libraries(self) -> None:
        """The machine's CUDA libraries under the names that TensorFlow looks for, and whether it sees the GPU."""
        search = map(Path, [*filter(None, sys.path), *LIBRARIES])
        folders, chosen = carry.link_libraries(self.kept / "libraries", list(search))
        (self.kept / "libraries.txt").write_text("\n".join(map(str, folders)))
        (self.kept / "libraries.json").write_text(json.dumps(chosen, indent=1))
        if missing := [name for name, file in chosen.items() if file == "none"]:
            self.note("libraries", f"none for {', '.join(missing)}")
        script = "import tensorflow as tf; print(tf.__version__, tf.config.list_physical_devices('GPU'))"
        command = [sys.executable, "-c", script]
        status, text, seconds = self.call("see", command, "libraries.log", self.left(), self.environment())
        seen = text.strip().rpartition("\n")[2] if status == 0 else _why(status, text)
        no_gpu = "GPU" not in seen and not self.rehearsal
        self.note("TensorFlow", seen, seconds, failed=status != 0 or no_gpu)

    def layers(self) -> None:
        """A layer beside cuDNN's: eagerly, in a graph, in `fit`."""
        self._tensorflow("layers")

    def models(self) -> None:
        """The models of the worked example, masked and not."""
        self._tensorflow("models")

    def jit(self) -> None:
        """A layer under `jit_compile`."""
        self._tensorflow("jit")

    def devices(self) -> None:
        """A layer under `tf.device` and a strategy."""
        self._tensorflow("devices")

    def _tensorflow(self, what: str) -> None:
        end = time.time() + self.left()
        options = ["--output", str(self.results), "--deadline", str(end - LEAST / 2)]
        options += ["--quick"] if self.rehearsal else []
        command = [sys.executable, "-m", "benchmarks.gpu_tensorflow", what, *options]
        status, text, seconds = self.call(what, command, "tensorflow.log", self.left(), self.environment(), self.tree)
        self.note(what, "measured" if status == 0 else _why(status, text), seconds, failed=status != 0)

    # The results.

    def write(self) -> list[Table]:
        """Writes what has been found, also by earlier calls, and returns its tables."""
        for name in WRITTEN:  # of an earlier call
            (self.output / name).unlink(missing_ok=True)
        steps = []
        for line in self.lines:
            facts = {"result": line.result, "failed": line.failed, "undone": _undone(line)}
            steps.append(Row("steps", line.step, "", "", [line.seconds], facts))
        measured = _rows(self.results)
        cuts = telling([row for row in measured if row.suite == "cuts"])
        path = self.output / "results.jsonl"
        self._write(path, [*(row for row in measured if row.suite != "cuts"), *cuts, *steps])
        files = results.read([path])
        rendered = list(tables(files))
        report.write_page(files, rendered, self.output)
        if (failures := self.kept / "failures.txt").exists():
            (self.output / failures.name).write_bytes(failures.read_bytes()[-FAILURES_BYTES:])
        return rendered


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


def _side_by_side(work: Sequence[Callable[[], None]]) -> None:
    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(call) for call in work]:
            future.result()


def _fingerprint() -> str:
    """Of the sources that are built and run."""
    digest = hashlib.sha256()
    for name in TREE:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in (".py", ".h", ".cc", ".cu", ".txt", ".toml"):
                digest.update(f"{file.relative_to(ROOT)}".encode() + file.read_bytes())
    return digest.hexdigest()


def _undone(line: Line) -> bool:
    return line.failed or line.result == NO_TIME


def _any_of(scenarios: Sequence[Scenario]) -> str:
    return f"({' or '.join(f'({_selected(scenario)})' for scenario in scenarios)})"


def _selected(scenario: Scenario) -> str:
    """The -k expression for a scenario by the name that conftest.py gives it."""
    size = f"{scenario.batch}x{scenario.time}x{scenario.features}x{scenario.units}"
    kinds = {
        "bidirectional": scenario.bidirectional,
        "padded": scenario.padded,
        "repeating": scenario.repeating,
    }
    return " and ".join([size, *(kind if has else f"not {kind}" for kind, has in kinds.items())])


def _rows(path: Path) -> list[Row]:
    """The rows of a file of results, if there is one."""
    return results.read([path])[0].rows if path.exists() else []


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
    options.add_argument("run", choices=RUNS, help="what to do")
    options.add_argument("--output", type=Path, required=True, help="folder for results")
    options.add_argument("--scratch", type=Path, default=ROOT / "build" / "gpu", help="folder to build and run in")
    options.add_argument("--deadline", type=float, help="seconds after which nothing runs any more")
    options.add_argument("--steps", nargs="+", help="some of the run's steps; default: all")
    options.add_argument("--afresh", action="store_true", help="repeats steps that an earlier call has finished")
    options.add_argument("--architecture", help="compute capability to build for, such as 90; default: the GPU's")
    options.add_argument("--shapes", nargs="+", default=TUNED, help="what to tune: B,T,H each")
    options.add_argument("--precisions", nargs="+", choices=tune.NUMBERS, default=TUNED_PRECISIONS, help="likewise")
    options.add_argument("--rehearse", action="store_true", help="small sizes, no build and no GPU")
    given = parsed(options, arguments)
    steps = list(RUNS[given.run])
    if unknown := set(given.steps or ()) - set(steps):
        options.error(f"--steps: expected some of {', '.join(steps)}; found {', '.join(sorted(unknown))}")
    session = Session(
        given.run,
        given.command,
        given.output.resolve(),
        given.scratch.resolve(),
        time.time() + (given.deadline or DEADLINES[given.run]),
        given.architecture,
        given.shapes,
        given.precisions,
        given.rehearse,
    )
    session.open(given.afresh)
    session.take([name for name in steps if not given.steps or name in given.steps])
    shown = session.write()
    report.show([*map(_cut_off, shown[:-1]), shown[-1]])  # the table of the steps is shown whole
    return int(any(map(_undone, session.lines)))


def _cut_off(table: Table) -> Table:
    shown = table.rows[:SHOWN_ROWS]
    left = len(table.rows) - len(shown)
    note = f"{left} more rows in the folder of results." if left else ""
    return table._replace(rows=shown, note=note)


if __name__ == "__main__":
    sys.exit(main())
