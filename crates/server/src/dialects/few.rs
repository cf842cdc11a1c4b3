//! Lists and maps in a body, with an end: made into values, the smallest entries are many times as long as what they come from.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// Entries of one list or map.
const MOST: usize = 1000;

/// A list of few, or nothing.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    deserializer.deserialize_option(List(PhantomData))
}

/// A map of few, or nothing.
pub(super) fn map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, T>>, D::Error> {
    deserializer.deserialize_option(Map(PhantomData))
}

struct List<T>(PhantomData<T>);

struct Map<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if all.len() == MOST {
                return Err(Error::invalid_length(MOST + 1, &self));
            }
            all.push(entry);
        }
        Ok(Some(all))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
    type Value = Option<BTreeMap<String, T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with at most {MOST} keys")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            if all.len() == MOST {
                return Err(Error::invalid_length(MOST + 1, &self));
            }
            all.insert(key, value);
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fmt::Write};

    use super::*;

    thread_local! {
        static MADE: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Debug)]
    struct Counted;

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            MADE.set(MADE.get() + 1);
            Option::<u8>::deserialize(deserializer).map(|_| Self)
        }
    }

    fn made<T>(
        text: &str,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'_>>) -> Result<T, serde_json::Error>,
    ) -> (Result<T, serde_json::Error>, usize) {
        MADE.set(0);
        let result = read(&mut serde_json::Deserializer::from_str(text));
        (result, MADE.get())
    }

    #[test]
    fn no_more_is_made_than_is_allowed() {
        let all = |count: usize| format!("[{}null]", "null,".repeat(count - 1));
        let (fine, count) = made(&all(MOST), |d| list::<_, Counted>(d));
        assert_eq!((fine.unwrap().unwrap().len(), count), (MOST, MOST));
        let (refused, count) = made(&all(1_000_000), |d| list::<_, Counted>(d));
        assert!(refused.unwrap_err().to_string().contains("a list of at most 1000"));
        assert_eq!(count, MOST + 1);
        let all = |count: usize| {
            (1..count).fold("{\"0\":1".to_owned(), |mut text, index| {
                write!(text, ",\"{index}\":2").unwrap();
                text
            }) + "}"
        };
        let (fine, count) = made(&all(MOST), |d| map::<_, Counted>(d));
        assert_eq!((fine.unwrap().unwrap().len(), count), (MOST, MOST));
        let (refused, count) = made(&all(100_000), |d| map::<_, Counted>(d));
        assert!(refused.unwrap_err().to_string().contains("at most 1000 keys"));
        assert_eq!(count, MOST + 1);
    }

    #[test]
    fn nothing_and_something_else_are_told_apart() {
        assert!(made("null", |d| list::<_, Counted>(d)).0.unwrap().is_none());
        assert!(made("null", |d| map::<_, Counted>(d)).0.unwrap().is_none());
        assert_eq!(made("[]", |d| list::<_, Counted>(d)).0.unwrap().unwrap().len(), 0);
        for other in ["5", "\"x\"", "{}", "true"] {
            assert!(made(other, |d| list::<_, Counted>(d)).0.is_err(), "{other}");
        }
        for other in ["5", "\"x\"", "[]", "true"] {
            assert!(made(other, |d| map::<_, Counted>(d)).0.is_err(), "{other}");
        }
    }
}
