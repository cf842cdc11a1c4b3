//! What can be proven from inside a sandbox, by the numbers of the security requirements.

/// A number and what it promises.
pub(super) const GUARANTEES: [(&str, &str); 20] = [
    ("1.1", "namespaces of its own"),
    ("1.2", "no privileges: ids, capabilities, set-user-id programs, devices"),
    ("1.4", "system calls by list"),
    ("1.5", "no control over terminals"),
    ("1.6", "no sockets but internet and Unix"),
    ("1.7", "no other system call tables (32 bit, x32)"),
    ("1.9", "a keyring of its own"),
    ("2.1", "a root of its own, without paths of the host"),
    ("2.2", "nothing of the host's accounts, homes and state"),
    ("2.3", "the kernel's controls are masked"),
    ("2.4", "no processes of others; the agent is out of reach"),
    ("2.5", "no descriptors of others"),
    ("2.6", "no environment of the host"),
    ("2.7", "nothing by which to recognise the host"),
    ("2.9", "what is lent cannot be changed"),
    ("3.1", "no way to any network"),
    ("4.1", "memory is limited"),
    ("4.2", "processes are limited"),
    ("4.4", "disk space and inodes are limited"),
    ("4.6", "descriptors, timers, locks and priorities are limited"),
];

/// The limit of the API on which a guarantee rests.
pub(super) fn limit_of(number: &str) -> Option<&'static str> {
    match number {
        "4.1" => Some("memory_bytes"),
        _ => None,
    }
}
