//! Which port of which sandbox a request is about, in either form of address.

use std::num::NonZeroU16;

use axum::extract::Request;
use caisson_core::{Error, SandboxId};
use http::Uri;

use super::{PublicDomain, token::MARK};
use crate::{
    auth::hosts,
    error::{ApiError, ApiResult},
};

/// The parameter of a query that carries a token, and the cookie that does.
pub(super) const PARAMETER: &str = "caisson_token";

/// What an address says, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    form: Form,
    id: String,
    port: String,
    pub(super) token: Option<String>,
    path: String,
    query: Option<String>,
    bare: bool,
}

/// How a place was addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// At the API's own origin; the token may stand in the path.
    Path { in_path: bool },
    /// At an origin of its own.
    Host,
}

/// A port of a sandbox, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: SandboxId,
    pub(super) port: NonZeroU16,
    pub(super) form: Form,
    pub(super) token: Option<String>,
    /// Whether not even the slash behind the port was there.
    pub(super) bare: bool,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl Asked {
    /// From a path that the route table took for one of these.
    pub(crate) fn in_path(uri: &Uri) -> Self {
        let rest = uri.path().strip_prefix("/v1/sandboxes/").unwrap_or_default();
        let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let rest = rest.strip_prefix("ports/").unwrap_or_default();
        let (port, mut path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (query, mut token) = without_token(uri.query());
        let mut in_path = false;
        if let Some(segment) = path.strip_prefix("/~").filter(|segment| segment.starts_with(MARK)) {
            let (shown, behind) = segment.split_at(segment.find('/').unwrap_or(segment.len()));
            (token, path, in_path) = (Some(shown.to_owned()), behind, true);
        }
        let bare = path.is_empty();
        let path = if bare { "/" } else { path };
        Self { form: Form::Path { in_path }, id: id.to_owned(), port: port.to_owned(), token, path: path.to_owned(), query, bare }
    }

    /// From the name of a host below the domain; `None` for all other hosts.
    pub(crate) fn by_host(domain: &PublicDomain, request: &Request) -> Option<ApiResult<Self>> {
        let label = hosts(request).find_map(|host| domain.label(host))?;
        if hosts(request).any(|host| !domain.label(host).is_some_and(|other| other.eq_ignore_ascii_case(label))) {
            let message = "the request names two hosts; name one, in `Host` and in the target alike";
            return Some(Err(ApiError::bad_request("invalid_host", message)));
        }
        let label = label.to_ascii_lowercase();
        let Some((port, id)) = label.split_once('-') else {
            let message = format!("there is nothing at `{label}.{}`; ports of sandboxes are at PORT-ID.{}", domain.0, domain.0);
            return Some(Err(ApiError::new(http::StatusCode::NOT_FOUND, "not_found", message)));
        };
        let (query, token) = without_token(request.uri().query());
        let path = match request.uri().path() {
            "" => "/",
            path => path,
        };
        Some(Ok(Self { form: Form::Host, id: id.to_owned(), port: port.to_owned(), token, path: path.to_owned(), query, bare: false }))
    }

    /// What it means, if it means anything.
    pub(super) fn place(&self) -> ApiResult<Place> {
        let port = port(&self.port)?;
        let unknown = |_| Error::not_found("sandbox", self.id.escape_debug().to_string());
        let id = self.id.parse().map_err(unknown)?;
        Ok(Place {
            id,
            port,
            form: self.form.clone(),
            token: self.token.clone(),
            bare: self.bare,
            path: self.path.clone(),
            query: self.query.clone(),
        })
    }

    pub(super) fn is_by_host(&self) -> bool {
        self.form == Form::Host
    }
}

impl Place {
    /// What the program is asked for: path and query to the byte, without our token.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Whether its token stands in its path, where whoever has the address has the token.
    pub(super) fn is_link(&self) -> bool {
        self.form == Form::Path { in_path: true }
    }

    /// Its name among all ports of all sandboxes.
    pub(super) fn label(&self) -> String {
        format!("{}-{}", self.port, self.id)
    }
}

/// A port in its one spelling.
fn port(text: &str) -> ApiResult<NonZeroU16> {
    let digits = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or_else(|| ApiError::bad_request("invalid_port", format!("`{text}` is no port; write a number from 1 to 65535")))
}

/// A query without our parameter, and the parameter. Without it, a query stays as it is to the byte.
fn without_token(query: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(query) = query else { return (None, None) };
    let ours = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == PARAMETER);
    let Some(pair) = query.split('&').find(ours) else { return (Some(query.to_owned()), None) };
    let token = pair[PARAMETER.len() + 1..].to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !ours(pair)).collect();
    ((!rest.is_empty()).then(|| rest.join("&")), Some(token))
}

/// What tokens begin with that stand in paths.
const SECRETS: [&str; 3] = ["/~ct_", "/mbx_", "/wl_"];

