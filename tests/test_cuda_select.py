"""How the passes of the CUDA kernels are cut for devices of all kinds. Only the selection runs here."""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import emulated
import pytest


class Device(NamedTuple):
    major: int
    minor: int
    multiprocessors: int
    shared_bytes: int


DEVICES = {
    "sm_75": Device(7, 5, 40, 65_536),
    "sm_80": Device(8, 0, 108, 166_912),
    "sm_90": Device(9, 0, 132, 232_448),
    "slice": Device(9, 0, 14, 232_448),  # a part of a device that several processes share
    "tiny": Device(8, 6, 1, 49_152),
}
ARITHMETIC = [
    ("float32", "exact"),
    ("float32", "tf32"),
    ("float32", "tf32x3"),
    ("float64", "exact"),
    ("float16", "exact"),
    ("bfloat16", "exact"),
]
PASSES = ("forward", "backward")


@pytest.fixture
def module() -> Iterator[ModuleType]:
    loaded = emulated.load()
    yield loaded
    loaded.set_device(*DEVICES["sm_90"])
    for name in PASSES:
        loaded.force(name)


def check(cut: dict[str, Any], name: str, device: Device, units: int, variants: dict[str, Any], dropout: bool) -> None:
    variant = variants[cut["variant"]]
    if variant["dtype"] in ("float16", "bfloat16"):
        assert variant["tensor_cores"] == (device.major >= 8) or variant["rows"] == 1
    assert not variant["tensor_cores"] or device.major >= 8
    assert variant["dropout"] == dropout
    assert 0 < cut["shared_bytes"] <= device.shared_bytes
    assert cut["units"] % 8 == 0
    assert (cut["blocks"] - 1) * cut["units"] < units <= cut["blocks"] * cut["units"]
    assert 0 < cut["warps"] * 32 <= variant["most_threads"]
    assert cut["rows"] % variant["rows"] == 0
    assert cut["groups"] >= 1
    if name == "backward":
        assert cut["splits"] in ((4,) if dropout else (1, 2, 4))
    else:
        assert cut["splits"] == 1 or (variant["split"] and cut["splits"] in (2, 4, 8, 16))
    kept = cut["fragments"] - cut["fragments_streamed"] - cut["fragments_shared"]  # in registers
    assert 0 <= kept <= variant["registers"]
    no_room = cut["shared_bytes"] + cut["warps"] * 512 > device.shared_bytes  # for one more fragment of each warp
    assert cut["fragments_streamed"] == 0 or no_room
    if cut["exchange"] == "block":
        assert cut["blocks"] == 1
    if cut["exchange"] == "cluster":
        assert device.major >= 9
        assert cut["blocks"] <= 16
    if cut["exchange"] == "grid":
        assert cut["groups"] * cut["blocks"] <= device.multiprocessors  # each emulated one holds one block


@pytest.mark.parametrize("arithmetic", ARITHMETIC, ids="-".join)
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_every_number_of_units_has_a_cut_or_a_reason(module, device, arithmetic):
    module.set_device(*device)
    variants = {variant["name"]: variant for variant in module.variants()}
    refused = []
    for units, dropout in itertools.product(range(1, 2049, 2), (False, True)):
        batch, directions = 1 + units * 7 % 300, 1 + units // 2 % 2
        try:
            cuts = module.describe(0, *arithmetic, batch, units, directions, dropout)
        except ValueError as error:
            refused.append((units, dropout))
            parts = (arithmetic[0], f"{units} units", f"{device.major}.{device.minor}", str(device.shared_bytes))
            missing = [part for part in parts if part not in f"{error}"]
            assert not missing
            continue
        assert cuts.keys() == set(PASSES)
        for name, cut in cuts.items():
            check(cut, name, device, units, variants, dropout)
    if device.shared_bytes > 150_000:
        assert all(dropout for _, dropout in refused)
    # If there is no room for some units, there is none for more.
    for dropout in (False, True):
        least = min((units for units, with_dropout in refused if with_dropout == dropout), default=2049)
        assert sum(with_dropout == dropout for _, with_dropout in refused) == (2049 - least + 1) // 2


