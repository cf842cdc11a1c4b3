//! Query parameters, strictly: byte-exact, each known, each once unless it may repeat. Text alone: `extract.rs` takes them from a request.

/// The parameters of one request. Take what you know, then call [`Params::finish`].
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, Vec<u8>)>);

/// What is wrong with the query, naming the parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidParameter(pub(crate) String);

type Result<T> = std::result::Result<T, InvalidParameter>;

impl Params {
    pub(crate) fn parse(query: &str) -> Result<Self> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8(decode(name)?).map_err(|_| invalid("a parameter's name is not UTF-8"))?;
            Ok((name, decode(value)?))
        };
        query.split('&').filter(|text| !text.is_empty()).map(pair).collect::<Result<_>>().map(Self)
    }

    /// A parameter as bytes; empty ones count.
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut values = self.all_bytes(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(invalid(format!("parameter `{name}` is given more than once"))),
        }
    }

    /// A parameter as text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.bytes(name)?.map(|value| text(name, value)).transpose()
    }

    /// All values of a parameter that may repeat.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        self.all_bytes(name).into_iter().map(|value| text(name, value)).collect()
    }

    /// Parameters that share a prefix, without it.
    pub(crate) fn prefixed(&mut self, prefix: &str) -> Result<Vec<(String, String)>> {
        let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.0 = left;
        taken.into_iter().map(|(name, value)| Ok((name[prefix.len()..].to_owned(), text(&name, value)?))).collect()
    }

    /// A parameter of some other type. `what` says what would have been right.
    pub(crate) fn parsed<T: std::str::FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        value.parse().map(Some).map_err(|_| invalid(format!("parameter `{name}` is `{value}`, expected {what}")))
    }

    /// A parameter that may repeat, each time with one of these names.
    pub(crate) fn choices<T: std::str::FromStr>(&mut self, name: &str, known: &[&str]) -> Result<Vec<T>> {
        let chosen = |text: String| {
            text.parse().map_err(|_| invalid(format!("parameter `{name}` is `{text}`, expected one of {}", known.join(", "))))
        };
        self.texts(name)?.into_iter().map(chosen).collect()
    }

    /// `true` or `false`; absent is `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.parsed(name, "`true` or `false`")?.unwrap_or(false))
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(format!("parameter `{name}` is not known here"))),
        }
    }

    /// Whether a parameter is given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// All values of a parameter that may repeat, as bytes.
    pub(crate) fn all_bytes(&mut self, name: &str) -> Vec<Vec<u8>> {
        self.0.extract_if(.., |(n, _)| n == name).map(|(_, value)| value).collect()
    }
}

fn invalid(message: impl Into<String>) -> InvalidParameter {
    InvalidParameter(message.into())
}

fn text(name: &str, value: Vec<u8>) -> Result<String> {
    String::from_utf8(value).map_err(|_| invalid(format!("parameter `{name}` is not UTF-8")))
}

/// Percent signs and plus signs back into bytes.
fn decode(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(invalid("a `%` in the query is not followed by two hexadecimal digits")),
            },
            other => other,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_to_the_byte() {
        let mut params = Params::parse("path=/a%20b%2Fc+d%ff%00&n=%C3%A4&empty=&flag").unwrap();
        assert_eq!(params.bytes("path").unwrap().unwrap(), b"/a b/c d\xff\0");
        assert_eq!(params.text("n").unwrap().unwrap(), "ä");
        assert_eq!(params.text("empty").unwrap().unwrap(), "");
        assert_eq!(params.text("absent").unwrap(), None);
        assert_eq!(params.finish().unwrap_err().0, "parameter `flag` is not known here");
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for query in ["a=%", "a=%2", "a=%zz", "%ff=1"] {
            assert!(Params::parse(query).is_err(), "{query}");
        }
        assert!(Params::parse("a=1&a=2").unwrap().text("a").is_err());
        assert!(Params::parse("a=%ff").unwrap().text("a").is_err());
        let error = Params::parse("limit=ten").unwrap().parsed::<u32>("limit", "a whole number").unwrap_err();
        assert_eq!(error.0, "parameter `limit` is `ten`, expected a whole number");
    }

    #[test]
    fn repeated_and_prefixed_ones_are_collected() {
        let mut params = Params::parse("state=a&metadata.k=v&state=b&metadata.x.y=z").unwrap();
        assert_eq!(params.texts("state").unwrap(), ["a", "b"]);
        assert_eq!(params.prefixed("metadata.").unwrap(), [("k".into(), "v".into()), ("x.y".into(), "z".into())]);
        params.finish().unwrap();
    }
}
