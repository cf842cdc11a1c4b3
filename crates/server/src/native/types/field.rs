//! How fields are read and written that serde alone would read too leniently.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::{Error, Result};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// For `Option<Option<T>>`: absent is `None`, `null` is `Some(None)`.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A structure that is written as an object: serde's own would take a list for the fields in their order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// For `Option<T>` where `T` is a structure.
pub(super) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// For `Vec<T>` where `T` is a structure.
pub(super) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(deserializer)?.into_iter().map(|object| object.0).collect())
}

/// A map of structures that names no key twice. What is wrong with one of them is told without anything of it.
pub(super) fn unshown_objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error> {
    struct Unshown<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unshown<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let wrong = |_| de::Error::custom("expected an object with `header` and `value`, both texts, and nothing else");
            Object::deserialize(deserializer).map(|object| Self(object.0)).map_err(wrong)
        }
    }
    let map = unique_map::<Unshown<T>, D>(deserializer, "an object with secrets by their names")?;
    Ok(map.into_iter().map(|(name, object)| (name, object.0)).collect())
}

/// A map that names no key twice.
pub(super) fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    unique_map(deserializer, "an object with text values")
}

/// The same with lists of words.
pub(super) fn unique_lists<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    unique_map(deserializer, "an object with lists of words")
}

fn unique_map<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<BTreeMap<String, T>, D::Error> {
    struct Unique<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Unique<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<String, T>()? {
                if map.contains_key(&key) {
                    return Err(de::Error::custom(format_args!("`{key}` is given twice")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Unique(expected, PhantomData))
}

/// The same where the map may be absent.
pub(super) fn unique_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    unique(deserializer).map(Some)
}

/// The same where it may be `null` as well.
pub(super) fn unique_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Unique(BTreeMap<String, String>);
    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            unique(deserializer).map(Self)
        }
    }
    Ok(Option::<Unique>::deserialize(deserializer)?.map(|map| map.0))
}

/// What a field says in base64.
pub(super) fn decode(name: &str, text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| Error::invalid("invalid_base64", format!("field `{name}` is not base64: {error}")))
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes as text, and in base64 as well when text cannot hold them.
pub(super) fn text_and_bytes(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(encode(bytes))),
    }
}

/// A path for messages.
pub(crate) fn printable_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}
