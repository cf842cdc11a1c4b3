//! Kernels through whose known holes files that are only lent could be written. One kernel is shared by all, so these matter most.

/// A hole, and the versions that have it.
struct Hole {
    name: &'static str,
    cve: &'static str,
    /// The first version that has it.
    since: (u32, u32),
    /// The first patched release of each series that was patched; later series never had it.
    fixed: &'static [(u32, u32, u32)],
}

const HOLES: [Hole; 2] = [
    Hole { name: "Dirty Pipe", cve: "CVE-2022-0847", since: (5, 8), fixed: &[(5, 10, 102), (5, 15, 25), (5, 16, 11)] },
    Hole { name: "a copy-on-write race on shared memory", cve: "CVE-2022-2590", since: (5, 16), fixed: &[(5, 19, 6)] },
];

/// What is to be said about a kernel of this release (`uname -r`).
pub(super) fn warnings(release: &str) -> Vec<String> {
    let Some(version) = parse(release) else { return vec![format!("the kernel's release `{release}` is no version; check it by hand")] };
    HOLES
        .iter()
        .filter(|hole| has(hole, version))
        .map(|hole| {
            format!(
                "Linux {release} is of a series that has {} ({}); make sure that your distribution has patched it, or update the kernel",
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
        for (release, holes) in [
            ("5.4.0", 0),
            ("5.10.101", 1),
            ("5.10.102-generic", 0),
            ("5.12.3", 1),
            ("5.15.24", 1),
            ("5.15.25", 0),
            ("5.16.10", 2),
            ("5.16.11", 1),
            ("5.19.5", 1),
            ("5.19.6", 0),
            ("6.1.0-56-cloud-amd64", 0),
            ("6.18.1", 0),
            ("unknown", 1),
        ] {
            assert_eq!(warnings(release).len(), holes, "{release}");
        }
    }
}
