//! `NAME=VALUE`.

use std::{collections::BTreeMap, str::FromStr};

use anyhow::{Result, bail};

/// A name with its value, which may be empty and may contain `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("expected NAME=VALUE"),
        }
    }
}

/// The pairs as a map; `option` is what they were given with, for the refusal of a name that is given twice.
pub(crate) fn unique(option: &str, pairs: Vec<Pair>) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for Pair { name, value } in pairs {
        if map.contains_key(&name) {
            bail!("{option} names `{name}` twice; give it once");
        }
        map.insert(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_splits() {
        let pair = |name: &str, value: &str| Ok(Pair { name: name.to_owned(), value: value.to_owned() });
        assert_eq!("A=b".parse(), pair("A", "b"));
        assert_eq!("A=b=c".parse(), pair("A", "b=c"));
        assert_eq!("A=".parse(), pair("A", ""));
        for text in ["", "A", "=b"] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_given_once() {
        let pairs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(unique("--env", pairs(&["A=1", "B=2"])).unwrap().len(), 2);
        assert!(unique("--env", pairs(&["A=1", "A=1"])).unwrap_err().to_string().contains("--env names `A` twice"));
    }
}
