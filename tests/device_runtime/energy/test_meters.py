"""Every meter on the data of its board; the one that is chosen, and what is said where none is."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from device_runtime.doctor_power import CommandResult, CommandRunner
from device_runtime.energy import find
from device_runtime.energy.find import available, open_meter
from device_runtime.energy.ina import InaMeter
from device_runtime.energy.meter import MeterError
from device_runtime.energy.modelled import ModelledMeter
from device_runtime.energy.nvml import NvmlMeter
from device_runtime.energy.pmic import (
    GET_GENCMD_RESULT,
    MAILBOX_IOCTL,
    Mailbox,
    PmicMeter,
    parse_channels,
    rail_names,
)
from hw_profiles import load

HERE = Path(__file__).parent / "recorded"
BOARDS = Path(__file__).parents[1] / "recorded"


def no_commands(_: Sequence[str]) -> None:
    """A machine without vendor commands."""


def commands_of(board: str) -> CommandRunner:
    recorded = json.loads((BOARDS / board / "commands.json").read_text())
    outputs = {name: CommandResult(**result) for name, result in recorded.items()}
    return lambda command: outputs.get(" ".join(command))


def pmic_text() -> str:
    done = commands_of("raspberry-pi-5")(["vcgencmd", "pmic_read_adc"])
    assert done is not None
    return done.output


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A board's tree that a test may change."""
    return lambda board: Path(shutil.copytree(HERE / board, tmp_path / board))