/// A path as it may stand in a log: whoever has a token has the port, or the API.
pub(crate) fn hide_token(path: &str) -> String {
    let Some(mark) = SECRETS.into_iter().find(|mark| path.contains(mark)) else { return path.to_owned() };
    match path.find(mark) {
        Some(at) => {
            let behind = at + mark.len();
            let end = path[behind..].find('/').map_or(path.len(), |length| behind + length);
            format!("{}…{}", &path[..behind], &path[end..])
        }
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const ID: &str = "sbx0000000000000000000000000";

    #[test]
    fn paths_are_passed_on_to_the_byte() {
        for (address, bare, token, target) in [
            ("", true, None, "/"),
            ("/", false, None, "/"),
            ("/a%2Fb//c%00/../%7e?x=1&y=%20+&z", false, None, "/a%2Fb//c%00/../%7e?x=1&y=%20+&z"),
            ("//host/x", false, None, "//host/x"),
            ("/?", false, None, "/?"),
            ("/~user/x", false, None, "/~user/x"),
            ("/~ct_abc", true, Some("ct_abc"), "/"),
            ("/~ct_abc/", false, Some("ct_abc"), "/"),
            ("/~ct_abc/x?y", false, Some("ct_abc"), "/x?y"),
            ("/x?caisson_token=T", false, Some("T"), "/x"),
            ("/x?a=1&caisson_token=T&b=%26", false, Some("T"), "/x?a=1&b=%26"),
            ("/x?caisson_token=T&caisson_token=U", false, Some("T"), "/x"),
            ("/x?caisson_tokens=1", false, None, "/x?caisson_tokens=1"),
        ] {
            let asked = Asked::in_path(&format!("/v1/sandboxes/{ID}/ports/8000{address}").parse().unwrap());
            let place = asked.place().unwrap();
            assert_eq!((place.id.as_str(), place.port.get()), (ID, 8000), "{address}");
            assert_eq!((place.bare, place.token.as_deref(), place.target().as_str()), (bare, token, target), "{address}");
        }
    }

    #[test]
    fn ports_have_one_spelling() {
        for good in ["1", "80", "8000", "65535"] {
            assert_eq!(port(good).unwrap().to_string(), good);
        }
        for bad in ["", "0", "00", "080", "65536", "99999999999", "-1", "+80", "80 ", "0x50", "abc", "8e1", "٣", "%38"] {
            assert_eq!(port(bad).unwrap_err().parts().1, "invalid_port", "{bad}");
        }
    }

    #[test]
    fn hosts_below_the_domain_are_ports_and_nothing_else() {
        let domain: PublicDomain = "box.example".parse().unwrap();
        let asked = |target: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header("host", *host);
            }
            Asked::by_host(&domain, &request.body(Body::empty()).unwrap())
        };
        let name = format!("8000-{ID}.box.example");
        for (target, host) in [("/x?caisson_token=T&a", name.clone()), ("/x?a&caisson_token=T", format!("{}:8443", name.to_uppercase()))] {
            let asked = asked(target, &[&host]).unwrap().unwrap();
            let place = asked.place().unwrap();
            assert_eq!((place.port.get(), place.id.as_str(), place.target().as_str()), (8000, ID, "/x?a"));
            assert_eq!((place.token.as_deref(), place.form), (Some("T"), Form::Host));
        }
        assert!(asked("/", &["box.example"]).is_none() && asked("/", &["localhost"]).is_none() && asked("/", &[]).is_none());
        for hosts in [vec!["nothing.box.example"], vec![".box.example"]] {
            assert_eq!(asked("/", &hosts).unwrap().unwrap_err().parts().0, 404, "{hosts:?}");
        }
        for hosts in [vec![name.as_str(), "localhost"], vec!["localhost", name.as_str()], vec![name.as_str(), "80-x.box.example"]] {
            assert_eq!(asked("/", &hosts).unwrap().unwrap_err().parts().1, "invalid_host", "{hosts:?}");
        }
        assert!(asked(&format!("http://{name}/"), &["localhost"]).unwrap().is_err());
        for (host, code) in [
            (format!("0-{ID}.box.example"), "invalid_port"),
            ("80-x.box.example".to_owned(), "not_found"),
            (format!("x.80-{ID}.box.example"), "invalid_port"),
        ] {
            assert_eq!(asked("/", &[&host]).unwrap().unwrap().place().unwrap_err().parts().1, code, "{host}");
        }
    }

    #[test]
    fn r6_5_tokens_are_in_no_log() {
        assert_eq!(hide_token("/v1/sandboxes/x/ports/80/~ct_secret/a/b"), "/v1/sandboxes/x/ports/80/~ct_…/a/b");
        assert_eq!(hide_token("/v1/sandboxes/x/ports/80/~ct_secret"), "/v1/sandboxes/x/ports/80/~ct_…");
        assert_eq!(hide_token("/~user"), "/~user");
        assert_eq!(hide_token("/api-tokens/mbx_secret"), "/api-tokens/mbx_…");
        assert!(SECRETS[0].ends_with(MARK));
    }
}
