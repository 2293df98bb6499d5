"""The emulated CUDA device: it computes the same as a device, and finds the errors of a kernel, in every order of the
threads. The cases are in emulation/test_emulation.cc.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCES = ["fibers.cc", "machine.cc", "matrix.cc", "memory.cc", "shadow.cc", "test_emulation.cc"]
INCLUDES = [TESTS / "emulation", TESTS.parent / "csrc", TESTS.parent / "csrc" / "include"]
OPTIONS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Werror"]

RIGHT = [
    "conversions",
    "exchange",
    "old_device",
    "ping_pong",
    "products",
    "sum",
    "warp_signals",
    "warp_sum",
]
UNORDERED = r"race: (read|write) at byte \d+ of .*, and no barrier since the (read|write) by thread \d+ of block \d+"
UNORDERED_OR_EARLY = f"({UNORDERED}|which was never written)"
WRONG = {
    "no_sync_block": UNORDERED_OR_EARLY,
    "no_sync_block_before_write": UNORDERED,
    "no_sync_warp": UNORDERED_OR_EARLY,
    "readers_then_writer": UNORDERED,
    "no_cluster_barrier": UNORDERED_OR_EARLY,
    "no_first_cluster_barrier": r"block \d+, thread \d: write of 4 bytes of .* before a barrier of the cluster",
    "remote_after_end": r"block 3, thread \d+: ends its block, whose shared memory thread 1 of block 0 accesses"
    r"|block 0, thread 1: read of 4 bytes of the shared memory of block 3, which has ended",
    "remote_rank": r"block 0, thread 1: Remote\(\) of block 4 of a cluster of 4",
    "arrives_twice": r"ArriveAtCluster \(test_emulation.cc:\d+\) again, and no AwaitCluster in between",
    "awaits_without_arriving": r"AwaitCluster \(test_emulation.cc:\d+\) without ArriveAtCluster",
    "access_within_barrier": "write of 4 bytes of shared memory between ArriveAtCluster and AwaitCluster",
    "no_await": UNORDERED,
    "await_too_little": UNORDERED,
    "await_too_much": r"(?s)deadlock: all threads wait.* block 0: 1 of its threads, the first 0, in AwaitAtLeast"
    r".*block 1: 127 of its threads, the first 1, in SyncBlock",
    "early_signal": UNORDERED,
    "plain_counter": "race: .* of the counter",
    "not_cooperative": r"thread 0: AwaitAtLeast \(test_emulation.cc:\d+\) in a launch that is not cooperative",
    "global_read_beyond": "block 1, thread 5: read of 4 bytes out of bounds: at byte 16 of in, which has 16",
    "global_read_before": "block 1, thread 5: read of 4 bytes out of bounds: at byte -4 of in, which has 16",
    "global_write_beyond": "block 1, thread 5: write of 4 bytes out of bounds: at byte 16 of out, which has 16",
    "shared_beyond": "block 1, thread 5: write of 4 bytes out of bounds: at byte 32 of .* into bytes 16 to 32",
    "in_shared_beyond": r"block 1, thread 5: InShared\(\) of 8 bytes out of bounds: at byte 4092 of 4096",
    "undefined_shared": "block 1, thread 5: read at byte 20 of the shared memory of block 1, which was never written",
    "undefined_scratch": "block 1, thread 5: read at byte 4 of out, which was never written",
    "read_only": "block 1, thread 5: write to in, which is only to be read",
    "misaligned_global": "block 1, thread 5: misaligned write of 16 bytes at byte 4 of out",
    "misaligned_shared": "block 1, thread 5: misaligned write of 8 bytes at byte 4 of the shared memory of block 1",
    "null": "block 1, thread 5: read of 4 bytes through a null pointer",
    "unknown_memory": r"block 1, thread 5: InGlobal\(\) of a pointer into no global memory",
    "same_place": UNORDERED,
    "same_place_in_turn": UNORDERED,
    "returns_before_barrier": r"(thread 3: returns while thread \d+ of block 0 waits for it in|waits in) SyncBlock",
    "two_barriers": r"diverges: it is in SyncBlock \(.*\), and thread \d+ of block 0 waits for it in SyncBlock",
    "part_of_warp": "diverges: it is in (SyncBlock .* in SyncWarp|SyncWarp .* in SyncBlock)",
    "two_collectives": "diverges: it is in (ShuffleXor .* in Ballot|Ballot .* in ShuffleXor)",
    "part_of_cluster": r"(waits in|of block 0 waits for it in) AwaitCluster \(.*\)",
    "too_much_shared": "more shared memory than the device has",
    "cluster_on_old_device": "the device has no clusters",
    "uneven_cluster": "no such cluster",
    "too_many_blocks": "the blocks are not all resident at once",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    options = [*OPTIONS, *(f"-I{folder}" for folder in INCLUDES)]
    compilations = [
        subprocess.Popen([compiler, *options, "-c", TESTS / "emulation" / source, "-o", folder / f"{source}.o"])
        for source in SOURCES
    ]
    assert [compilation.wait() for compilation in compilations] == [0] * len(SOURCES)
    subprocess.run([compiler, *(folder / f"{source}.o" for source in SOURCES), "-o", folder / "test"], check=True)
    return folder / "test"


def run(program: Path, *cases: str) -> str:
    return subprocess.run([program, *cases], check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_case_is_tested(program: Path):
    assert sorted(run(program).split()) == sorted([*RIGHT, *WRONG])


@pytest.mark.parametrize("case", RIGHT)
def test_results_are_right(program: Path, case: str):
    assert run(program, case) == f"{case}: right\n"


@pytest.mark.parametrize("case", WRONG)
def test_fault_is_found(program: Path, case: str):
    said = run(program, case)
    assert said.startswith(f"{case}: kernel test")
    assert re.search(WRONG[case], said), said
