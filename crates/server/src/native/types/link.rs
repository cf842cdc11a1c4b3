//! Links to ports.

use std::{num::NonZeroU16, time::Duration};

use caisson_core::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Number, Whole, time};

/// How long a link lasts when nothing is said, and how long it may, in seconds.
pub(crate) const DEFAULT: Duration = Duration::from_secs(3600);
pub(crate) const SHORTEST: u32 = 1;
pub(crate) const LONGEST: u32 = 7 * 86_400;

/// A link to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LinkRequest)]
pub struct LinkRequestBody {
    /// Of the sandbox's own loopback interface. Nothing needs to listen there yet.
    #[schema(value_type = u16)]
    pub port: Whole,
    /// Seconds until it expires, at most 7 days; one hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub expires_in_s: Option<Number>,
}

impl LinkRequestBody {
    /// The port.
    pub fn port(&self) -> Result<NonZeroU16> {
        let port = u16::try_from(self.port.0).ok().and_then(NonZeroU16::new);
        port.ok_or_else(|| Error::invalid("invalid_port", format!("field `port` is {}, allowed is 1 to 65535", self.port.0)))
    }

    /// How long the link is to last.
    pub fn lasts(&self) -> Result<Duration> {
        lasts(self.expires_in_s)
    }
}

/// How long a link of any kind is to last.
pub(super) fn lasts(expires_in_s: Option<Number>) -> Result<Duration> {
    match expires_in_s {
        None => Ok(DEFAULT),
        Some(Number(seconds)) if (f64::from(SHORTEST)..=f64::from(LONGEST)).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(Number(seconds)) => {
            let message = format!("field `expires_in_s` is {seconds} s, allowed is {SHORTEST} to {LONGEST} s");
            Err(Error::invalid("limit_out_of_range", message))
        }
    }
}

/// A link.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Link)]
pub struct LinkBody {
    pub port: u16,
    /// Open it in a browser, or ask it as it is.
    pub url: String,
    /// What in it opens the port.
    pub token: String,
    /// RFC 3339.
    pub expires_at: String,
}

impl LinkBody {
    /// `expiry` in seconds since 1970.
    pub(crate) fn new(port: NonZeroU16, url: String, token: String, expiry: u64) -> Self {
        let at = i64::try_from(expiry).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX);
        Self { port: port.get(), url, token, expires_at: time(at) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_are_for_a_port_and_a_time() {
        let read = |body| serde_json::from_value::<LinkRequestBody>(body).unwrap();
        assert_eq!(read(json!({"port": 65535})).port().unwrap().get(), 65535);
        assert_eq!(read(json!({"port": 1})).lasts().unwrap(), DEFAULT);
        assert_eq!(read(json!({"port": 1, "expires_in_s": 1.5})).lasts().unwrap(), Duration::from_millis(1500));
        for port in [json!(0), json!(65536), json!(-1), json!(1e20)] {
            assert_eq!(read(json!({"port": port})).port().unwrap_err().code(), "invalid_port");
        }
        for seconds in [json!(0), json!(-1), json!(604_801)] {
            assert_eq!(read(json!({"port": 1, "expires_in_s": seconds})).lasts().unwrap_err().code(), "limit_out_of_range");
        }
        assert!(serde_json::from_value::<LinkRequestBody>(json!({"port": "80"})).is_err());
    }
}
