//! Figures as JSON has them.

use std::{fmt, time::Duration};

use caisson_core::{Error, Result, TimeLimits};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// The largest whole number that a double holds without a gap before it.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// The shortest time that can be asked for.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// A decimal figure, written without a fraction where it has none.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < EXACT {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl From<Duration> for Number {
    fn from(duration: Duration) -> Self {
        Self(duration.as_secs_f64())
    }
}

impl Number {
    /// These seconds, which the field `name` asks for.
    pub fn seconds(self, name: &str) -> Result<Duration> {
        let (low, high) = (SHORTEST.as_secs_f64(), TimeLimits::MAX.as_secs_f64());
        if !(low..=high).contains(&self.0) {
            let message = format!("field `{name}` is {} s, allowed is {low} to {high} s, or null for no limit", self.0);
            return Err(Error::invalid("limit_out_of_range", message));
        }
        Ok(Duration::from_secs_f64(self.0))
    }
}

/// A whole number of any size and sign, so that what is out of range can be named with the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole(pub i128);

impl Whole {
    /// This figure, which the field `name` asks for, if it is within the range.
    pub fn within<T: TryFrom<i128> + Into<i128> + fmt::Display + Copy>(self, name: &str, low: T, high: T) -> Result<T> {
        match T::try_from(self.0) {
            Ok(value) if (low.into()..=high.into()).contains(&self.0) => Ok(value),
            _ => Err(Error::invalid("limit_out_of_range", format!("field `{name}` is {}, allowed is {low} to {high}", self.0))),
        }
    }
}

impl<T: Into<i128>> From<T> for Whole {
    fn from(value: T) -> Self {
        Self(value.into())
    }
}

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i128(self.0)
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Figure;
        impl Visitor<'_> for Figure {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Whole, E> {
                Ok(Whole(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Whole, E> {
                Ok(Whole(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Whole, E> {
                if value.fract() == 0.0 && value.is_finite() {
                    Ok(Whole(value as i128))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_without_a_fraction_are_written_without_one() {
        for (value, text) in [(100.0, "100"), (0.25, "0.25"), (-3.0, "-3"), (1e300, "1e+300")] {
            assert_eq!(serde_json::to_string(&Number(value)).unwrap(), text);
        }
    }

    #[test]
    fn seconds_are_within_a_year() {
        for (text, ok) in [("0.001", true), ("60", true), ("31622400", true), ("0", false), ("-1", false), ("1e12", false), ("1e-9", false)]
        {
            let number: Number = serde_json::from_str(text).unwrap();
            let result = number.seconds("timeout_s");
            assert_eq!(result.is_ok(), ok, "{text}");
            if let Err(error) = result {
                assert!(error.to_string().contains("`timeout_s`") && error.to_string().contains("31622400"), "{error}");
            }
        }
        assert!(Number(f64::NAN).seconds("x").is_err());
    }

    #[test]
    fn whole_numbers_of_any_size_are_named_with_the_range() {
        let within = |text: &str| serde_json::from_str::<Whole>(text).unwrap().within("pids", 8u32, 100);
        assert_eq!(within("8").unwrap(), 8);
        assert_eq!(within("1e2").unwrap(), 100);
        for bad in ["7", "101", "-1", "18446744073709551615", "1e30", "-1e30"] {
            let message = within(bad).unwrap_err().to_string();
            assert!(message.starts_with("field `pids` is ") && message.ends_with(", allowed is 8 to 100"), "{message}");
        }
        for bad in ["1.5", "\"8\"", "null", "true"] {
            assert!(serde_json::from_str::<Whole>(bad).is_err(), "{bad}");
        }
    }
}
