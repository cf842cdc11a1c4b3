//! Where nothing leads (3.1).

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::report::Report;

/// What "at once" means: no wait for a time-out of the network.
const AT_ONCE: Duration = Duration::from_millis(500);

pub fn attack(report: &mut Report) {
    let addresses = [
        "1.1.1.1",
        "8.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "172.17.0.1",
        "192.168.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "100.64.0.1",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "2606:4700:4700::1111",
        "fd00:ec2::254",
        "fe80::1",
    ];
    for address in addresses {
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        for port in [53, 80, 443] {
            let begin = Instant::now();
            let result = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2));
            let took = begin.elapsed();
            let seen = result.as_ref().map_or_else(ToString::to_string, |_| "connected".to_owned());
            report.note(
                "3.1",
                format!("TCP to {address} port {port}"),
                result.is_err() && took < AT_ONCE,
                format!("{seen} after {} ms", took.as_millis()),
            );
        }
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sent = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"?", SocketAddr::new(address, 53)));
        report.note("3.1", format!("UDP to {address}"), sent.is_err(), sent.map_or_else(|e| e.to_string(), |_| "sent".to_owned()));
    }
    loopback(report);
    for (path, what) in [("/proc/net/route", "routes"), ("/proc/net/arp", "neighbours")] {
        let lines = fs::read_to_string(path).unwrap_or_default().lines().count();
        report.note("3.1", what, lines <= 1, format!("{lines} lines in {path}"));
    }
    let interfaces: BTreeSet<String> = fs::read_to_string("/proc/net/dev")
        .unwrap_or_default()
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    report.note("3.1", "interfaces", interfaces.iter().eq(["lo"]), format!("{interfaces:?}"));
}

/// Nobody but this sandbox is on its loopback interface.
fn loopback(report: &mut Report) {
    let mut open = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        for port in 1..=u16::MAX {
            // A connection whose two ends are the same has met itself (RFC 9293, simultaneous open): nobody else was there.
            if let Ok(stream) = TcpStream::connect_timeout(&SocketAddr::new(address, port), AT_ONCE)
                && stream.local_addr().ok() != stream.peer_addr().ok()
            {
                open.push(port);
            }
        }
    }
    report.note("3.1", "services on the loopback interface", open.is_empty(), format!("{open:?}"));
    let mut listening = 0;
    for table in ["tcp", "tcp6", "udp", "udp6", "unix"] {
        listening += fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1).count();
    }
    // Our own attempts may still be in the table, but only as remains of connections that nobody took.
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let open = sockets.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("0A")).count();
    report.note("3.1", "listening sockets in /proc/net/tcp", open == 0, format!("{open} listening of {listening}"));
}
