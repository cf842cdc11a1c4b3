//! Routes and socket look-up of a network namespace, for the launcher. Whoever calls these needs the capabilities `NET_ADMIN` over the namespace
//! that it is in and, for [`redirect`], `BPF` in the initial user namespace.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// Makes every address one of this network namespace itself (`rtnetlink(7)`: a local route of everything to `lo`). What is sent to one is sent from
/// the loopback address. A kernel without IPv6 has none of its addresses.
pub fn keep_everything_here() -> io::Result<()> {
    route(libc::AF_INET as u8, &Ipv4Addr::LOCALHOST.octets())?;
    match route(libc::AF_INET6 as u8, &Ipv6Addr::LOCALHOST.octets()) {
        // It is not there, or is switched off.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)) => Ok(()),
        result => result,
    }
}

fn route(family: u8, source: &[u8]) -> io::Result<()> {
    // `struct nlmsghdr`, `struct rtmsg`, and attributes, each of a multiple of four bytes (include/uapi/linux/rtnetlink.h).
    let attribute = |kind: u16, value: &[u8]| [&((4 + value.len()) as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    let body = [
        &[family, 0, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL, 0, 0, 0, 0][..],
        &attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes()),
        &attribute(libc::RTA_PREFSRC, source),
    ]
    .concat();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let request = [
        &((16 + body.len()) as u32).to_ne_bytes()[..],
        &libc::RTM_NEWROUTE.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &0u32.to_ne_bytes(),
        &body,
    ]
    .concat();
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (count, _) = recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty())?;
    // `struct nlmsgerr`: an error of 0 is the acknowledgement.
    match answer[..count].get(16..20).map(|bytes| i32::from_ne_bytes(bytes.try_into().expect("four bytes"))) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}

/// One instruction of BPF (`struct bpf_insn`, include/uapi/linux/bpf.h), its two registers in one byte.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    // The first of two fields of bits is where the lower ones of the machine are.
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    Instruction { code, registers, offset, value }
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_PSEUDO_MAP_FD: u8 = 1;

/// Where the instruction is that names the map.
const MAP_AT: usize = 20;

/// What is asked for each new connection and each datagram (`struct bpf_sk_lookup`): one to an address of the loopback interface takes its usual
/// way, another connection goes to the socket in the map, and everything else finds nobody.
const PROGRAM: [Instruction; 39] = [
    instruction(0xbf, 6, 1, 0, 0),    // r6 = context
    instruction(0x61, 2, 6, 8, 0),    // r2 = family
    instruction(0x55, 2, 0, 5, 2),    // unless it is AF_INET, on at 8
    instruction(0x61, 2, 6, 40, 0),   // r2 = local_ip4
    instruction(0xdc, 2, 0, 0, 32),   // as the machine has numbers
    instruction(0x77, 2, 0, 0, 24),   // its first eight bits
    instruction(0x15, 2, 0, 28, 127), // 127.0.0.0/8: on at 35
    instruction(0x05, 0, 0, 9, 0),    // on at 17
    instruction(0x61, 2, 6, 44, 0),   // r2 = local_ip6, a quarter at a time
    instruction(0x55, 2, 0, 7, 0),    // unless it is 0, on at 17
    instruction(0x61, 2, 6, 48, 0),
    instruction(0x55, 2, 0, 5, 0),
    instruction(0x61, 2, 6, 52, 0),
    instruction(0x55, 2, 0, 3, 0),
    instruction(0x61, 2, 6, 56, 0),
    instruction(0xdc, 2, 0, 0, 32),
    instruction(0x15, 2, 0, 18, 1),                // ::1: on at 35
    instruction(0x61, 2, 6, 12, 0),                // r2 = protocol
    instruction(0x55, 2, 0, 18, 6),                // unless it is TCP, on at 37
    instruction(0x62, 10, 0, -4, 0),               // the key, on the stack
    instruction(0x18, 1, BPF_PSEUDO_MAP_FD, 0, 0), // r1 = the map, which is put in here
    instruction(0, 0, 0, 0, 0),
    instruction(0xbf, 2, 10, 0, 0), // r2 = the key
    instruction(0x07, 2, 0, 0, -4),
    instruction(0x85, 0, 0, 0, 1),  // r0 = bpf_map_lookup_elem
    instruction(0x15, 0, 0, 11, 0), // nobody there: on at 37
    instruction(0xbf, 7, 0, 0, 0),  // r7 = the socket
    instruction(0xbf, 1, 6, 0, 0),
    instruction(0xbf, 2, 7, 0, 0),
    instruction(0xb7, 3, 0, 0, 0),
    instruction(0x85, 0, 0, 0, 124), // r0 = bpf_sk_assign
    instruction(0xbf, 8, 0, 0, 0),
    instruction(0xbf, 1, 7, 0, 0),
    instruction(0x85, 0, 0, 0, 86), // bpf_sk_release
    instruction(0x55, 8, 0, 2, 0),  // it was not assigned: on at 37
    instruction(0xb7, 0, 0, 0, 1),  // SK_PASS
    instruction(0x95, 0, 0, 0, 0),
    instruction(0xb7, 0, 0, 0, 0), // SK_DROP
    instruction(0x95, 0, 0, 0, 0),
];

/// Connects whoever connects to an address that is not the loopback interface's, in this network namespace, to `listener`, for as long as what is
/// returned is open (`BPF_PROG_TYPE_SK_LOOKUP`, Linux 5.9). Datagrams to such an address find nobody.
pub fn redirect(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct MapAttributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
    }
    #[repr(C)]
    struct ElementAttributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    // Up to `expected_attach_type`.
    #[repr(C)]
    struct ProgramAttributes {
        kind: u32,
        instructions: u32,
        first: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct LinkAttributes {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let number = |fd: RawFd| fd.cast_unsigned();
    let map = bpf(BPF_MAP_CREATE, &MapAttributes { kind: BPF_MAP_TYPE_SOCKMAP, key_size: 4, value_size: 8, entries: 1 })?;
    // SAFETY: the kernel has just made this descriptor for the map, and nobody else owns it.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let (key, value) = (0u32, u64::from(number(listener.as_raw_fd())));
    bpf(
        BPF_MAP_UPDATE_ELEM,
        &ElementAttributes {
            map: number(map.as_raw_fd()),
            padding: 0,
            key: ptr::from_ref(&key) as u64,
            value: ptr::from_ref(&value) as u64,
            flags: 0,
        },
    )?;
    let mut instructions = PROGRAM;
    instructions[MAP_AT].value = map.as_raw_fd();
    let program = bpf(
        BPF_PROG_LOAD,
        &ProgramAttributes {
            kind: BPF_PROG_TYPE_SK_LOOKUP,
            instructions: PROGRAM.len() as u32,
            first: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"caisson_out\0\0\0\0\0",
            interface: 0,
            attach_type: BPF_SK_LOOKUP,
        },
    )?;
    // SAFETY: as above, for the program.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let namespace = std::fs::File::open("/proc/self/ns/net")?;
    let link = bpf(
        BPF_LINK_CREATE,
        &LinkAttributes {
            program: number(program.as_raw_fd()),
            target: number(namespace.as_fd().as_raw_fd()),
            attach_type: BPF_SK_LOOKUP,
            flags: 0,
        },
    )?;
    // SAFETY: as above, for the link.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// `bpf(2)`. The attributes are one of the structures above, and what they point to is alive.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as the structure has, all of which are initialised, and what it points to outlives this call; it takes
    // those that a longer structure would have for 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}
