//! File locks (`fcntl_locking(2)`, `flock(2)`). The kernel counts their memory, some 200 bytes each, against nobody, and has had no limit for
//! their number since `RLIMIT_LOCKS` lost its meaning. So they are counted here, from outside.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    time::Duration,
};

use caisson_launcher::plan::MOST_FILE_LOCKS;

/// How often it is looked. In between, a sandbox gets as many as it can make.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// How many locks each user has, where it is worth knowing: empty when the whole host has no more than one sandbox may have.
pub(crate) fn by_user() -> io::Result<BTreeMap<u32, usize>> {
    let by_process = by_process(BufReader::new(File::open("/proc/locks")?))?;
    let mut by_user = BTreeMap::new();
    if by_process.values().sum::<usize>() > MOST_FILE_LOCKS {
        for (pid, count) in by_process {
            // One that has ended meanwhile has no locks any more.
            if let Ok(process) = fs::metadata(format!("/proc/{pid}")) {
                *by_user.entry(process.uid()).or_default() += count;
            }
        }
    }
    Ok(by_user)
}

/// From the lines of `proc_locks(5)`; those of requests that wait have an arrow more.
fn by_process(table: impl BufRead) -> io::Result<BTreeMap<u32, usize>> {
    let mut found = BTreeMap::new();
    for line in table.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace().skip(1).skip_while(|word| *word == "->");
        // Locks of open files as such belong to no process: their number is -1. The filter refuses to make them.
        if let Some(pid) = words.nth(3).and_then(|word| word.parse().ok()) {
            *found.entry(pid).or_default() += 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_counted_for_each_process() {
        let table = "\
1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
2: FLOCK  ADVISORY  WRITE 3517 fd:00:2531448 0 EOF
3: POSIX  ADVISORY  WRITE 3568 fd:00:2531442 5 9
3: -> POSIX  ADVISORY  WRITE 3601 fd:00:2531442 5 9
4: OFDLCK ADVISORY  READ -1 00:06:1028 0 EOF
5: LEASE  ACTIVE    READ 3568 fd:00:2531440 0 EOF
nonsense
";
        assert_eq!(by_process(table.as_bytes()).unwrap(), BTreeMap::from([(3517, 1), (3568, 3), (3601, 1)]));
    }
}
