//! What a sandbox may use.

use caisson_core::{Error, Limits, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Number, Whole};

/// What a sandbox may use. In requests, what is absent has its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Limits)]
pub struct LimitsBody {
    /// Memory in bytes, everything counted: processes, kernel objects, tmpfs and page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, example = 268_435_456)]
    pub memory_bytes: Option<Whole>,
    /// Processor time in CPUs; fractions are fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, example = 1.5)]
    pub cpus: Option<Number>,
    /// Processes and threads together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub pids: Option<Whole>,
    /// Bytes that the writable part of the file system holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_bytes: Option<Whole>,
    /// Files, directories and links that the writable part of the file system holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_inodes: Option<Whole>,
    /// Open descriptors per process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub open_files: Option<Whole>,
}

impl LimitsBody {
    /// These limits, and others where nothing is said.
    pub(super) fn over(self, others: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(others.memory_bytes),
            cpus: self.cpus.or(others.cpus),
            pids: self.pids.or(others.pids),
            disk_bytes: self.disk_bytes.or(others.disk_bytes),
            disk_inodes: self.disk_inodes.or(others.disk_inodes),
            open_files: self.open_files.or(others.open_files),
        }
    }

    /// These limits over the defaults; what is out of range is named with the range.
    pub fn to_core(self) -> Result<Limits> {
        let (default, low, high) = (Limits::default(), Limits::MIN, Limits::MAX);
        let u64s = |name: &str, given: Option<Whole>, default: u64, low: u64, high: u64| {
            given.map_or(Ok(default), |value| value.within(&format!("limits.{name}"), low, high))
        };
        let u32s = |name: &str, given: Option<Whole>, default: u32, low: u32, high: u32| {
            given.map_or(Ok(default), |value| value.within(&format!("limits.{name}"), low, high))
        };
        Ok(Limits {
            memory_bytes: u64s("memory_bytes", self.memory_bytes, default.memory_bytes, low.memory_bytes, high.memory_bytes)?,
            cpu_millis: self.cpus.map_or(Ok(default.cpu_millis), cpu_millis)?,
            pids: u32s("pids", self.pids, default.pids, low.pids, high.pids)?,
            disk_bytes: u64s("disk_bytes", self.disk_bytes, default.disk_bytes, low.disk_bytes, high.disk_bytes)?,
            disk_inodes: u64s("disk_inodes", self.disk_inodes, default.disk_inodes, low.disk_inodes, high.disk_inodes)?,
            open_files: u32s("open_files", self.open_files, default.open_files, low.open_files, high.open_files)?,
        })
    }
}

fn cpu_millis(Number(cpus): Number) -> Result<u32> {
    let (low, high) = (cpus_of(Limits::MIN.cpu_millis), cpus_of(Limits::MAX.cpu_millis));
    if !(low..=high).contains(&cpus) {
        return Err(Error::invalid("limit_out_of_range", format!("field `limits.cpus` is {cpus}, allowed is {low} to {high}")));
    }
    Ok((cpus * 1000.0).round() as u32)
}

fn cpus_of(millis: u32) -> f64 {
    f64::from(millis) / 1000.0
}

impl From<&Limits> for LimitsBody {
    fn from(limits: &Limits) -> Self {
        Self {
            memory_bytes: Some(limits.memory_bytes.into()),
            cpus: Some(Number(cpus_of(limits.cpu_millis))),
            pids: Some(limits.pids.into()),
            disk_bytes: Some(limits.disk_bytes.into()),
            disk_inodes: Some(limits.disk_inodes.into()),
            open_files: Some(limits.open_files.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_go_over_the_defaults_and_back() {
        let body: LimitsBody = serde_json::from_value(json!({"memory_bytes": 100 << 20, "cpus": 0.25})).unwrap();
        let limits = body.to_core().unwrap();
        assert_eq!(limits, Limits { memory_bytes: 100 << 20, cpu_millis: 250, ..Limits::default() });
        assert_eq!(LimitsBody::from(&limits).to_core().unwrap(), limits);
    }

    #[test]
    fn out_of_range_is_named_as_the_api_names_it() {
        for (body, name) in [
            (json!({"cpus": 0}), "limits.cpus"),
            (json!({"cpus": 1e9}), "limits.cpus"),
            (json!({"pids": 1}), "limits.pids"),
            (json!({"memory_bytes": -1}), "limits.memory_bytes"),
            (json!({"disk_bytes": 1e30}), "limits.disk_bytes"),
            (json!({"open_files": u64::MAX}), "limits.open_files"),
        ] {
            let error = serde_json::from_value::<LimitsBody>(body).unwrap().to_core().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