@pytest.mark.parametrize("units", [5, 64, 200, 1000])
def test_a_device_without_tensor_cores_computes_exactly(module, units):
    module.set_device(*DEVICES["sm_75"])
    for precision in ("exact", "tf32", "tf32x3"):
        cuts = module.describe(0, "float32", precision, 64, units, 1, False)
        assert all(cut["variant"].startswith("float32") for cut in cuts.values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_code_for_an_older_device_is_not_asked_for_more(module, dtype):
    """A driver compiles it for the device, but it lacks the code that the kernels left out."""
    exchanges = set()
    for code, units in itertools.product((75, 80), (64, 256, 1024)):
        module.set_device(*DEVICES["sm_90"], code=code)
        variants = {variant["name"]: variant for variant in module.variants()}
        for cut in module.describe(0, dtype, "tf32" if dtype == "float32" else "exact", 64, units, 1, False).values():
            variant = variants[cut["variant"]]
            # With few units multiply-add may be faster; half types then have it for one row only.
            may_add = units < 1024 and (dtype == "float32" or variant["rows"] == 1)
            assert variant["tensor_cores"] == (code >= 80) or (code >= 80 and may_add)
            exchanges.add(cut["exchange"])
    assert exchanges == {"block", "grid"}


@pytest.mark.parametrize(("units", "exchanges"), [(8, {"block"}), (64, {"block"}), (1024, {"cluster", "grid"})])
def test_few_units_need_no_exchange_and_many_do(module, units, exchanges):
    for arithmetic in (("float32", "exact"), ("float32", "tf32"), ("bfloat16", "exact")):
        for cut in module.describe(0, *arithmetic, 64, units, 1, False).values():
            assert cut["exchange"] in exchanges
            assert cut["words"].startswith(("forward: ", "backward: "))


def test_small_batches_are_spread_and_large_ones_are_not_left_waiting(module):
    def forward(batch: int) -> dict[str, Any]:
        return module.describe(0, "float32", "exact", batch, 128, 1, False)["forward"]

    assert forward(64)["groups"] == 64
    assert forward(4096)["rows"] > forward(64)["rows"]


def test_a_group_keeps_its_direction(module):
    for batch in range(1, 400, 13):
        for cut in module.describe(0, "float32", "exact", batch, 64, 2, False).values():
            sets = 2 * -(-batch // cut["rows"])
            assert cut["groups"] in (1, sets) or cut["groups"] % 2 == 0


# Forced


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    "forced",
    [
        {"variant": "float32_8_32_split"},
        {"exchange": "cluster", "blocks": 4},
        {"exchange": "grid", "blocks": 7, "rows": 24},
        {"exchange": "grid", "blocks": 1},
        {"rows": 3},
    ],
    ids=str,
)
def test_what_is_forced_holds_for_one_pass_until_undone(module, name, forced):
    problem = (0, "float32", "exact", 20, 56, 1, False)
    before = module.describe(*problem)
    module.force(name, **forced)
    during = module.describe(*problem)
    assert forced.items() <= during[name].items()
    (other,) = set(PASSES) - {name}
    assert during[other] == before[other]
    module.force(name)
    assert module.describe(*problem) == before


@pytest.mark.parametrize(
    "forced",
    [
        {"variant": "float64_8"},
        {"exchange": "block", "blocks": 2},
        {"exchange": "cluster", "blocks": 17},
        {"blocks": 6},  # with at least 8 units each, there are 7 or 4
        {"variant": "float32_8_32_split", "rows": 7},
        {"rows": 1 << 20},
    ],
    ids=str,
)
def test_what_cannot_be_forced_is_named(module, forced):
    module.force("backward", **forced)
    with pytest.raises(ValueError, match=r"backward pass of float32 with 56 units.*forced: ") as caught:
        module.describe(0, "float32", "exact", 20, 56, 1, False)
    for name, value in forced.items():
        assert f"{name} {value}" in str(caught.value)


@pytest.mark.parametrize(
    ("pass_name", "forced", "message"),
    [
        ("sideways", {}, "pass_name: expected forward or backward; found sideways"),
        ("forward", {"variant": "float31"}, r"variant: expected one of variants\(\); found float31"),
        ("forward", {"exchange": "mail"}, "exchange: expected block, cluster or grid; found mail"),
        ("forward", {"blocks": 0}, "blocks: expected 1 or more; found 0"),
        ("forward", {"rows": -8}, "rows: expected 1 or more; found -8"),
    ],
)
def test_nonsense_is_not_forced(module, pass_name, forced, message):
    with pytest.raises(ValueError, match=message):
        module.force(pass_name, **forced)


# Sizes


@pytest.mark.parametrize(("units", "masked"), [(64, False), (64, True), (1024, False), (1024, True)])
def test_scratch_is_only_for_what_needs_it(module, units, masked):
    problem = (0, "float32", "exact", 64, 100, units, 2)
    scratch = module.scratch_bytes(*problem, masked, False)
    module.force("forward", exchange="block")
    module.force("backward", exchange="block")
    of_mask = 4 * 64 * (3 + 100) + 4 * 2 * 64 * units if masked else 0  # the plan, and sums of padding
    if units == 64:
        assert of_mask <= scratch < of_mask + 1024
        assert (scratch > 0) == masked
    else:
        assert scratch > of_mask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, "float32", "exact", 2, 3, 4, 1), "device: expected 0 to 0; found 1"),
        ((-1, "float32", "exact", 2, 3, 4, 1), "device: expected 0 to 0; found -1"),
        ((0, "int8", "exact", 2, 3, 4, 1), "dtype: expected .*; found int8"),
        ((0, "float32", "half", 2, 3, 4, 1), "precision: expected exact, tf32 or tf32x3; found half"),
        ((0, "float32", "exact", -2, 3, 4, 1), "batch: expected 0 to 2147483647; found -2"),
        ((0, "float32", "exact", 2, 1 << 31, 4, 1), "time: expected .*; found 2147483648"),
        ((0, "float32", "exact", 2, 3, 0, 1), "units: expected 1 to .*; found 0"),
        ((0, "float32", "exact", 2, 3, 4, 3), "directions: expected 1 or 2 directions; found 3"),
    ],
)
def test_bad_sizes_are_named(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        module.scratch_bytes(*arguments, False, False)
