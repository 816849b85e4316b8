"""An emulated 64-bit ARM board: qemu-user, the Python of Raspberry Pi OS 12, aarch64 wheels.

`python -m tests.arm.board CPU ARGUMENTS…` runs that Python; without arguments it only builds. No
root is needed: packages are unpacked into a folder of the checkout (.arm), and qemu looks up
absolute paths there first. Named CPUs refuse instructions that the real core lacks, which is the
point: the CPU `max` would hide them. Times under emulation say nothing about a board.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / ".arm"

DEBIAN = "http://deb.debian.org/debian"
SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PYTHON = "3.11"
GUEST_PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6", "libgomp1")
MAX_GLIBC_MINOR = 36
"""glibc 2.36 is Bookworm's: wheels for it or older ones run there."""

TEST_PACKAGES = ("pytest", "pytest-aiohttp", "hypothesis", "onnx", "packaging")
JETSON_ONNXRUNTIME = "1.23.2"
"""The newest for Python 3.10, which JetPack 6 has; run here from its wheel for Python 3.11."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """What /proc/cpuinfo says of a core. onnxruntime chooses its kernels by it."""

    part: str
    variant: str
    revision: int
    features: str
    board: str


_ARMV8_0 = "fp asimd evtstrm crc32 cpuid"
_ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
CPUS: Mapping[str, Cpu] = {
    "cortex-a53": Cpu("0xd03", "0x0", 4, _ARMV8_0, "Pi Zero 2 W"),
    "cortex-a72": Cpu("0xd08", "0x0", 3, _ARMV8_0, "Pi 4"),
    "cortex-a76": Cpu("0xd0b", "0x4", 1, _ARMV8_2, "Pi 5; nearest to the A78AE of Jetson Orin"),
}
"""qemu's names. Main ID register fields of r0p4, r0p3 and r4p1, features as Linux lists them."""


class BoardError(RuntimeError):
    """The board cannot be built here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Board:
    """A built board with one CPU."""

    qemu: Path
    root: Path
    sites: tuple[Path, ...]
    """Folders of wheels; the first one that has a package wins."""
    cpu: str

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs the board's Python."""
        python = self.root / "usr" / "bin" / f"python{PYTHON}"
        return [str(self.qemu), "-cpu", self.cpu, "-L", str(self.root), str(python), *arguments]

    def environment(self) -> dict[str, str]:
        """All that the emulated process sees; nothing of the host's."""
        paths = [CHECKOUT, *self.sites]
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(FOLDER),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": "/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu",
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONPYCACHEPREFIX": str(FOLDER / "pycache"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def run(self, *arguments: str, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
        """Run the board's Python from the checkout; the result holds stdout and stderr."""
        return subprocess.run(
            self.command(*arguments), cwd=CHECKOUT, env=self.environment(), timeout=timeout_s,
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def build(cpu: str, *, onnxruntime: str | None = None) -> Board:
    """The board, from what .arm holds already; `onnxruntime` picks another version of it."""
    FOLDER.mkdir(exist_ok=True)
    packages = _guest_packages()
    root = _root(cpu, packages)
    sites = [_site("site", _requirements())]
    if onnxruntime is not None:
        wanted = [f"onnxruntime=={onnxruntime}"]
        sites.insert(0, _site(f"onnxruntime-{onnxruntime}", wanted, "--no-deps"))
    return Board(_qemu(), root, tuple(sites), cpu)


def _qemu() -> Path:
    """qemu-user for aarch64: an installed one, or Debian's, which is static and runs anywhere."""
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        if found := shutil.which(name):
            return Path(found)
    kept = FOLDER / "qemu-aarch64-static"
    if not kept.exists():
        print("fetching qemu-user …", file=sys.stderr)
        apt = _Apt(_host_architecture())
        (archive,) = apt.fetch(["qemu-user-static"], only="qemu-user-static_")
        unpacked = FOLDER / "qemu.new"
        _unpack(archive, unpacked)
        shutil.move(unpacked / "usr" / "bin" / kept.name, kept)
        shutil.rmtree(unpacked)
    return kept


def _host_architecture() -> str:
    return _checked(["dpkg", "--print-architecture"]).strip()


def _guest_packages() -> Path:
    """The arm64 packages unpacked: a folder with usr/ and lib/."""
    folder = FOLDER / "debian"
    if not folder.exists():
        print("fetching Python for aarch64 …", file=sys.stderr)
        draft = FOLDER / "debian.new"
        shutil.rmtree(draft, ignore_errors=True)
        for archive in _Apt("arm64").fetch(GUEST_PACKAGES):
            _unpack(archive, draft)
        draft.rename(folder)
    return folder


def _root(cpu: str, packages: Path) -> Path:
    """The file system of one CPU: shared packages, and a /proc/cpuinfo of its own.

    Without it the host's x86 text is read, and onnxruntime crashes on import. With another core's it
    believes in instructions that the emulated core lacks.
    """
    root = FOLDER / cpu
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(cpuinfo(CPUS[cpu]))
    for part in sorted(packages.iterdir()):
        link = root / part.name
        if not link.is_symlink():
            link.symlink_to(part)
    return root


def cpuinfo(cpu: Cpu, num_cores: int = 4) -> str:
    """/proc/cpuinfo as a 64-bit ARM kernel writes it."""
    return "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {cpu.features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {cpu.variant}\n"
        f"CPU part\t: {cpu.part}\nCPU revision\t: {cpu.revision}\n\n"
        for core in range(num_cores)
    )


