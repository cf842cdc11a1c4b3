//! What a registry wants to see before it answers ([Docker's token protocol]).
//!
//! ```text
//! registry: 401  WWW-Authenticate: Bearer realm="https://auth…/token",service="…"
//! token server: GET realm?service=…&scope=repository:…:pull     with the login, if there is one
//! registry:      Authorization: Bearer …
//! ```
//!
//! [Docker's token protocol]: https://distribution.github.io/distribution/spec/auth/token/

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use super::{Failure, Session};
use crate::{Error, login::Login};

/// The longest answer of a token server.
const MAX_TOKEN: usize = 256 << 10;

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session<'_> {
    /// What to say to a registry that wants to know who asks.
    pub(super) async fn authorize(&self, response: &Response) -> Result<HeaderValue, Failure> {
        match challenge(response.headers()) {
            Some(Challenge::Basic) => Ok(basic(self.login.as_ref().ok_or_else(|| self.denied())?)),
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service.as_deref()).await,
            None => Err(self.odd("that it wants a login of a kind that is not known".to_owned()).into()),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<HeaderValue, Failure> {
        let odd = |what: &str| Failure::from(self.odd(format!("with {what} to get a token from")));
        let mut url = Url::parse(realm).map_err(|_| odd("no address"))?;
        // Also for where a login may go: over plain HTTP only to a registry that is called insecure.
        self.reach.check(&url)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            // No more than what is needed, whatever the registry would like.
            query.append_pair("scope", &format!("repository:{}:pull", self.repository));
        }
        let login = self.login.as_ref().map(basic);
        let response = self.request(&Method::GET, &url, None, 0, login.as_ref()).await?;
        if response.status().is_redirection() {
            return Err(odd("a redirect").into_final());
        }
        let mut response = self.judge(response).map_err(|failure| match failure {
            // Of a token server, too, it means that the login is wrong.
            Failure::Final(Error::NotFound { .. }) => odd("no server"),
            other => other,
        })?;
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(error))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_TOKEN {
                return Err(odd("too long an answer"));
            }
        }
        let granted: Granted = serde_json::from_slice(&bytes).map_err(|_| odd("no token"))?;
        let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty()).ok_or_else(|| odd("no token"))?;
        secret(format!("Bearer {token}")).ok_or_else(|| odd("a token that cannot be sent"))
    }
}

impl Failure {
    fn into_final(self) -> Self {
        match self {
            Self::Again { error, .. } | Self::Final(error) => Self::Final(error),
        }
    }
}

fn basic(login: &Login) -> HeaderValue {
    let text = STANDARD.encode(format!("{}:{}", login.user, login.password));
    secret(format!("Basic {text}")).expect("base64 has only plain characters")
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The challenge that is answered best, if one can be read.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut best = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, parameters) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parse(parameters);
            let find = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
            if let Some(realm) = find("realm") {
                return Some(Challenge::Bearer { realm, service: find("service") });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
    }
    best
}

/// `name="value"` and `name=value`, with commas between. What cannot be read ends it.
fn parse(mut text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let mut value = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next() {
                    Some((_, '\\')) => value.extend(characters.next().map(|(_, escaped)| escaped)),
                    Some((at, '"')) => break at + 1,
                    Some((_, other)) => value.push(other),
                    None => return all,
                }
            };
            text = &quoted[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            value.push_str(rest[..end].trim());
            text = &rest[end..];
        }
        all.push((name, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn challenges_are_read() {
        let bearer =
            |realm: &str, service: Option<&str>| Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) });
        for (values, expected) in [
            (&[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#][..], bearer("https://a/t", Some("s"))),
            (&[r#"bearer scope="a=b,c", realm="https://a/\"t\"" , service=s"#], bearer("https://a/\"t\"", Some("s"))),
            (&[r#"Basic realm="x""#, r#"Bearer realm="r""#], bearer("r", None)),
            (&[r#"Basic realm="x""#], Some(Challenge::Basic)),
            (&["Bearer"], None),
            (&[r#"Bearer realm="never ends"#], None),
            (&["Negotiate"], None),
            (&[], None),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_login_is_not_shown_in_headers() {
        let value = basic(&Login { user: "user".into(), password: "pass".into() });
        assert_eq!((value.to_str().unwrap(), format!("{value:?}").as_str()), ("Basic dXNlcjpwYXNz", "Sensitive"));
    }
}
