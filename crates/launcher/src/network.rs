//! The ways out of a sandbox's network namespace, which has the loopback interface and no other: sockets that the agent is given.
//!
//! Every address is made one of the namespace itself (a local route of everything to `lo`), and a program of the kernel's socket look-up
//! (`BPF_PROG_TYPE_SK_LOOKUP`) hands each new connection to one that is not `lo`'s own to one listening socket, which sees whom it was for as its
//! own address. There is no translation of addresses, no table of connections that all sandboxes of a host would share, and no other packet
//! that goes anywhere.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, OwnedFd},
};

use caisson_launcher::plan::WaysOut;
use caisson_sys::network;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};

/// Where the agent's proxy and name server are; `caisson_wire::egress` has the same.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
const PROXY_PORT: u16 = 3128;
const DNS_PORT: u16 = 53;
/// Connections that wait until the agent takes them.
const BACKLOG: i32 = 1024;
/// Whoever uses the descriptors that these become is not here yet, so none of them is where they will be.
const OUT_OF_THE_WAY: i32 = 64;

/// The sockets, in the order in which the agent finds them.
pub(crate) fn ways_out(ways: WaysOut) -> io::Result<Vec<OwnedFd>> {
    let mut out = vec![
        listening(SocketAddrV4::new(ADDRESS, PROXY_PORT).into())?,
        bound(SocketAddrV4::new(ADDRESS, DNS_PORT).into(), SocketType::DGRAM)?,
        listening(SocketAddrV4::new(ADDRESS, DNS_PORT).into())?,
    ];
    if ways == WaysOut::Redirected {
        // At an address of IPv4 in the form of IPv6, so that it takes both, and no port of anybody's is taken up.
        let listener = match listening(SocketAddrV6::new(ADDRESS.to_ipv6_mapped(), 0, 0, 0).into()) {
            // A kernel without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => listening(SocketAddrV4::new(ADDRESS, 0).into())?,
            listener => listener?,
        };
        network::keep_everything_here()?;
        let redirection = network::redirect(listener.as_fd())?;
        out.extend([listener, redirection]);
    }
    let moved = out.iter().map(|socket| rustix::io::fcntl_dupfd_cloexec(socket, OUT_OF_THE_WAY));
    Ok(moved.collect::<Result<_, Errno>>()?)
}

fn listening(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = bound(address, SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // One for both kinds of addresses.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}