def test_an_orin_nano_reads_its_total_rail_and_not_its_parts_too() -> None:
    root = BOARDS / "jetson-orin-nano/root"
    folder = next((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*"))
    milli = [float((folder / name).read_text()) for name in ("in1_input", "curr1_input")]
    meter = open_meter(root=root, run=no_commands)
    assert (meter.facts.name, meter.facts.kind) == ("ina3221", "measured")
    assert meter.facts.point == "module_input"
    assert meter.read() == pytest.approx(milli[0] * milli[1] / 1e6)


def test_an_agx_orin_sums_its_rails_and_counts_none_twice() -> None:
    meter = open_meter(root=HERE / "jetson-agx-orin", run=no_commands)
    assert meter.facts.point == "rails"
    assert "the sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0;" in meter.facts.covers
    assert meter.read() == pytest.approx(19 * 0.21 + 19 * 0.1 + 5 * 0.6)
    assert meter.facts.wall is not None
    assert meter.facts.wall.joules(10.0, 2.0) == pytest.approx(10 + 2 * 7.16)


def test_a_rail_counts_where_the_one_that_holds_it_is_not_connected(
    copy: Callable[[str], Path],
) -> None:
    root = copy("jetson-agx-orin")
    next(root.rglob("hwmon3/in3_label")).write_text("NC\n")
    meter = open_meter("ina3221", root=root, run=no_commands)
    assert meter.read() == pytest.approx(19 * 0.21 + 19 * 0.1 + 5 * 0.12)


def test_a_thor_reads_its_total_by_the_other_chip() -> None:
    meter = open_meter(root=HERE / "jetson-agx-thor", run=no_commands)
    assert (meter.facts.name, meter.facts.point) == ("ina238", "board_input")
    assert meter.read() == pytest.approx(38.5)


def test_a_rail_that_is_gone_is_a_failed_reading(copy: Callable[[str], Path]) -> None:
    root = copy("jetson-agx-orin")
    meter = open_meter("ina3221", root=root, run=no_commands)
    next(root.rglob("hwmon3/curr2_input")).unlink()
    with pytest.raises(OSError, match="no reading"):
        meter.read()


def test_a_chip_wired_to_a_pi_4_is_found_and_says_where_it_is() -> None:
    meter = open_meter(root=HERE / "raspberry-pi-4-ina226", run=no_commands)
    assert (meter.facts.name, meter.facts.point, meter.facts.unit) == ("ina226", "board_input", "w")
    assert meter.read() == pytest.approx(3.1)


def test_an_ina228_counts_energy_itself() -> None:
    meter = open_meter(root=HERE / "raspberry-pi-4-ina228", run=no_commands)
    assert (meter.facts.name, meter.facts.unit) == ("ina228", "j")
    assert meter.read() == pytest.approx(81234.56789)


def test_two_chips_that_somebody_wired_in_are_one_too_many(copy: Callable[[str], Path]) -> None:
    root = copy("raspberry-pi-4-ina226")
    hwmon = root / "sys/class/hwmon"
    shutil.copytree(hwmon / "hwmon2", hwmon / "hwmon3")
    with pytest.raises(MeterError, match="leave only the one"):
        open_meter("ina", root=root, run=no_commands)


def test_a_pi_5_multiplies_its_rails_by_name_and_has_the_published_fit() -> None:
    meter = open_meter(root=BOARDS / "raspberry-pi-5/root", run=commands_of("raspberry-pi-5"))
    assert (meter.facts.name, meter.facts.point) == ("pmic", "rails")
    rails_w = [
        0.0234 * 3.7, 0.0622 * 3.31, 0.1641 * 1.8, 0.0117 * 1.1, 0.0, 0.1805 * 1.1, 0.3302 * 0.8,
        1.2513 * 0.75, 0.0004 * 3.31, 0.0005 * 3.3, 0.0055 * 0.8, 0.0134 * 5.07,
    ]  # fmt: skip
    assert meter.read() == pytest.approx(sum(rails_w))
    assert meter.facts.wall is not None
    assert meter.facts.wall.joules(30.0, 10.0) == pytest.approx(1.1451 * 30 + 0.5879 * 10)


def test_the_order_of_the_channels_does_not_matter() -> None:
    lines = pmic_text().splitlines()
    straight = PmicMeter(lambda _: "\n".join(lines)).read()
    assert PmicMeter(lambda _: "\n".join(reversed(lines))).read() == pytest.approx(straight)
    channels = parse_channels(pmic_text())
    assert channels["EXT5V_V"] == 5.08
    assert len(rail_names(channels)) == 12
    assert rail_names({"LONE_A": 1.0, "BOTH_V": 1.0, "BOTH_A": 2.0}) == ("BOTH",)
    assert parse_channels('error=1 error_msg="Command not registered"') == {}


def mailbox(tmp_path: Path, answer: str, error: int = 0) -> tuple[Mailbox, list[bytes]]:
    """A firmware behind /dev/vcio, and the messages it got."""
    (tmp_path / "vcio").touch()
    messages = []

    def ioctl(_: int, request: int, message: bytearray) -> None:
        assert request == MAILBOX_IOCTL == (3 << 30) | (8 << 16) | (100 << 8)
        messages.append(bytes(message))
        message[20:24] = struct.pack("=I", error)
        message[24 : 24 + len(answer) + 1] = answer.encode() + b"\0"

    return Mailbox(tmp_path / "vcio", ioctl), messages


def test_the_mailbox_sends_a_command_and_gives_the_answer(tmp_path: Path) -> None:
    box, messages = mailbox(tmp_path, pmic_text()[:1000])
    assert box("pmic_read_adc") == pmic_text()[:1000]
    box.close()
    (message,) = messages
    # size, request, tag, size of the value, size of the answer, error; text of 1,024 bytes; end
    assert struct.unpack("=6I", message[:24]) == (1052, 0, GET_GENCMD_RESULT, 1024, 0, 0)
    assert message[24:].rstrip(b"\0") == b"pmic_read_adc"
    assert len(message) == 1052


def test_what_the_firmware_refuses_is_a_failed_reading(tmp_path: Path) -> None:
    box, _ = mailbox(tmp_path, "", error=0x80000001)
    with pytest.raises(OSError, match="firmware"):
        PmicMeter(box).read()
    box.close()
    silent, _ = mailbox(tmp_path, 'error=1 error_msg="Command not registered"')
    meter = PmicMeter(silent)
    with pytest.raises(OSError, match="no reading"):
        meter.read()
    meter.close()


def test_rapl_adds_packages_once_and_nothing_else(copy: Callable[[str], Path]) -> None:
    root = copy("x86-two-sockets")
    meter = open_meter(root=root, run=no_commands)
    assert (meter.facts.name, meter.facts.point) == ("rapl", "cpu_package")
    before_j = meter.read()
    zones = root / "sys/class/powercap/intel-rapl"
    (zones / "intel-rapl:1/energy_uj").write_text("6000000\n")
    (zones / "intel-rapl:2/energy_uj").write_text("9990000000\n")
    (zones / "intel-rapl:0/intel-rapl:0:0/energy_uj").write_text("200000000000\n")
    assert meter.read() - before_j == pytest.approx(5.0)


def test_a_rapl_counter_that_turned_over_goes_on(copy: Callable[[str], Path]) -> None:
    root = copy("x86-two-sockets")
    meter = open_meter("rapl", root=root, run=no_commands)
    before_j = meter.read()
    counter = root / "sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj"
    for now_uj, since_j in ((671_150, 1.0), (10_671_150, 11.0)):  # 262,143.32885 J is its range
        counter.write_text(f"{now_uj}\n")
        assert meter.read() - before_j == pytest.approx(since_j)
    counter.write_text("0\n")
    assert meter.read() - before_j == pytest.approx(262143.32885 + 0.32885, rel=1e-9)


def test_rapl_that_only_root_may_read_says_so(copy: Callable[[str], Path]) -> None:
    root = copy("x86-two-sockets")
    (root / "sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj").unlink()
    with pytest.raises(MeterError, match="udev"):
        open_meter("rapl", root=root, run=no_commands)


class FakeNvml:
    """nvidia-ml-py as far as it is used."""

    class NVMLError(Exception):
        """Its error."""

    def __init__(self, millijoules: list[int]) -> None:
        self.millijoules = millijoules
        self.is_open = False

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, _: int) -> str:
        return "NVIDIA L4"

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:
        if not self.millijoules:
            raise self.NVMLError("Not Supported")
        return self.millijoules.pop(0)


def test_nvml_counts_in_millijoules() -> None:
    library = FakeNvml([1_000, 1_500, 3_500])
    meter = NvmlMeter(library=library)
    assert [meter.read(), meter.read()] == [1.5, 3.5]
    with pytest.raises(OSError, match="Not Supported"):
        meter.read()
    assert (meter.facts.unit, meter.facts.point, meter.facts.refresh_s) == ("j", "gpu", 0.1)
    assert "NVIDIA L4" in meter.facts.covers
    meter.close()
    assert not library.is_open


@pytest.mark.parametrize(("index", "library"), [(0, FakeNvml([])), (1, FakeNvml([1]))])
def test_a_gpu_without_a_counter_is_refused(index: int, library: FakeNvml) -> None:
    with pytest.raises(MeterError, match="gives no energy of GPU"):
        NvmlMeter(index, library)


def test_the_model_adds_busy_cores_to_the_idle_board() -> None:
    now = {"busy": 100.0, "time": 1000.0}
    meter = ModelledMeter(load("raspberry-pi-5"), lambda: now["busy"], lambda: now["time"])
    assert meter.facts.kind == "modelled"
    assert meter.facts.point == "wall"
    now.update(busy=104.0, time=1010.0)
    # 3.0 W at rest, 12.7 W with four busy cores (Jeff Geerling, HPL)
    assert meter.read() == pytest.approx(3.0 * 10 + (12.7 - 3.0) / 4 * 4)


def test_a_board_without_sensor_is_modelled_from_its_profile() -> None:
    meter = open_meter(root=BOARDS / "raspberry-pi-4/root", run=no_commands)
    assert (meter.facts.name, meter.facts.kind) == ("modelled", "modelled")
    assert "raspberry-pi-4" in meter.facts.covers
    assert meter.facts.point == "board_input"
    assert "3.1 W at rest and 0.75 W more" in meter.facts.covers


def test_where_nothing_is_known_every_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(MeterError) as failed:
        open_meter(root=tmp_path, run=no_commands)
    for kind in ("ina3221", "pmic", "rapl", "modelled"):
        assert f"{kind}: " in str(failed.value)
    assert "nvml" not in str(failed.value)


def test_every_kind_is_listed_with_its_meter_or_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_gpu() -> None:
        raise MeterError("no GPU")

    monkeypatch.setattr(find, "NvmlMeter", no_gpu)
    found = dict(available(root=HERE / "raspberry-pi-4-ina226", run=no_commands))
    assert set(found) == set(find.KINDS) - {"auto"}
    assert isinstance(found["ina"], InaMeter)
    assert isinstance(found["modelled"], ModelledMeter)
    assert isinstance(found["rapl"], MeterError)


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="choose one of"):
        open_meter("wattmeter", root=tmp_path, run=no_commands)
    with pytest.raises(MeterError, match="no device profile"):
        open_meter(root=tmp_path, run=no_commands, profile="raspberry-pi-7")
