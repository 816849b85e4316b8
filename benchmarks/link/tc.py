"""A link profile for Linux's own emulator: the commands of tc and ip, run and undone.

What leaves the device goes through netem on its interface; what comes is sent through an
intermediate device (ifb) first, because the kernel delays only what leaves.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.link.settings import Direction, LinkModel

PACKET_BYTES = 1500
KERNEL_DEFAULTS = {"noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "noop"}
"""Queues that the kernel sets by itself, and sets again when ours is gone."""
MAX_IFACE_CHARS = 15

Command = Sequence[str]


class TcError(Exception):
    """tc cannot do it here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """Exit status and what was printed; 127: the program does not exist."""

    status: int
    output: str


Runner = Callable[[Command], Done]


def run_command(command: Command) -> Done:
    """The real runner."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return Done(127, f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return Done(124, f"{command[0]} did not answer within 20 s")
    return Done(done.returncode, done.stdout + done.stderr)


def ifb_of(dev: str) -> str:
    """Name of the intermediate device that belongs to an interface."""
    return f"ifb-{dev}"[:MAX_IFACE_CHARS]


def apply_commands(model: LinkModel, dev: str) -> list[list[str]]:
    """Uplink on the interface, downlink on its intermediate device, in the order to run them."""
    ifb = ifb_of(dev)
    return [
        ["tc", "qdisc", "add", "dev", dev, "root", "netem", *_netem(model.up)],
        ["ip", "link", "add", ifb, "type", "ifb"],
        ["ip", "link", "set", "dev", ifb, "up"],
        ["tc", "qdisc", "add", "dev", ifb, "root", "netem", *_netem(model.down)],
        ["tc", "qdisc", "add", "dev", dev, "handle", "ffff:", "ingress"],
        [
            *("tc", "filter", "add", "dev", dev, "parent", "ffff:", "matchall"),
            *("action", "mirred", "egress", "redirect", "dev", ifb),
        ],
    ]


def undo_commands(dev: str) -> list[list[str]]:
    """Back to the kernel's own queue."""
    return [
        ["tc", "qdisc", "del", "dev", dev, "ingress"],
        ["tc", "qdisc", "del", "dev", dev, "root"],
        ["ip", "link", "del", ifb_of(dev)],
    ]


def _netem(way: Direction) -> list[str]:
    words = ["delay", _ms(way.delay_s)]
    if way.jitter_s:
        words += [_ms(way.jitter_s), "distribution", "normal"]
    if way.loss_ratio and way.loss_burst > 1:
        leave = 1 / way.loss_burst
        enter = leave * way.loss_ratio / (1 - way.loss_ratio)
        words += ["loss", "gemodel", f"{100 * min(1.0, enter):.6g}%", f"{100 * leave:.6g}%"]
    elif way.loss_ratio:
        words += ["loss", "random", f"{100 * way.loss_ratio:.6g}%"]
    words += ["rate", f"{way.capacity.rates.mean_bps:.0f}bit"]
    # netem's limit counts what is on its way, too, not only what waits.
    in_flight = way.delay_s * way.capacity.rates.mean_bps / 8
    return [*words, "limit", str(max(2, round((way.queue_bytes + in_flight) / PACKET_BYTES)))]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.6g}ms"


def left_out(model: LinkModel) -> list[str]:
    """Parts of the model that tc does not have, in words."""
    parts = []
    if model.tail_s is not None:
        parts.append(f"the radio's wake-up of {model.promotion_s:g} s after {model.tail_s:g} s")
    if model.up.capacity.outages or model.down.capacity.outages:
        parts.append("outages")
    return parts


def apply(model: LinkModel, dev: str, run: Runner) -> None:
    """Set the link; TcError, and everything as before, where that fails."""
    _require_free(dev, run)
    for number, command in enumerate(apply_commands(model, dev)):
        result = run(command)
        if result.status:
            if number:  # something was set already
                for undoing in undo_commands(dev):
                    run(undoing)
            raise TcError(_why(command, result, dev))


def undo(dev: str, run: Runner) -> None:
    """Take the link away; TcError if nothing of it is there, or it cannot be removed."""
    if "netem" not in _kinds(dev, run):
        raise TcError(f"{dev} has no emulated link; nothing was changed")
    results = [(command, run(command)) for command in undo_commands(dev)]
    for command, result in results:
        missing = any(word in result.output for word in ("Cannot find", "No such", "Invalid arg"))
        if result.status and not missing:
            raise TcError(_why(command, result, dev))


def _kinds(dev: str, run: Runner) -> list[str]:
    """Kinds of the queues at the root of an interface, and of its ingress."""
    command = ["tc", "-j", "qdisc", "show", "dev", dev]
    result = run(command)
    if result.status:
        raise TcError(_why(command, result, dev))
    try:
        queues = json.loads(result.output or "[]")
        return [str(q["kind"]) for q in queues if q.get("root") or q["kind"] == "ingress"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TcError("tc gave an answer that is no list of queues; is it iproute2?") from None


def _require_free(dev: str, run: Runner) -> None:
    kinds = _kinds(dev, run)
    if "netem" in kinds:
        raise TcError(f"{dev} already has an emulated link; first: tandem link undo --dev {dev}")
    if foreign := [kind for kind in kinds if kind not in KERNEL_DEFAULTS]:
        raise TcError(
            f"{dev} has a queue of its own ({', '.join(foreign)}), which would be lost; remove it "
            f"first (tc qdisc del dev {dev} root), or use `tandem link run`"
        )


def _why(command: Command, result: Done, dev: str) -> str:
    """What went wrong, in one sentence, from what tc or ip printed."""
    text = result.output.strip()
    if result.status == 127:
        return f"there is no {command[0]} here; install iproute2, or use `tandem link run`"
    if "Operation not permitted" in text:
        return f"only root may change {dev}: run it with sudo, or use `tandem link run`"
    if "Cannot find device" in text or "does not exist" in text:
        return f"there is no network interface {dev}; `ip link` lists them"
    if "qdisc kind is unknown" in text:
        kind = "netem" if "netem" in command else "ingress"
        return (
            f"this kernel has no {kind} (Jetson's and many slim kernels lack it); "
            f"try `sudo modprobe sch_{kind}`, or use `tandem link run`, which needs neither"
        )
    if command[0] == "ip" and "ifb" in command:
        return f"this kernel has no ifb device ({text}); try `sudo modprobe ifb`"
    return f"`{' '.join(command)}` failed with status {result.status}: {text}"
