//! Real programs at a site: a DHCP client in a device, an MQTT broker with TLS on the gateway, and what a checker inside a
//! host's own namespace sees of its sockets. Everything ends with its value.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::site::{BROKER, Host, until};

/// How long a program may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What udhcpc runs at every event: the IPv4 address it was given, and the way out.
const APPLY: &str = r#"#!/bin/sh
case $1 in
deconfig) ip -4 addr flush dev "$interface" ;;
bound | renew)
    ip -4 addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface" ;;
esac
"#;

/// A program that is killed when this is dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(host: &Host, command: &mut Command) -> Self {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &host.ns]).arg(command.get_program());
        inside.args(command.get_args());
        let program = command.get_program().to_owned();
        let child = inside
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// udhcpc on a device. Its hostname option is what a lease rule sees.
#[derive(Debug)]
pub struct DhcpClient {
    device: Host,
    client: Running,
    _directory: tempfile::TempDir,
}

impl DhcpClient {
    /// Starts it and waits for its first lease.
    pub fn start(device: &Host, hostname: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let script = directory.path().join("apply");
        std::fs::write(&script, APPLY).expect("a script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
        device.shell("ip -4 addr flush dev eth0");
        let mut command = Command::new("udhcpc");
        command.args(["-f", "-i", "eth0", "-t", "100", "-T", "1", "-A", "1", "-x"]);
        command.arg(format!("hostname:{hostname}")).arg("-s").arg(&script);
        let client = Running::start(device, &mut command);
        let client = Self {
            device: device.clone(),
            client,
            _directory: directory,
        };
        assert!(
            until(DEADLINE, || client.address().is_some()),
            "{}: no lease",
            device.ns
        );
        client
    }

    /// The address the device has now.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let text = self.device.shell("ip -4 -o addr show dev eth0");
        let network = text
            .split_ascii_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1)?;
        network.split('/').next()?.parse().ok()
    }

    /// Asks the server for the lease again, and waits until the device has `address`.
    pub fn renew(&self, address: Ipv4Addr) {
        let pid = rustix::process::Pid::from_child(&self.client.0);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("the client runs");
        let renewed = until(DEADLINE, || self.address() == Some(address));
        assert!(
            renewed,
            "{}: has {:?} instead of {address}",
            self.device.ns,
            self.address()
        );
    }
}

/// mosquitto on the gateway's broker port, with TLS and a certificate of its own authority.
#[derive(Debug)]
pub struct Broker {
    host: Host,
    _broker: Running,
    directory: tempfile::TempDir,
}

impl Broker {
    /// Starts it and waits until it listens.
    pub fn start(gateway: &Host) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        certify(directory.path(), gateway);
        let configuration = format!(
            "listener {BROKER}\nallow_anonymous true\npersistence false\nuser root\n\
             cafile {}\ncertfile {}\nkeyfile {}\n",
            file("ca.pem").display(),
            file("broker.pem").display(),
            file("broker.key").display(),
        );
        std::fs::write(file("broker.conf"), configuration).expect("its configuration");
        let program = ["/usr/sbin/mosquitto", "mosquitto"];
        let program = program
            .iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or(&"mosquitto");
        let mut command = Command::new(program);
        command.arg("-c").arg(file("broker.conf"));
        let broker = Running::start(gateway, &mut command);
        let broker = Self {
            host: gateway.clone(),
            _broker: broker,
            directory,
        };
        let listens = || gateway.bound_ports("tcp").contains(&BROKER);
        assert!(until(DEADLINE, listens), "mosquitto does not listen on {BROKER}");
        broker
    }

    /// The certificate that vouches for it.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Connects a device as a client device of Greengrass does: MQTT 3.1.1 within TLS, the certificate checked.
    pub fn connect(&self, device: &Host, client: &str) -> MqttConnection {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", "-connect"]);
        command
            .arg(format!("{}:{BROKER}", self.host.v4))
            .arg("-CAfile")
            .arg(self.authority());
        let mut tunnel = Running::start(device, &mut command);
        let mut to: ChildStdin = tunnel.0.stdin.take().expect("piped");
        let mut from: ChildStdout = tunnel.0.stdout.take().expect("piped");
        // CONNECT (MQTT 3.1.1, 3.1): protocol name and level, clean session, no keep-alive, client identifier.
        let name = u8::try_from(client.len()).expect("a short name");
        let mut connect = vec![0x10, 12 + name, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, name];
        connect.extend(client.as_bytes());
        to.write_all(&connect).expect("the tunnel stands");
        to.flush().expect("the tunnel stands");
        // CONNACK (3.2): accepted, no session kept.
        let mut answer = [0; 4];
        from.read_exact(&mut answer).expect("the broker answers");
        assert_eq!(answer, [0x20, 2, 0, 0], "the broker takes the connection");
        MqttConnection {
            _tunnel: tunnel,
            _to: to,
            _from: from,
        }
    }
}

