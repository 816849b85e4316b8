"""`tandem doctor` on recorded and on made-up machines."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_runtime import cli, doctor, doctor_power, doctor_probe, doctor_python
from device_runtime.doctor_power import CommandResult, CommandRunner
from device_runtime.doctor_python import Interpreter, OnnxRuntime

RECORDED = Path(__file__).parent / "recorded"
BOARDS = ("raspberry-pi-5", "raspberry-pi-4", "jetson-orin-nano")

A76 = ("0xd0b", "fp asimd evtstrm aes pmull crc32 atomics fphp asimdhp cpuid asimddp")
A55 = ("0xd05", "fp asimd evtstrm aes pmull crc32 atomics fphp asimdhp cpuid asimddp")
A72 = ("0xd08", "fp asimd evtstrm crc32 cpuid")
A53 = ("0xd03", "fp asimd evtstrm crc32 cpuid")
A35 = ("0xd04", "fp asimd evtstrm crc32 cpuid")
CPU_ONLY = OnnxRuntime("1.31.1", ("CPUExecutionProvider",), None)
GOOD_PYTHON = Interpreter("3.11.2", 64, "aarch64", (), CPU_ONLY)


def no_commands(_: Sequence[str]) -> None:
    """A machine without vendor commands."""


def commands(outputs: dict[str, CommandResult]) -> CommandRunner:
    return lambda command: outputs.get(" ".join(command))


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def arm_board(cores: Sequence[tuple[str, str]], compatible: str = "acme,board") -> dict[str, str]:
    blocks = [
        f"processor\t: {i}\nFeatures\t: {flags}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
        for i, (part, flags) in enumerate(cores)
    ]
    return {
        "proc/cpuinfo": "\n".join(blocks),
        "proc/device-tree/model": "Some board\0",
        "proc/device-tree/compatible": f"{compatible}\0",
        "proc/meminfo": "MemTotal: 4000000 kB\nMemFree: 1000 kB\nMemAvailable: 3000000 kB\n",
        "sys/devices/system/cpu/possible": "0-3\n",
    }


def policy(number: int, cpus: str, clock_khz: int) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpufreq/policy{number}"
    return {
        f"{folder}/related_cpus": cpus,
        f"{folder}/cpuinfo_max_freq": str(clock_khz),
        f"{folder}/scaling_governor": "performance\n",
    }


def texts(report: doctor.Report, level: str) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.level == level)


def recorded(board: str) -> doctor.Report:
    folder = RECORDED / board
    outputs = json.loads((folder / "commands.json").read_text())
    python = json.loads((folder / "python.json").read_text())
    runtime = python.pop("onnxruntime")
    runtime["providers"] = tuple(runtime["providers"])
    python["missing"] = tuple(python["missing"])
    runner = commands({name: CommandResult(**result) for name, result in outputs.items()})
    interpreter = Interpreter(**python, onnxruntime=OnnxRuntime(**runtime))
    return doctor.examine(folder / "root", runner, interpreter)


def compare(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("board", BOARDS)
def test_the_report_of_a_recorded_board_is_the_golden_one(board: str) -> None:
    report = recorded(board)
    compare(RECORDED / board / "report.txt", doctor.to_text(report) + "\n")
    compare(RECORDED / board / "report.json", doctor.to_json(report) + "\n")


@pytest.mark.parametrize("board", BOARDS)
def test_a_recorded_board_gets_its_own_profile(board: str) -> None:
    settings = recorded(board).settings
    assert (settings.profile, settings.profile_fits) == (board, True)


def test_a_pi_5_in_good_order_needs_no_fix_and_no_advice() -> None:
    report = recorded("raspberry-pi-5")
    assert report.ok
    assert {finding.level for finding in report.findings} == {"note"}
    (sensor,) = report.machine.sensors
    assert sensor.kind == "pmic"
    assert len(sensor.rails) == 12  # EXT5V and BATT have no current


def test_a_pi_4_in_trouble_hears_of_every_trouble() -> None:
    report = recorded("raspberry-pi-4")
    assert not report.ok
    assert "SIGILL" in texts(report, "fix")
    assert "jinja2" in texts(report, "fix")
    advice = texts(report, "advice")
    assert "76.9 °C" in advice
    assert "197 MiB" in advice
    assert "under-voltage" in texts(report, "note")
    assert report.machine.sensors == ()
    assert report.settings.accuracy_level == 0


def test_an_orin_nano_is_told_of_its_gpu_and_its_total_rail() -> None:
    report = recorded("jetson-orin-nano")
    assert report.ok
    assert report.settings.extra == "jetson"
    assert report.settings.providers == ("CPUExecutionProvider",)
    assert "index for JetPack 6" in texts(report, "advice")
    assert "VDD_IN is the whole module" in texts(report, "note")
    assert "The default is 25W." in texts(report, "note")
    (sensor,) = report.machine.sensors
    assert sensor.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")


def test_a_gpu_build_on_a_jetson_is_used_and_not_nagged_about(tmp_path: Path) -> None:
    board = arm_board([A76] * 6, "nvidia,p3767-0003")
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    runtime = OnnxRuntime("1.23.2", providers, None)
    python = Interpreter("3.12.3", 64, "aarch64", (), runtime)
    report = doctor.examine(tree(tmp_path, board), no_commands, python)
    assert report.settings.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert texts(report, "advice") == ""


def test_a_jetson_without_onnxruntime_is_sent_to_nvidias_build(tmp_path: Path) -> None:
    board = arm_board([A76] * 6, "nvidia,p3767-0003")
    python = Interpreter("3.10.12", 64, "aarch64", ("onnxruntime",), None)
    report = doctor.examine(tree(tmp_path, board), no_commands, python)
    assert "jetson-ai-lab" in texts(report, "fix")
    assert "pip install 'tandem-llm" not in texts(report, "fix")


@pytest.mark.parametrize(
    "runtime",
    [
        OnnxRuntime("1.19.2", ("CUDAExecutionProvider", "CPUExecutionProvider"), None),
        OnnxRuntime("1.23.2", (), "importing it ends with SIGILL"),
    ],
)
def test_a_jetson_is_never_sent_to_pips_build_in_place_of_nvidias(
    runtime: OnnxRuntime, tmp_path: Path
) -> None:
    board = arm_board([A76] * 6, "nvidia,p3767-0003")
    python = Interpreter("3.10.12", 64, "aarch64", (), runtime)
    report = doctor.examine(tree(tmp_path, board), no_commands, python)
    found = texts(report, "fix" if runtime.problem else "advice")
    assert f"onnxruntime {runtime.version} is" in found
    assert "jetson-ai-lab" in found
    assert "pip install" not in found


def test_missing_packages_name_the_extra_and_are_a_fix(tmp_path: Path) -> None:
    python = Interpreter("3.11.2", 64, "aarch64", ("onnxruntime", "aiohttp"), None)
    report = doctor.examine(tree(tmp_path, arm_board([A76] * 4)), no_commands, python)
    assert not report.ok
    fix = texts(report, "fix")
    assert "Missing: onnxruntime, aiohttp. Run: pip install 'tandem-llm[device]'" in fix


def test_an_old_onnxruntime_is_advised_against(tmp_path: Path) -> None:
    old = OnnxRuntime("1.19.2", ("CPUExecutionProvider",), None)
    python = Interpreter("3.11.2", 64, "aarch64", (), old)
    report = doctor.examine(tree(tmp_path, arm_board([A76] * 4)), no_commands, python)
    assert report.ok
    assert "1.19.2 is older than 1.23.2" in texts(report, "advice")


def test_a_64_bit_kernel_with_a_32_bit_python_is_a_fix(tmp_path: Path) -> None:
    python = Interpreter("3.11.2", 32, "aarch64", ("onnxruntime", "numpy"), None)
    root = tree(tmp_path, arm_board([A72] * 4, "raspberrypi,4-model-b\0brcm,bcm2711"))
    report = doctor.examine(root, no_commands, python)
    fix = texts(report, "fix")
    assert "kernel has 64 bits, but this Python" in fix
    assert "pip install" not in fix  # nothing to install there


def test_a_32_bit_kernel_is_a_fix(tmp_path: Path) -> None:
    cores = [("0xd08", "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 crc32")] * 4
    python = Interpreter("3.11.2", 32, "armv7l", ("onnxruntime",), None)
    report = doctor.examine(tree(tmp_path, arm_board(cores)), no_commands, python)
    assert report.machine.cpu.isa == "arm"
    assert "kernel is a 32-bit one" in texts(report, "fix")


def test_only_the_big_cores_of_an_rk3588_draft(tmp_path: Path) -> None:
    board = arm_board([A55] * 4 + [A76] * 4, "radxa,rock-5b\0rockchip,rk3588")
    board |= policy(0, "0 1 2 3", 1_800_000) | policy(4, "4 5", 2_400_000)
    board |= policy(6, "6 7", 2_400_000)
    report = doctor.examine(tree(tmp_path, board), no_commands, GOOD_PYTHON)
    names = [(kind.name, kind.num_cores) for kind in report.machine.cpu.cores]
    assert names == [("Cortex-A76", 4), ("Cortex-A55", 4)]
    assert report.settings.num_threads == 4
    assert report.settings.profile == "rk3588"


def test_an_unknown_board_gets_the_closest_profile_and_its_fast_cores(tmp_path: Path) -> None:
    board = arm_board([A55] * 4 + [A76] * 2)
    board |= policy(0, "0 1 2 3", 1_800_000) | policy(4, "4 5", 2_300_000)
    report = doctor.examine(tree(tmp_path, board), no_commands, GOOD_PYTHON)
    assert (report.settings.profile, report.settings.profile_fits) == ("raspberry-pi-5", False)
    assert report.settings.num_threads == 2
    assert "No profile is this machine" in texts(report, "note")


def test_without_dot_product_the_closest_profile_has_no_level_4(tmp_path: Path) -> None:
    report = doctor.examine(tree(tmp_path, arm_board([A72] * 2)), no_commands, GOOD_PYTHON)
    assert report.settings.profile == "raspberry-pi-4"
    assert report.settings.accuracy_level == 0
    assert report.settings.num_threads == 2


@pytest.mark.parametrize(
    ("core", "profile"),
    [(A53, "raspberry-pi-zero-2w"), (A35, "raspberry-pi-4"), (A55, "raspberry-pi-5")],
)
def test_the_same_core_is_closer_than_the_same_instruction_sets(
    core: tuple[str, str], profile: str, tmp_path: Path
) -> None:
    """A Pi 3 has the Zero 2 W's; without its like, dot product decides."""
    board = arm_board([core] * 4, "raspberrypi,3-model-b\0brcm,bcm2837")
    settings = doctor.examine(tree(tmp_path, board), no_commands, GOOD_PYTHON).settings
    assert (settings.profile, settings.profile_fits) == (profile, False)


