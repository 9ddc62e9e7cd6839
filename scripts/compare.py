#!/usr/bin/env python3
"""Compares programs that read the sockets and the connections of a host, as whole processes, on one machine in one run.

    scripts/compare.py run [--rounds N] [--sockets N,N,..] [--flows N,N,..] [--write docs/performance.md]
    scripts/compare.py benches [--write docs/performance.md]      the table of what `cargo bench` measured last

`run` needs root. It makes a machine of its own (network and process namespace), opens TCP connections in it, lets the
programs read them in turn, and does the same with entries of the connection table. Each round runs every program, in an
order that changes from round to round: once for time and once traced, for its peak of resident memory (programs that
take seconds: once for both), and all once before the first round, so that everything is in the page cache. Printed are
medians, with the smallest and the largest. What `--write FILE` changes in a page stands between its lines
`<!-- compare -->` and `<!-- end -->`; the charts are put beside it.

Python's standard library only. The peer, AWS's own agent, is installed by pip into target/compare/venv.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "compare"
PACKAGE = "AWSIoTDeviceDefenderAgentSDK"
OURS, PEER, SS, PROC = "edge-warden report", "AWS's agent (Python)", "ss -tan", "cat /proc/net/tcp"
KERNEL = "the kernel's dump, thrown away"
# Wall milliseconds from which on a program is not run twice.
SLOW = 3_000
SYSCTL = pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_max")


# ---- the machine ---------------------------------------------------------------------------------------------------


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def hold_sockets(count, address):
    """Opens `count` TCP sockets, connected in pairs over loopback, says so, and keeps them until stdin ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    listener = socket.create_server((address, 8883), backlog=64)
    kept = []
    for _ in range(count // 2):
        near = socket.create_connection((address, 8883))
        kept += [near, listener.accept()[0]]
    print("ready", flush=True)
    sys.stdin.read()


class Sockets:
    """Processes that hold TCP sockets for the time of a `with`: several, because of the limits of one."""

    EACH = 5_000

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.holders = []
        for nth, first in enumerate(range(0, self.count, self.EACH), 1):
            hold = [sys.executable, __file__, "hold", str(min(self.EACH, self.count - first)), f"127.0.{nth}.1"]
            self.holders.append(subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for holder in self.holders:
            assert holder.stdout.readline() == "ready\n"

    def __exit__(self, *_):
        for holder in self.holders:
            holder.stdin.close()
            holder.wait()


class Flows:
    """Entries in the connection table: TCP connections of 250 devices, established and of an hour's life."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        path = WORK / "flows"
        with path.open("w") as file:
            for n in range(self.count):
                device, nth = n % 250, n // 250
                file.write(
                    f"-I -s 10.20.1.{device} -d 198.51.{nth // 250}.{nth % 250 + 1} -p tcp --sport {32768 + nth}"
                    " --dport 443 --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 3600\n"
                )
        run("conntrack", "--load-file", path, stderr=subprocess.DEVNULL)
        path.unlink()
        counted = int(subprocess.check_output(["conntrack", "-C"]))
        assert counted == self.count, f"{counted} entries of {self.count}: is net.netfilter.nf_conntrack_max too small?"

    def __exit__(self, *_):
        run("conntrack", "-F", stderr=subprocess.DEVNULL)


# ---- measuring -----------------------------------------------------------------------------------------------------


def timed(command):
    """Wall and CPU milliseconds of one run."""
    with open(os.devnull, "r+b") as null:
        began = time.perf_counter()
        # conntrack tells on stderr how many entries it has shown
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command}: exit code {process.returncode}"
    return wall * 1000, (used.ru_utime + used.ru_stime) * 1000


LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_TRACEME, PTRACE_CONT, PTRACE_SETOPTIONS, TRACE_EXIT, EVENT_EXIT = 0, 7, 0x4200, 0x40, 6


def ptrace(request, pid, data):
    if LIBC.ptrace(request, pid, None, ctypes.c_void_p(data)) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def traced(command):
    """Wall and CPU milliseconds, and the peak of resident memory in MiB. getrusage(2) would count what this interpreter
    had before execve(2), so the process is stopped when it is about to exit, and asked itself. Its CPU has the
    millisecond of our own fork(2) in it."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        ptrace(PTRACE_TRACEME, 0, 0)
        os.execvp(command[0], command)
    peak, first = 0, True
    while True:
        _, status, used = os.wait4(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0 and peak, f"{command}: {status}"
            return (time.perf_counter() - began) * 1000, (used.ru_utime + used.ru_stime) * 1000, peak / 1024
        passed_on = os.WSTOPSIG(status)
        if first:
            ptrace(PTRACE_SETOPTIONS, pid, TRACE_EXIT)
            first, passed_on = False, 0
        elif status >> 16 == EVENT_EXIT:
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            peak = int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
            passed_on = 0
        ptrace(PTRACE_CONT, pid, passed_on)


def measure(programs, rounds):
    """{name: {"wall": [..], "cpu": [..], "peak": [..]}}"""
    results = {name: {"wall": [], "cpu": [], "peak": []} for name in programs}
    slow = {name for name, command in programs.items() if timed(command)[0] > SLOW}
    for number in range(rounds):
        # first forwards, then backwards, each time from another one on
        names = list(programs)
        start = number // 2 % len(names)
        names = names[start:] + names[:start]
        for name in names if number % 2 == 0 else reversed(names):
            wall, cpu, peak = traced(programs[name])
            if name not in slow:
                wall, cpu = timed(programs[name])
            for key, value in (("wall", wall), ("cpu", cpu), ("peak", peak)):
                results[name][key].append(value)
    return results


def collections(example, what, times):
    """CPU milliseconds of one reading within a process that has done it before."""
    said = subprocess.check_output([example, what, str(times)])
    return json.loads(said)


# ---- telling -------------------------------------------------------------------------------------------------------


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spread(values):
    return f"{number(statistics.median(values))} ({number(min(values))}..{number(max(values))})"


def table(sizes, what):
    """sizes: {size: results of `measure`}"""
    lines = [f"| {what} | program | CPU ms | wall ms | peak memory, MiB |", "|---|---|---|---|---|"]
    for size, results in sizes.items():
        for name, result in results.items():
            cells = (spread(result[key]) for key in ("cpu", "wall", "peak"))
            lines.append(f"| {size:,} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(sizes, title, unit):
    """CPU over size, both logarithmic, as SVG."""
    width, height, left, top, right, bottom = 720, 360, 60, 36, 230, 44
    colours = ["#0b6e4f", "#c1440e", "#31579a", "#8a6d00", "#7a3b8f", "#555555"]
    medians = {
        name: [(size, statistics.median(results[name]["cpu"])) for size, results in sizes.items() if name in results]
        for name in next(iter(sizes.values()))
    }
    points = [point for line in medians.values() for point in line]
    across = (min(x for x, _ in points), max(x for x, _ in points))
    low, high = (math.floor(math.log10(min(y for _, y in points))), math.ceil(math.log10(max(y for _, y in points))))

    def at(x, y):
        share = math.log(x / across[0]) / math.log(across[1] / across[0]) if across[0] != across[1] else 0.5
        return (
            left + share * (width - left - right),
            height - bottom - (math.log10(y) - low) / (high - low) * (height - top - bottom),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="20" font-size="14" font-weight="bold">{title}</text>',
    ]
    for power in range(low, high + 1):
        _, y = at(across[0], 10**power)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for size in sizes:
        x, _ = at(size, 10**low)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{size:,}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{unit}</text>')
    turned = f'transform="rotate(-90 14 {height / 2})"'
    parts.append(f'<text x="14" y="{height / 2}" {turned} text-anchor="middle">CPU ms</text>')
    # names beside the ends of their lines, pushed apart where they would touch
    ends = sorted((at(*line[-1])[1], name) for name, line in medians.items())
    placed, last = {}, top - 16
    for y, name in ends:
        placed[name] = last = max(y, last + 16)
    for colour, (name, line) in zip(colours, medians.items()):
        where = [at(*point) for point in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in where)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in where]
        parts.append(f'<text x="{width - right + 10}" y="{placed[name] + 4:.1f}" fill="{colour}">{name}</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    model = next(names, platform.machine())
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, load {load:.1f} before the run"


def put(page, mark, text):
    """Replaces what stands between the marks in a page."""
    page = pathlib.Path(page)
    begin, end = f"<!-- {mark} -->\n", "<!-- end -->"
    head, rest = page.read_text().split(begin)
    _, tail = rest.split(end, 1)
    page.write_text(head + begin + "\n" + text + "\n\n" + end + tail)


# ---- benches -------------------------------------------------------------------------------------------------------


def benches(arguments):
    """What criterion left of the last `cargo bench`."""
    root = ROOT / "target" / "criterion"
    lines = ["| bench | median | 95 % of medians lie in |", "|---|---|---|"]
    for path in sorted(root.glob("**/new/estimates.json")):
        name = path.parent.parent.relative_to(root)
        median = json.loads(path.read_text())["median"]
        bounds = median["confidence_interval"]
        ends = (bounds["lower_bound"], bounds["upper_bound"])
        lines.append(f"| `{name}` | {nanoseconds(median['point_estimate'])} | {'..'.join(map(nanoseconds, ends))} |")
    text = "\n".join([f"{machine()}.", "", *lines])
    print(text)
    if arguments.write:
        put(arguments.write, "benches", text)


def nanoseconds(value):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} ns"


# ---- the verbs -----------------------------------------------------------------------------------------------------


def program():
    default = ROOT / "target" / f"{platform.machine()}-unknown-linux-gnu" / "release" / "edge-warden"
    return os.environ.get("EDGE_WARDEN_BINARY", str(default))


def compare(arguments):
    ours, example, peer = program(), str(example_path()), str(WORK / "venv/bin/python")
    readers = {
        OURS: [ours, "report", "--format", "json"],
        PEER: [peer, "-m", f"{PACKAGE}.collector"],
        SS: ["ss", "-tan"],
        PROC: ["cat", "/proc/net/tcp"],
        KERNEL: [example, "sockets-kernel"],
    }
    flow_readers = {
        "edge-warden, flows per thing": [example, "flows"],
        "conntrack -L": ["conntrack", "-L"],
        KERNEL: [example, "flows-kernel"],
    }
    about = machine()
    run("ip", "link", "set", "lo", "up")
    kinds = ("sockets", "sockets-proc", "sockets-kernel")
    inside = [
        "| TCP sockets | sample and report, CPU ms | the same from /proc alone | the kernel's dump |",
        "|---|---|---|---|",
    ]
    sockets = {}
    for count in arguments.sockets:
        with Sockets(count):
            say(f"{count} sockets")
            sockets[count] = measure(readers, arguments.rounds)
            cpu = (number(collections(example, kind, 2 * arguments.rounds + 1)["cpu_ms"]) for kind in kinds)
            inside.append(f"| {count:,} | {' | '.join(cpu)} |")
    flows = {}
    for count in arguments.flows:
        with Flows(count):
            say(f"{count} connections")
            flows[count] = measure(flow_readers, arguments.rounds)
    text = [
        f"Measured {time.strftime('%Y-%m-%d %H:%M')} UTC by `make compare`: {about}.",
        f"Medians of {arguments.rounds} runs (smallest..largest).",
        "",
        table(sockets, "TCP sockets"),
        "",
        *verdicts(sockets),
        "",
        "One reading within a process that goes on, as the agent does it (median):",
        "",
        *inside,
        "",
        table(flows, "connections"),
        "",
        "![CPU over sockets](performance-sockets.svg)",
        "",
        "![CPU over connections](performance-flows.svg)",
    ]
    text = "\n".join(text)
    print(text)
    if arguments.write:
        put(arguments.write, "compare", text)
        beside = pathlib.Path(arguments.write).parent
        beside.joinpath("performance-sockets.svg").write_text(
            chart(sockets, "Reading a host's TCP sockets, whole processes", "TCP sockets")
        )
        beside.joinpath("performance-flows.svg").write_text(
            chart(flows, "Reading the connection table, whole processes", "connections")
        )


def verdicts(sockets):
    """The marks of the specification, at the largest size."""
    size, results = max(sockets.items())
    cpu = {name: statistics.median(result["cpu"]) for name, result in results.items()}
    parts = [f"{cpu[OURS] / cpu[name]:.2f} times that of {name}" for name in (SS, PROC, KERNEL)]
    times = f"{PEER} takes {cpu[PEER] / cpu[OURS]:,.0f} times as much"
    return [f"At {size:,} sockets the CPU of {OURS} is {', '.join(parts)}; {times}."]


def say(text):
    print(f"compare.py: {text}", file=sys.stderr, flush=True)


def example_path():
    return pathlib.Path(os.environ.get("EDGE_WARDEN_COLLECT", ROOT / "target/release/examples/collect"))


def prepare_peer():
    python = WORK / "venv/bin/python"
    installed = python.exists() and subprocess.run([python, "-c", f"import {PACKAGE}"]).returncode == 0
    if not installed:
        run(sys.executable, "-m", "venv", WORK / "venv")
        run(python, "-m", "pip", "install", "--quiet", f"{PACKAGE}==2.0.0")


def outside(arguments):
    """Makes room in the connection table, which only the first namespace can, and goes on in a machine of its own."""
    if os.geteuid() != 0:
        sys.exit("compare.py: needs root: it makes network namespaces")
    WORK.mkdir(parents=True, exist_ok=True)
    prepare_peer()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare.py: stopped"))
    subprocess.run(["conntrack", "-C"], stdout=subprocess.DEVNULL)  # loads the module
    before = SYSCTL.read_text()
    if int(before) < max(arguments.flows) + 1000:
        SYSCTL.write_text(str(max(arguments.flows) + 1000))
    try:
        inner = [sys.executable, __file__, "inside", *sys.argv[2:]]
        run("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *inner)
    finally:
        SYSCTL.write_text(before)


def sizes(text):
    return [int(size) for size in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "inside"):
        this = verbs.add_parser(verb)
        this.add_argument("--rounds", type=int, default=7)
        this.add_argument("--sockets", type=sizes, default=[100, 10_000, 50_000])
        this.add_argument("--flows", type=sizes, default=[1_000, 100_000, 500_000])
        this.add_argument("--write", metavar="FILE")
    hold = verbs.add_parser("hold")
    hold.add_argument("count", type=int)
    hold.add_argument("address")
    verbs.add_parser("benches").add_argument("--write", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.verb == "hold":
        hold_sockets(arguments.count, arguments.address)
    elif arguments.verb == "run":
        outside(arguments)
    elif arguments.verb == "inside":
        compare(arguments)
    else:
        benches(arguments)


if __name__ == "__main__":
    main()
