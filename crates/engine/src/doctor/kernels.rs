//! Kernels through whose known holes files that are only lent could be written. One kernel is shared by all, so these matter most.

/// A hole, and the versions that have it: by the records of its CVE, and, where those name no releases, by the kernel's change logs.
struct Hole {
    name: &'static str,
    cve: &'static str,
    /// The first version that has it.
    since: (u32, u32),
    /// The first patched release of each series that was patched, ascending; later series never had it.
    fixed: &'static [(u32, u32, u32)],
    /// What every known way in needs and sandboxes do not get.
    closed: Option<&'static str>,
}

const HOLES: [Hole; 7] = [
    Hole { name: "Dirty Pipe", cve: "CVE-2022-0847", since: (5, 8), fixed: &[(5, 10, 102), (5, 15, 25), (5, 16, 11)], closed: None },
    Hole {
        name: "a copy-on-write race on shared memory",
        cve: "CVE-2022-2590",
        since: (5, 16),
        fixed: &[(5, 19, 6)],
        closed: Some("userfaultfd"),
    },
    Hole {
        name: "Copy Fail",
        cve: "CVE-2026-31431",
        since: (4, 14),
        fixed: &[(5, 10, 254), (5, 15, 204), (6, 1, 170), (6, 6, 137), (6, 12, 85), (6, 18, 22), (6, 19, 12)],
        closed: Some("AF_ALG sockets"),
    },
    Hole {
        name: "Dirty Frag over ESP",
        cve: "CVE-2026-43284",
        since: (4, 11),
        fixed: &[(5, 10, 255), (5, 15, 206), (6, 1, 172), (6, 6, 138), (6, 12, 87), (6, 18, 28), (7, 0, 5)],
        closed: Some("IPsec"),
    },
    Hole {
        name: "Dirty Frag over RxRPC",
        cve: "CVE-2026-43500",
        since: (5, 3),
        fixed: &[(6, 6, 140), (6, 12, 88), (6, 18, 29), (7, 0, 6)],
        closed: Some("AF_RXRPC sockets"),
    },
    Hole { name: "Fragnesia", cve: "CVE-2026-46300", since: (3, 9), fixed: SHARED_FRAGMENTS, closed: Some("IPsec") },
    Hole { name: "DirtyClone", cve: "CVE-2026-43503", since: (3, 9), fixed: SHARED_FRAGMENTS, closed: Some("IPsec") },
];

/// Both were mended together.
const SHARED_FRAGMENTS: &[(u32, u32, u32)] = &[(5, 10, 257), (5, 15, 208), (6, 1, 174), (6, 6, 141), (6, 12, 91), (6, 18, 33), (7, 0, 10)];

/// What is to be said about a kernel of this release (`uname -r`).
pub(super) fn warnings(release: &str) -> Vec<String> {
    let Some(version) = parse(release) else { return vec![format!("the kernel's release `{release}` is no version; check it by hand")] };
    HOLES
        .iter()
        .filter(|hole| has(hole, version))
        .map(|hole| {
            let ways = hole.closed.map_or_else(String::new, |what| format!(". Its known ways in need {what}, which sandboxes do not get"));
            format!(
                "Linux {release} is of a series that has {} ({}); make sure that your distribution has patched it, or update the kernel{ways}",
                hole.name, hole.cve
            )
        })
        .collect()
}

fn has(hole: &Hole, (major, minor, patch): (u32, u32, u32)) -> bool {
    if (major, minor) < hole.since {
        return false;
    }
    match hole.fixed.iter().find(|fixed| (fixed.0, fixed.1) == (major, minor)) {
        Some(fixed) => patch < fixed.2,
        // A series without a patched release of its own has it until the last that was patched.
        None => hole.fixed.last().is_some_and(|last| (major, minor) < (last.0, last.1)),
    }
}

fn parse(release: &str) -> Option<(u32, u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || parts.next().and_then(|part| part.parse().ok());
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        const PIPE: &str = "CVE-2022-0847";
        const RACE: &str = "CVE-2022-2590";
        const COPY: &str = "CVE-2026-31431";
        const ESP: &str = "CVE-2026-43284";
        const RXRPC: &str = "CVE-2026-43500";
        const LATE: [&str; 2] = ["CVE-2026-46300", "CVE-2026-43503"];
        let all = |first: &[&'static str]| [first, &LATE[..]].concat();
        for (release, holes) in [
            ("5.4.0", all(&[COPY, ESP, RXRPC])),
            ("5.10.101", all(&[PIPE, COPY, ESP, RXRPC])),
            ("5.10.102-generic", all(&[COPY, ESP, RXRPC])),
            ("5.10.257", vec![RXRPC]),
            ("5.12.3", all(&[PIPE, COPY, ESP, RXRPC])),
            ("5.15.24", all(&[PIPE, COPY, ESP, RXRPC])),
            ("5.15.25", all(&[COPY, ESP, RXRPC])),
            ("5.15.205", all(&[ESP, RXRPC])),
            ("5.16.10", all(&[PIPE, RACE, COPY, ESP, RXRPC])),
            ("5.19.5", all(&[RACE, COPY, ESP, RXRPC])),
            ("5.19.6", all(&[COPY, ESP, RXRPC])),
            ("6.1.0-56-cloud-amd64", all(&[COPY, ESP, RXRPC])),
            ("6.6.139", all(&[RXRPC])),
            ("6.12.91", vec![]),
            ("6.18.22", all(&[ESP, RXRPC])),
            ("6.18.29", all(&[])),
            ("6.18.33", vec![]),
            ("6.19.12", all(&[ESP, RXRPC])),
            ("7.0.0", all(&[ESP, RXRPC])),
            ("7.0.10", vec![]),
            ("7.1.0", vec![]),
        ] {
            let found = warnings(release);
            assert_eq!(found.len(), holes.len(), "{release}: {found:?}");
            assert!(found.iter().zip(&holes).all(|(warning, hole)| warning.contains(hole)), "{release}: {found:?}");
        }
        assert!(warnings("unknown")[0].contains("by hand"));
    }
}
