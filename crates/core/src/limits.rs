//! What a sandbox may use, and for how long. Every limit is finite.

use std::time::Duration;

use crate::Error;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, everything counted: processes, kernel objects, tmpfs and page cache.
    pub memory_bytes: u64,
    /// Processor time in thousandths of one CPU (1500 = one and a half CPUs).
    pub cpu_millis: u32,
    /// Processes and threads together, the agent's included.
    pub pids: u32,
    /// Bytes that the writable part of the file system holds.
    pub disk_bytes: u64,
    /// Files, directories and links that the writable part of the file system holds.
    pub disk_inodes: u64,
    /// Open descriptors per process (`RLIMIT_NOFILE`).
    pub open_files: u32,
}

impl Limits {
    /// The smallest values with which a sandbox still starts and runs a shell.
    pub const MIN: Self = Self { memory_bytes: 16 * MIB, cpu_millis: 10, pids: 8, disk_bytes: MIB, disk_inodes: 256, open_files: 32 };
    /// The largest values that make sense; the machine may refuse less.
    pub const MAX: Self = Self {
        memory_bytes: 1024 * GIB,
        cpu_millis: 512_000,
        pids: 100_000,
        disk_bytes: 1024 * GIB,
        disk_inodes: 100_000_000,
        open_files: 1_048_576,
    };

    /// Checks every figure against [`Limits::MIN`] and [`Limits::MAX`] and names the first that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let (min, max) = (Self::MIN, Self::MAX);
        let table = [
            ("memory_bytes", self.memory_bytes, min.memory_bytes, max.memory_bytes),
            ("cpu_millis", self.cpu_millis.into(), min.cpu_millis.into(), max.cpu_millis.into()),
            ("pids", self.pids.into(), min.pids.into(), max.pids.into()),
            ("disk_bytes", self.disk_bytes, min.disk_bytes, max.disk_bytes),
            ("disk_inodes", self.disk_inodes, min.disk_inodes, max.disk_inodes),
            ("open_files", self.open_files.into(), min.open_files.into(), max.open_files.into()),
        ];
        for (name, value, low, high) in table {
            if !(low..=high).contains(&value) {
                return Err(Error::invalid("limit_out_of_range", format!("limit `{name}` is {value}, allowed is {low} to {high}")));
            }
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: GIB, cpu_millis: 1000, pids: 256, disk_bytes: 512 * MIB, disk_inodes: 65_536, open_files: 4096 }
    }
}

/// How long a sandbox may live; `None` means no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// Hard end, counted from creation.
    pub lifetime: Option<Duration>,
    /// End after this long without a request and without a running execution.
    pub idle_timeout: Option<Duration>,
}

impl TimeLimits {
    /// The longest time that can be asked for: one year.
    pub const MAX: Duration = Duration::from_secs(366 * 24 * 3600);
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { lifetime: Some(Duration::from_secs(24 * 3600)), idle_timeout: Some(Duration::from_secs(15 * 60)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_the_range() {
        Limits::default().validate().unwrap();
        Limits::MIN.validate().unwrap();
        Limits::MAX.validate().unwrap();
    }

    #[test]
    fn out_of_range_names_the_limit_and_the_range() {
        let low = Limits { pids: 1, ..Limits::default() };
        let error = low.validate().unwrap_err();
        assert_eq!(error.to_string(), "limit `pids` is 1, allowed is 8 to 100000");
    }
}
