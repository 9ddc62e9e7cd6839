"""A small site on this machine, in network namespaces of its own, with the agent on its gateway:

    device 0 ─┐
    device 1 ─┴─ br0 gateway wan0 ── internet

Names carry the process id; `close` ends the agent and removes the namespaces. Needs root and fails loudly without it.
"""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

PATIENCE = 300  # seconds; the machine may be busy
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
ADDRESSES = ["10.20.0.10", "10.20.0.11"]
_sites = itertools.count()
GATEWAY, INTERNET = "10.20.0.1", "203.0.113.1"


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def until(holds, patience=PATIENCE):
    """Wait until something holds; whether it did."""
    end = time.monotonic() + patience
    while True:
        if holds():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


class Site:
    """Its devices' things have names of their own, so what one test did to them is nothing to the next."""

    def __init__(self, configuration):
        assert os.geteuid() == 0, "the site needs root: run the tests by cloud/test.sh as root"
        self.binary = os.environ["EDGE_WARDEN_BINARY"]
        number = next(_sites)
        name = lambda host: f"ewcloud{os.getpid()}-{number}-{host}"
        self.things = [f"cam-site{number}-{n}" for n in range(len(MACS))]
        self.gateway, self.internet = name("gw"), name("inet")
        self.devices = [name("d0"), name("d1")]
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ew-cloud-"))
        self.resolver = pathlib.Path("/etc/netns") / self.gateway
        self._agent = None
        try:
            self._wire()
            self._start(configuration)
        except BaseException:
            self.close()
            raise

    def _wire(self):
        gw = self.gateway
        batch = "".join(f"netns add {ns}\n" for ns in [gw, self.internet, *self.devices])
        for n, ns in enumerate(self.devices):
            batch += f"link add lan{n} netns {gw} type veth peer name eth0 address {MACS[n]} netns {ns}\n"
        batch += f"link add wan0 netns {gw} type veth peer name eth0 netns {self.internet}\n"
        run("ip", "-b", "-", input=batch)
        batch = "link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n"
        for n in range(len(self.devices)):
            batch += f"link set lan{n} addrgenmode none\nlink set lan{n} master br0 up\n"
        batch += f"link set wan0 up\naddr add {GATEWAY}/24 dev br0\naddr add 203.0.113.2/24 dev wan0\n"
        run("ip", "-n", gw, "-b", "-", input=batch + f"route add default via {INTERNET}\n")
        run("ip", "netns", "exec", gw, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for n, ns in enumerate(self.devices):
            batch = f"link set lo up\nlink set eth0 up\naddr add {ADDRESSES[n]}/24 dev eth0\n"
            run("ip", "-n", ns, "-b", "-", input=batch + f"route add default via {GATEWAY}\n")
        batch = f"link set lo up\nlink set eth0 up\naddr add {INTERNET}/24 dev eth0\n"
        run("ip", "-n", self.internet, "-b", "-", input=batch + "route add 10.20.0.0/24 via 203.0.113.2\n")
        # what tells the agent which servers never to cut off
        self.resolver.mkdir(parents=True)
        (self.resolver / "resolv.conf").write_text(f"nameserver {INTERNET}\n")

    def _start(self, configuration):
        config = self.dir / "config.json"
        devices = [
            {"thingName": thing, "macs": [mac], "addresses": [address]}
            for thing, mac, address in zip(self.things, MACS, ADDRESSES)
        ]
        config.write_text(json.dumps({**configuration, "devices": devices}))
        command = [self.binary, "run", "--standalone", self.dir / "agent", "--config", config]
        with open(self.dir / "log", "w") as log:
            self._agent = subprocess.Popen(["ip", "netns", "exec", self.gateway, *command], stdout=log, stderr=log)
        assert until(lambda: self.cli("status", check=False).returncode == 0 or self._agent.poll() is not None)
        assert self._agent.poll() is None, self.log()

    def log(self):
        return (self.dir / "log").read_text()

    def cli(self, *arguments, check=True):
        command = [self.binary, *arguments, "--standalone", self.dir / "agent"]
        return run("ip", "netns", "exec", self.gateway, *command, check=check)

    def shadow(self, thing, name):
        """The gateway's copy of a shadow; an empty one when there is none."""
        file = self.dir / "agent" / "shadows" / (f"{thing}.{name}.json" if name else f"{thing}.json")
        return json.loads(file.read_text()) if file.exists() else {"state": {}}

    def published(self, ending):
        """Payloads the agent published to IoT Core on topics that end so."""
        file = self.dir / "agent" / "published.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        messages = [json.loads(line) for line in lines if line.endswith("}")]
        return [m["payload"] for m in messages if m["destination"] == "iotcore" and m["topic"].endswith(ending)]

    def reaches(self, n, address):
        """Whether device `n` gets an answer to a ping."""
        ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
        return run("ip", "netns", "exec", self.devices[n], *ping, check=False).returncode == 0

    def open(self, n, ways=None):
        """Every way of device `n` is open, to its neighbour too; waits, as addresses may have to be resolved."""
        ways = ways or [GATEWAY, INTERNET, ADDRESSES[1 - n]]
        return until(lambda: all(self.reaches(n, address) for address in ways))

    def undisturbed(self, n):
        """Device `n` is open; its neighbour is cut off."""
        return self.open(n, [GATEWAY, INTERNET])

    def flood(self, n, size):
        """Device `n` sends so many bytes to the internet; datagrams nobody waits for."""
        code = f"""
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range({size} // 1000):
    out.sendto(bytes(1000), ({INTERNET!r}, 9))
"""
        run("ip", "netns", "exec", self.devices[n], "python3", "-c", code)

    def until_sampled(self):
        """Wait until the agent has taken two samples more: what is sent from now on is seen as sent now."""
        samples = lambda: json.loads(self.cli("status", "--json").stdout)["samples"]
        before = samples()
        return until(lambda: samples() >= before + 2)

    def cut(self, n):
        """No way of device `n` is open."""
        return not any(self.reaches(n, address) for address in [GATEWAY, INTERNET, ADDRESSES[1 - n]])

    def close(self):
        if self._agent:
            self._agent.kill()
            self._agent.wait()
        for ns in [self.gateway, self.internet, *self.devices]:
            run("ip", "netns", "del", ns, check=False)
        shutil.rmtree(self.resolver, ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)