def test_threads_never_exceed_the_cores_that_are_online(tmp_path: Path) -> None:
    root = tree(tmp_path, arm_board([A76] * 2, "raspberrypi,5-model-b\0brcm,bcm2712"))
    assert doctor.examine(root, no_commands, GOOD_PYTHON).settings.num_threads == 2


def test_a_power_mode_that_did_not_take_hold_is_found(tmp_path: Path) -> None:
    root = tree(tmp_path, arm_board([A76] * 8, "nvidia,p3767-0000"))
    asked = commands({"nvpmodel -q": CommandResult(0, "NV Power Mode: 15W\n2\n")})
    report = doctor.examine(root, asked, GOOD_PYTHON)
    assert "15W, which has 4 cores, but 8 are online: reboot" in texts(report, "advice")


def test_a_container_without_the_cpu_list_is_a_fix(tmp_path: Path) -> None:
    board = arm_board([A76] * 4)
    del board["sys/devices/system/cpu/possible"]
    report = doctor.examine(tree(tmp_path, board), no_commands, GOOD_PYTHON)
    assert "cpu/possible is missing" in texts(report, "fix")


X86_FLAGS = "fpu lm sse2 avx2 fma avx512_vnni"


def x86(num_cores: int, flags: str = X86_FLAGS) -> dict[str, str]:
    blocks = [
        f"processor\t: {i}\nmodel name\t: Some CPU\nphysical id\t: 0\ncore id\t: {i // 2}\n"
        f"flags\t\t: {flags}\n"
        for i in range(2 * num_cores)
    ]
    return {"proc/cpuinfo": "\n".join(blocks)}