/// A device's connection to the broker, open as long as this lives.
#[derive(Debug)]
pub struct MqttConnection {
    _tunnel: Running,
    _to: ChildStdin,
    _from: ChildStdout,
}

/// An authority, and a certificate of it for the gateway's LAN address.
fn certify(directory: &Path, gateway: &Host) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output();
        let output = output.expect("openssl");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {error}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ];
    let authority = [
        "req",
        "-x509",
        "-subj",
        "/CN=authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&authority[..], &key].concat());
    let request = [
        "req",
        "-new",
        "-subj",
        "/CN=core",
        "-keyout",
        "broker.key",
        "-out",
        "broker.csr",
    ];
    openssl(&[&request[..], &key[..5]].concat());
    std::fs::write(directory.join("names"), format!("subjectAltName=IP:{}\n", gateway.v4)).expect("a file");
    let sign = [
        "x509",
        "-req",
        "-in",
        "broker.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ];
    openssl(&[&sign[..], &["-days", "2", "-extfile", "names", "-out", "broker.pem"]].concat());
}

/// What a checker inside a host's namespace sees of its sockets (`/proc/net`, see proc_net_tcp.rst of the kernel).
impl Host {
    /// Ports on which it takes connections (`tcp`) or datagrams (`udp`), of both families.
    pub fn bound_ports(&self, transport: &str) -> BTreeSet<u16> {
        let waiting = if transport == "tcp" { "0A" } else { "07" };
        let rows = self.sockets(transport);
        let rows = rows.iter().filter(|row| row.state == waiting && row.remote.port() == 0);
        rows.map(|row| row.local.port()).collect()
    }

    /// Its established TCP connections: the other end, and its own port.
    pub fn established(&self) -> BTreeSet<(SocketAddr, u16)> {
        let rows = self.sockets("tcp");
        let rows = rows.iter().filter(|row| row.state == "01");
        rows.map(|row| (row.remote, row.local.port())).collect()
    }

    fn sockets(&self, transport: &str) -> Vec<Row> {
        let text = self.shell(&format!("tail -q -n +2 /proc/net/{transport} /proc/net/{transport}6"));
        text.lines().map(Row::parse).collect()
    }
}

struct Row {
    local: SocketAddr,
    remote: SocketAddr,
    state: String,
}

impl Row {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Self {
            local: end(fields[1]),
            remote: end(fields[2]),
            state: fields[3].to_owned(),
        }
    }
}

/// `0100007F:1F90`: words of the address in the machine's byte order, IPv4 within IPv6 folded.
fn end(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').expect("address and port");
    let words = address
        .as_bytes()
        .chunks(8)
        .map(|word| std::str::from_utf8(word).expect("hexadecimal"));
    let words = words.map(|word| u32::from_str_radix(word, 16).expect("hexadecimal"));
    let octets: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    let port = u16::from_str_radix(port, 16).expect("hexadecimal");
    match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(v4) => SocketAddr::new(Ipv4Addr::from(v4).into(), port),
        Err(_) => {
            let v6 = <[u8; 16]>::try_from(octets.as_slice()).expect("16 octets");
            SocketAddr::new(std::net::IpAddr::from(Ipv6Addr::from(v6)).to_canonical(), port)
        }
    }
}
