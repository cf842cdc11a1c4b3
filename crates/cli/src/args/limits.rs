//! What a sandbox may use.

use std::{fmt::Display, str::FromStr};

use caisson_core::Limits;
use caisson_server::native::types::{LimitsBody, Number};
use clap::Args;

use super::size::{self, size};

/// Limits of a new sandbox; what is not given has the server's default.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LimitsArgs {
    /// Memory of everything in the sandbox, its files included [default: 1G]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Processor time, in CPUs [default: 1]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = cpus)]
    cpus: Option<f64>,
    /// Processes and threads at one time [default: 256]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = pids)]
    pids: Option<u32>,
    /// Bytes that its files may take [default: 512M]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = disk)]
    disk: Option<u64>,
}

impl LimitsArgs {
    /// As the API takes them.
    pub(crate) fn to_body(&self) -> Option<LimitsBody> {
        let body = LimitsBody {
            memory_bytes: self.memory.map(Into::into),
            cpus: self.cpus.map(Number),
            pids: self.pids.map(Into::into),
            disk_bytes: self.disk.map(Into::into),
            ..LimitsBody::default()
        };
        (body != LimitsBody::default()).then_some(body)
    }
}

pub(crate) fn memory(text: &str) -> Result<u64, String> {
    bytes(text, Limits::MIN.memory_bytes, Limits::MAX.memory_bytes)
}

pub(crate) fn disk(text: &str) -> Result<u64, String> {
    bytes(text, Limits::MIN.disk_bytes, Limits::MAX.disk_bytes)
}

fn bytes(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let bytes = size(text)?;
    if (low..=high).contains(&bytes) { Ok(bytes) } else { Err(format!("allowed is {} to {}", size::shown(low), size::shown(high))) }
}

pub(crate) fn pids(text: &str) -> Result<u32, String> {
    figure(text, Limits::MIN.pids, Limits::MAX.pids)
}

pub(crate) fn cpus(text: &str) -> Result<f64, String> {
    let cpus = |millis: u32| f64::from(millis) / 1000.0;
    figure(text, cpus(Limits::MIN.cpu_millis), cpus(Limits::MAX.cpu_millis))
}

fn figure<T: FromStr + PartialOrd + Display>(text: &str, low: T, high: T) -> Result<T, String> {
    match text.parse() {
        Ok(value) if (&low..=&high).contains(&&value) => Ok(value),
        _ => Err(format!("allowed is {low} to {high}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_engine_and_named() {
        assert_eq!(memory("64M"), Ok(64 << 20));
        assert_eq!(memory("1K").unwrap_err(), "allowed is 16 MiB to 1024 GiB");
        assert_eq!(disk("1M"), Ok(1 << 20));
        assert_eq!(pids("8"), Ok(8));
        assert_eq!(pids("7").unwrap_err(), "allowed is 8 to 100000");
        assert_eq!(cpus("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "1000", "x"] {
            assert_eq!(cpus(text).unwrap_err(), "allowed is 0.01 to 512", "{text}");
        }
    }

    #[test]
    fn nothing_given_is_nothing_said() {
        assert_eq!(LimitsArgs::default().to_body(), None);
        let some = LimitsArgs { pids: Some(9), ..LimitsArgs::default() };
        assert_eq!(some.to_body().unwrap().pids, Some(9.into()));
    }

    /// The help texts name the engine's defaults.
    #[test]
    fn defaults_are_as_documented() {
        let default = Limits::default();
        assert_eq!((default.memory_bytes, default.cpu_millis, default.pids, default.disk_bytes), (1 << 30, 1000, 256, 512 << 20));
    }
}