def test_a_pc_uses_physical_cores_and_its_dmi_name(tmp_path: Path) -> None:
    files = x86(4) | {
        "sys/class/dmi/id/sys_vendor": "Acme\n",
        "sys/class/dmi/id/product_name": "NUC 9\n",
    }
    report = doctor.examine(tree(tmp_path, files), no_commands, GOOD_PYTHON)
    assert report.machine.board.model == "Acme NUC 9"
    assert report.settings.profile == "generic-x86"
    assert report.settings.num_threads == 4
    assert report.machine.cpu.features == ("avx2", "fma", "avx512_vnni")


def test_favoured_cores_of_a_pc_count_as_fast_and_small_ones_do_not(tmp_path: Path) -> None:
    files = x86(4)
    for cpu, clock_khz in enumerate([5_800_000] * 2 + [5_600_000] * 4 + [4_300_000] * 2):
        files |= policy(cpu, str(cpu), clock_khz)
    report = doctor.examine(tree(tmp_path, files), no_commands, GOOD_PYTHON)
    assert report.settings.num_threads == 3


def test_a_pc_without_avx2_is_warned(tmp_path: Path) -> None:
    report = doctor.examine(tree(tmp_path, x86(2, "fpu lm sse2")), no_commands, GOOD_PYTHON)
    assert "no AVX2" in texts(report, "advice")


