//! Under which names images are kept: those that are there for everybody, and those that one tenant has got with logins of its own.

use std::{fmt, str::FromStr};

use caisson_core::Tenant;

use crate::{Error, Reference};

/// What an image is called, and whose it is. In the store's file it is the whole name, and behind a space the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) reference: Reference,
    /// Absent when everybody may use it.
    pub(crate) owner: Option<Tenant>,
}

impl Name {
    pub(crate) fn for_everybody(reference: Reference) -> Self {
        Self { reference, owner: None }
    }

    /// Whether it is there for this tenant; for those who look after the store, what is there for everybody.
    pub(crate) fn is_for(&self, tenant: Option<&Tenant>) -> bool {
        self.owner.is_none() || self.owner.as_ref() == tenant
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            None => self.reference.fmt(f),
            Some(owner) => write!(f, "{} {owner}", self.reference),
        }
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Some((reference, owner)) = text.split_once(' ') else { return text.parse().map(Self::for_everybody) };
        let owner = owner.parse().map_err(|_| Error::Reference { text: text.to_owned(), why: "it is of no tenant".to_owned() })?;
        Ok(Self { reference: reference.parse()?, owner: Some(owner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_an_image_is_stands_in_its_name() {
        for text in ["docker.io/library/alpine:3", "docker.io/library/alpine:3 team-a"] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        assert!("docker.io/library/alpine:3 TEAM".parse::<Name>().is_err());
        let (a, b): (Tenant, Tenant) = ("a".parse().unwrap(), "b".parse().unwrap());
        let own = Name { reference: "x".parse().unwrap(), owner: Some(a.clone()) };
        assert!(own.is_for(Some(&a)) && !own.is_for(Some(&b)) && !own.is_for(None));
        let shared = Name::for_everybody("x".parse().unwrap());
        assert!(shared.is_for(Some(&b)) && shared.is_for(None));
    }
}