class _Apt:
    """apt with state of its own: it sees no package of the host and needs no root."""

    def __init__(self, architecture: str) -> None:
        if not KEYRING.exists() or shutil.which("apt-get") is None:
            raise BoardError(
                f"{KEYRING} and apt-get are needed to fetch the emulated board's packages; run "
                "this on Debian, or on Ubuntu after: apt install debian-archive-keyring"
            )
        self._folder = FOLDER / f"apt-{architecture}"
        for name in ("lists/partial", "archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        sources = f"deb [signed-by={KEYRING}] {DEBIAN} {SUITE} main\n"
        (self._folder / "sources.list").write_text(sources)
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # as no other user, whoever runs this
            "Dir::State": str(self._folder),
            "Dir::State::status": str(self._folder / "status"),
            "Dir::Cache": str(self._folder),
            "Dir::Etc::sourcelist": str(self._folder / "sources.list"),
            "Dir::Etc::sourceparts": "-",
        }
        config = "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (self._folder / "apt.conf").write_text(config)
        self._environment = {**os.environ, "APT_CONFIG": str(self._folder / "apt.conf")}

    def fetch(self, packages: Iterable[str], only: str = "") -> list[Path]:
        """Download packages with all they depend on; archives whose names begin with `only`."""
        _checked(["apt-get", "-q", "update"], self._environment)
        install = ["apt-get", "-q", "-y", "--download-only", "install", *packages]
        _checked(install, self._environment)
        archives = sorted((self._folder / "archives").glob(f"{only}*.deb"))
        if not archives:
            raise BoardError(f"apt fetched no {' '.join(packages)} from {DEBIAN}")
        return archives


def _unpack(archive: Path, folder: Path) -> None:
    _checked(["dpkg-deb", "--extract", str(archive), str(folder)])


def _requirements() -> list[str]:
    """What the device needs by pyproject.toml, and what its tests need, as pip takes them."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["device"]
    return [*_for_guest(lines), *TEST_PACKAGES]


def _for_guest(lines: Iterable[str]) -> list[str]:
    """The requirements that hold for the board's Python, without their markers.

    pip would judge markers by the Python that runs it.
    """
    parsed = [Requirement(line) for line in lines]
    guest = {"python_version": PYTHON, "platform_machine": "aarch64", "sys_platform": "linux"}
    held = [r for r in parsed if r.marker is None or r.marker.evaluate(guest)]
    return [f"{r.name}{r.specifier}" for r in held]


def _site(name: str, requirements: Sequence[str], *options: str) -> Path:
    """A folder of aarch64 wheels that meet the requirements; built once per set of them."""
    folder, stamp = FOLDER / name, FOLDER / f"{name}.stamp"
    pins = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = _for_guest(line for line in pins if re.match(r"\w", line))
    wanted = "\n".join([*requirements, *options, *pins])
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    print(f"fetching aarch64 wheels into {folder} …", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    if "--no-deps" not in options:
        constraints = FOLDER / f"{name}.constraints.txt"
        constraints.write_text("\n".join(pins))
        options = (*options, "--constraint", str(constraints))
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, MAX_GLIBC_MINOR)]
    _checked(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", str(folder), "--only-binary=:all:", f"--python-version={PYTHON}",
            "--platform=manylinux2014_aarch64", *platforms, *options, *requirements,
        ]
    )  # fmt: skip
    stamp.write_text(wanted)
    return folder


def _checked(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise BoardError(
            f"{command[0]} is needed to build the emulated board; see {Path(__file__)}"
        )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise BoardError(f"{' '.join(command[:4])} … failed: {' / '.join(last)}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """Run the board's Python with the terminal's own streams; the exit code."""
    if not arguments or arguments[0] not in CPUS:
        print(f"usage: python -m tests.arm.board {{{','.join(CPUS)}}} [PYTHON ARGUMENTS…]")
        return 2
    board = build(arguments[0])
    if len(arguments) == 1:
        print(*board.command())
        return 0
    command = board.command(*arguments[1:])
    return subprocess.run(command, env=board.environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