def test_rapl_packages_are_found_and_their_parts_are_not_counted_again(tmp_path: Path) -> None:
    folder = "sys/class/powercap/intel-rapl"
    files = x86(2) | {
        f"{folder}/intel-rapl:0/name": "package-0\n",
        f"{folder}/intel-rapl:0/energy_uj": "1234\n",
        f"{folder}/intel-rapl:0:0/name": "core\n",
        f"{folder}/intel-rapl:1/name": "package-1\n",
    }
    report = doctor.examine(tree(tmp_path, files), no_commands, GOOD_PYTHON)
    first, second = report.machine.sensors
    assert (first.rails, first.readable) == (("package-0",), True)
    assert (second.rails, second.readable) == (("package-1",), False)
    assert f"Only root may read /{folder}/intel-rapl:1" in texts(report, "advice")


def test_thors_total_rail_and_attached_meters_are_found_by_their_chip(tmp_path: Path) -> None:
    files = {
        "sys/class/hwmon/hwmon0/name": "ina238\n",
        "sys/class/hwmon/hwmon0/power1_input": "41000000\n",
        "sys/class/hwmon/hwmon1/name": "nvme\n",
        # Listed with its rails below the driver's folder, not once more here.
        "sys/class/hwmon/hwmon2/name": "ina3221\n",
    }
    (sensor,) = doctor_power.probe_sensors(tree(tmp_path, files), no_commands)
    assert (sensor.kind, sensor.path) == ("ina238", "/sys/class/hwmon/hwmon0")


@pytest.mark.parametrize(
    ("bits", "now", "since_boot"),
    [
        ("0x0", (), ()),
        ("0x1", ("under-voltage",), ()),
        ("0x50005", ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        ("0xe0000", (), ("clock capped", "throttled", "soft temperature limit")),
        ("0x8", ("soft temperature limit",), ()),
    ],
)
def test_throttle_bits_have_names(
    bits: str, now: tuple[str, ...], since_boot: tuple[str, ...]
) -> None:
    asked = commands({"vcgencmd get_throttled": CommandResult(0, f"throttled={bits}\n")})
    assert doctor_power.probe_throttling(asked) == doctor_power.Throttling(now, since_boot)


def test_under_voltage_now_is_advice(tmp_path: Path) -> None:
    asked = commands({"vcgencmd get_throttled": CommandResult(0, "throttled=0x5\n")})
    report = doctor.examine(tree(tmp_path, arm_board([A76] * 4)), asked, GOOD_PYTHON)
    assert "supply voltage is too low now" in texts(report, "advice")
    assert "Held back now: throttled." in texts(report, "advice")


def test_zones_that_cannot_be_read_and_trips_that_are_not_set_are_left_out(tmp_path: Path) -> None:
    files = {
        "sys/class/thermal/thermal_zone0/type": "cv0-thermal\n",
        # A folder in the place of the file fails as a read from a sleeping part does.
        "sys/class/thermal/thermal_zone0/temp/nothing": "",
        "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "51000\n",
        "sys/class/thermal/thermal_zone1/trip_point_0_type": "critical\n",
        "sys/class/thermal/thermal_zone1/trip_point_0_temp": "104500\n",
        "sys/class/thermal/thermal_zone1/trip_point_1_type": "passive\n",
        "sys/class/thermal/thermal_zone1/trip_point_1_temp": "95000\n",
    }
    for index, unset in enumerate(("-274000\n", "0\n"), start=2):
        files[f"sys/class/thermal/thermal_zone1/trip_point_{index}_type"] = "passive\n"
        files[f"sys/class/thermal/thermal_zone1/trip_point_{index}_temp"] = unset
    zones = doctor_probe.probe_zones(tree(tmp_path, files))
    assert zones == (doctor_probe.Zone("cpu-thermal", 51.0, 95.0),)


def test_an_empty_root_gives_a_report_and_no_traceback(tmp_path: Path) -> None:
    report = doctor.examine(tmp_path, no_commands, None)
    assert report.machine.board.model is None
    assert "unknown" in doctor.to_text(report)
    assert json.loads(doctor.to_json(report))["machine"]["memory"] is None


@pytest.mark.parametrize(
    ("result", "version", "problem"),
    [
        (CommandResult(0, 'warning\n["1.31.1", ["CPUExecutionProvider"]]\n'), "1.31.1", None),
        (CommandResult(-4, ""), None, "importing it ends with SIGILL"),
        (CommandResult(0, '["1.31.1", []]\n', "[W:onnxruntime] no GPU\n"), "1.31.1", None),
        (CommandResult(0, "", "odd"), None, "it does not tell its version and providers"),
        (CommandResult(0, "odd\n"), None, "it does not tell its version and providers"),
        (CommandResult(0, "7\n"), None, "it does not tell its version and providers"),
        (CommandResult(-11, "half a line"), None, "importing it ends with SIGSEGV"),
        (CommandResult(1, "", "Traceback\nImportError: GLIBC"), None, "ImportError: GLIBC"),
        (CommandResult(3, ""), None, "importing it ends with exit code 3"),
        (None, None, "it could not be tried in a child process"),
    ],
)
def test_a_crash_of_onnxruntime_is_a_finding_and_no_crash(
    result: CommandResult | None,
    version: str | None,
    problem: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_python, "_installed_version", lambda: None)
    runtime = doctor_python.try_onnxruntime(lambda _: result)
    assert (runtime.version, runtime.problem) == (version, problem)


def test_the_child_that_tries_onnxruntime_has_its_telemetry_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in on the path tells as its version what it saw when it was imported."""
    stand_in = """
import os
__version__ = "telemetry " + os.environ.get("ORT_DISABLE_TELEMETRY", "on")
def get_available_providers():
    return []
"""
    (tmp_path / "onnxruntime.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    runtime = doctor_python.try_onnxruntime(doctor_power.run_command)
    assert (runtime.version, runtime.problem) == ("telemetry 1", None)


def test_the_real_runner_reports_status_output_errors_and_absence() -> None:
    done = doctor_power.run_command(["sh", "-c", "echo no; echo why >&2; exit 3"])
    assert done == CommandResult(3, "no\n", "why\n")
    assert doctor_power.run_command(["there-is-no-such-command"]) is None


def test_the_command_line_reads_another_root_and_says_what_it_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = RECORDED / "raspberry-pi-4" / "root"
    assert cli.main(["doctor", "--root", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "Raspberry Pi 4 Model B" in shown
    assert "its Python was not examined" in shown


def test_the_command_line_ends_with_1_where_something_must_be_fixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = arm_board([A76] * 4)
    del board["sys/devices/system/cpu/possible"]
    assert cli.main(["doctor", "--json", "--root", str(tree(tmp_path, board))]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_root_that_is_no_folder_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--root", str(tmp_path / "gone")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_this_machine_can_be_examined(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_power, "run_command", no_commands)
    args = argparse.Namespace(root=Path("/"), json=True)
    assert doctor.run(args) in {0, 1}
    shown = json.loads(capsys.readouterr().out)
    assert shown["machine"]["python"]["bits"] == 64
