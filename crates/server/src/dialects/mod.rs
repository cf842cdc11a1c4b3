//! Foreign APIs, each translated onto the engine in a folder of its own. A dialect goes by removing its folder, its `mod` and its place in
//! [`ALL`].
//!
//! What they share with the native API is the route table, the door ([`crate::auth`]) and the engine. What is their own is how keys are
//! shown, and in which words a request is refused.

pub(crate) mod boxbox;
mod boxed;
pub(crate) mod daiv;
mod few;
mod images;
mod modbox;
mod multipart;
mod output;
mod pages;
mod program;
mod upload;
mod utf8;

use std::sync::Arc;

use axum::{extract::Request, response::Response};
use caisson_core::{SandboxSpec, Tenant};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};
use utoipa::openapi::OpenApi;

use crate::{
    app::App,
    auth::{self, Auth, hosts},
    caller::View,
    config::Config,
    error::{ApiError, ApiResult},
    peers::{About, in_path},
    ports::PublicDomain,
    request_id,
    routes::{Access, Route},
};

const ALL: &[&Dialect] = &[&boxbox::DIALECT, &boxed::DIALECT, &daiv::DIALECT, &modbox::DIALECT];

/// Lets in, or says why not.
type Admit = for<'a> fn(&'a Arc<App>, &'a Parts) -> BoxFuture<'a, ApiResult<View>>;

/// What there is to say of a request before anybody knows whose it is.
type BeforeKey = for<'a> fn(&'a Arc<App>, Request) -> BoxFuture<'a, Option<ApiError>>;

/// A foreign API.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// As in [`crate::Config::dialect_keys`].
    pub(crate) name: &'static str,
    /// These paths and all below them are the dialect's.
    prefixes: &'static [&'static str],
    /// Whose its own key is, where that is not the default tenant.
    tenant: Option<&'static str>,
    /// Paths of all APIs that are the dialect's as well.
    shared: &'static [&'static str],
    /// What pages of other origins may ask of the dialect's paths, where they may.
    cors: Option<Cors>,
    /// Whether everybody is told that there is no such path or method, without a key.
    tells_everybody: bool,
    /// Whether a request that has no name is given a UUID for one.
    uuids: bool,
    /// What names below the public domain begin with that lead to paths of the dialect, and what those begin with in its place.
    hosts: Option<(&'static str, &'static str)>,
    /// Whether a slash at the end of a path changes nothing.
    any_slash: bool,
    /// What paths of it may begin with in addition; where it is empty, they do not.
    prefixed: Option<fn(&Config) -> &str>,
    /// Why a request is refused that nobody is let in with, where there is another reason.
    before_key: Option<BeforeKey>,
    /// What is to be kept ready for its requests.
    kept_warm: Option<fn(&Config) -> SandboxSpec>,
    routes: fn() -> Vec<Route>,
    /// The key that a request shows.
    pub(crate) key: fn(&Request) -> Option<Vec<u8>>,
    /// Who is let in to routes of [`Access::Own`].
    admit: Admit,
    /// What a request is about that one of several servers alone can answer.
    pub(crate) about: About,
    /// A refusal in the dialect's words, for the request of this id.
    refuse: fn(&ApiError, &HeaderValue) -> Response,
    /// Adds to the API's description what the dialect's routes have in common.
    describe: fn(&mut OpenApi),
}

impl Dialect {
    /// One without anything that only some have.
    const fn new(
        name: &'static str,
        prefixes: &'static [&'static str],
        key: fn(&Request) -> Option<Vec<u8>>,
        refuse: fn(&ApiError, &HeaderValue) -> Response,
    ) -> Self {
        let admit: Admit = |_, _| Box::pin(std::future::ready(Err(auth::not_valid())));
        Self {
            name,
            prefixes,
            tenant: None,
            shared: &[],
            cors: None,
            tells_everybody: false,
            uuids: false,
            hosts: None,
            any_slash: false,
            prefixed: None,
            before_key: None,
            kept_warm: None,
            routes: Vec::new,
            key,
            admit,
            about: |_, request| Box::pin(std::future::ready(Ok(in_path(request.uri().path())))),
            refuse,
            describe: |_| {},
        }
    }

    /// Whose its own key is.
    pub(crate) fn tenant(&self) -> Tenant {
        self.tenant.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// How long the prefix is that a path has.
    fn holds(&self, path: &str) -> Option<usize> {
        let holds = |prefix: &&&str| path.strip_prefix(**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.prefixes.iter().filter(holds).map(|prefix| prefix.len()).max()
    }
}

/// What browsers are told that pages of other origins may do.
#[derive(Debug)]
struct Cors {
    methods: &'static str,
    headers: &'static str,
}

impl Cors {
    /// That of a path. There is none without keys: any page could run code then.
    fn of(app: &App, path: &str) -> Option<&'static Self> {
        if matches!(app.config.auth, Auth::None) {
            return None;
        }
        whose(path)?.cors.as_ref()
    }

    fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(self.methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(self.headers));
    }
}

/// The answer to a browser that asks beforehand, where pages of other origins may ask.
pub(crate) fn preflight(app: &App, request: &Request) -> Option<Response> {
    (request.method() == Method::OPTIONS).then(|| Cors::of(app, request.uri().path()))?.map(|_| Response::default())
}

/// What every answer of a path says, whatever became of it.
pub(crate) fn tell_origins(app: &App, path: &str, headers: &mut HeaderMap) {
    if let Some(cors) = Cors::of(app, path) {
        cors.tell(headers);
    }
}

/// The routes of all dialects.
pub(crate) fn routes() -> Vec<Route> {
    ALL.iter().flat_map(|dialect| (dialect.routes)()).collect()
}

/// Whose path it is, where it is no native one.
pub(crate) fn of(path: &str) -> Option<&'static Dialect> {
    ALL.iter().filter_map(|dialect| Some((dialect.holds(path)?, *dialect))).max_by_key(|(length, _)| *length).map(|(_, dialect)| dialect)
}

/// The same, also where the path is of all APIs and a dialect has more to say there.
fn whose(path: &str) -> Option<&'static Dialect> {
    of(path).or_else(|| ALL.iter().copied().find(|dialect| dialect.shared.contains(&path)))
}

/// Whether requests for a path are named by UUIDs.
pub(crate) fn names_by_uuid(path: &str) -> bool {
    whose(path).is_some_and(|dialect| dialect.uuids)
}

/// What is to be kept ready for dialects' requests.
pub(crate) fn kept_warm(config: &Config) -> impl Iterator<Item = SandboxSpec> {
    ALL.iter().filter_map(move |dialect| Some((dialect.kept_warm?)(config)))
}

/// Who asks a route of a dialect's that has its own keys.
pub(crate) async fn admit(app: &Arc<App>, head: &Parts) -> ApiResult<View> {
    match of(head.uri.path()) {
        Some(dialect) => (dialect.admit)(app, head).await,
        None => Err(auth::not_valid()),
    }
}

/// Lets a request for a name that leads to a dialect go on under its path. Says whether it is one.
pub(crate) fn by_host(domain: &PublicDomain, request: &mut Request) -> bool {
    let Some(label) = hosts(request).find_map(|host| domain.label(host)).map(str::to_ascii_lowercase) else { return false };
    if hosts(request).any(|host| !domain.label(host).is_some_and(|other| other.eq_ignore_ascii_case(&label))) {
        return false;
    }
    let Some(path) = ALL.iter().filter_map(|dialect| dialect.hosts).find_map(|(name, path)| Some((path, label.strip_prefix(name)?))) else {
        return false;
    };
    let (prefix, rest) = path;
    // A dot would be another label.
    let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && retarget(request, |path| format!("{prefix}{rest}{path}"))
}

/// Where a dialect says so, a path with its prefix is the one without.
pub(crate) fn without_prefix(config: &Config, request: &mut Request) {
    let path = request.uri().path();
    let rest = ALL.iter().find_map(|dialect| {
        let prefix = (dialect.prefixed?)(config);
        let rest = path.strip_prefix(prefix).filter(|rest| !prefix.is_empty() && rest.starts_with('/'))?;
        dialect.holds(rest).map(|_| rest.to_owned())
    });
    if let Some(rest) = rest {
        retarget(request, |_| rest);
    }
}

/// What a request is refused for that nobody is let in with.
pub(crate) async fn refused_before_key(dialect: Option<&Dialect>, app: &Arc<App>, request: Request, refusal: ApiError) -> ApiError {
    match dialect.and_then(|dialect| dialect.before_key) {
        Some(look) => look(app, request).await.unwrap_or(refusal),
        None => refusal,
    }
}

/// Where a dialect says so, a path with a slash at its end is the one without.
pub(crate) fn without_slash(request: &mut Request) {
    let path = request.uri().path();
    if path.ends_with('/') && of(path).is_some_and(|dialect| dialect.any_slash) {
        retarget(request, |path| path.trim_end_matches('/').to_owned());
    }
}

/// Gives a request another path; says whether it could be one.
fn retarget(request: &mut Request, path: impl FnOnce(&str) -> String) -> bool {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(target) = format!("{}{query}", path(request.uri().path())).parse::<PathAndQuery>() else { return false };
    *request.uri_mut() = Uri::from(target);
    true
}

/// The answer as the dialect gives it.
pub(crate) fn in_its_words(dialect: Option<&Dialect>, mut answer: Response, id: &HeaderValue) -> Response {
    let Some(dialect) = dialect else { return answer };
    let Some(error) = answer.extensions_mut().remove::<ApiError>() else { return answer };
    let mut told = (dialect.refuse)(&error, id);
    if let Some(after) = answer.headers_mut().remove(header::RETRY_AFTER) {
        told.headers_mut().insert(header::RETRY_AFTER, after);
    }
    *told.extensions_mut() = std::mem::take(answer.extensions_mut());
    told
}

/// The answer where a dialect has no such path or method. Who asks is mostly looked at first, as with every other path of it.
pub(crate) fn nothing_there(app: &Arc<App>, request: &Request, status: StatusCode) -> Option<Response> {
    let dialect = of(request.uri().path())?;
    let not_routed = ApiError::new(status, "not_routed", status.canonical_reason().unwrap_or_default());
    let error = match auth::admit(app, Access::Key, request) {
        Err(refusal) if !dialect.tells_everybody => refusal,
        _ => not_routed,
    };
    Some((dialect.refuse)(&error, &request_id::told(request.extensions())))
}

/// Lets every dialect describe itself.
pub(crate) fn describe(document: &mut OpenApi) {
    ALL.iter().for_each(|dialect| (dialect.describe)(document));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_dialects_by_whole_segments() {
        for path in ["/v1/sandbox", "/v1/sandbox/", "/v1/sandbox/x/y"] {
            assert_eq!(of(path).map(|dialect| dialect.name), Some("boxed"), "{path}");
        }
        for path in ["/sandboxes", "/sandboxes/x/y", "/sandbox/monitoring/x", "/sandbox-images", "/modbox/x", "/api-tokens"] {
            assert_eq!(of(path).map(|dialect| dialect.name), Some("modbox"), "{path}");
        }
        for path in ["/execute", "/execute/x", "/executions", "/executions/8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10"] {
            assert_eq!(of(path).map(|dialect| dialect.name), Some("boxbox"), "{path}");
        }
        for path in ["/session", "/session/x/seed", "/-/health", "/api/v1", "/api/v1/session", "/api/v1/x"] {
            assert_eq!(of(path).map(|dialect| dialect.name), Some("daiv"), "{path}");
        }
        for path in [
            "/sessions",
            "/api",
            "/api/v11",
            "/-x",
            "/executed",
            "/sandbox",
            "/sandbox-image",
            "/modboxes",
            "/health",
            "/auth/login",
            "/v1/sandboxes",
            "/v1/sandboxes/x",
            "/v1",
            "/",
            "/v1/sandbo",
            "/V1/sandbox",
        ] {
            assert!(of(path).is_none(), "{path}");
        }
    }

    #[test]
    fn names_and_slashes_lead_to_paths() {
        let domain: PublicDomain = "box.example".parse().unwrap();
        let led = |hosts: &[&str], target: &str| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header("host", *host);
            }
            let mut request = request.body(axum::body::Body::empty()).unwrap();
            by_host(&domain, &mut request).then(|| request.uri().to_string())
        };
        assert_eq!(led(&["modbox-8F8b.box.example:81"], "/x/../y?a=%20").as_deref(), Some("/modbox/8f8b/x/../y?a=%20"));
        assert_eq!(led(&["modbox-8f8b.box.example"], "//sandboxes").as_deref(), Some("/modbox/8f8b//sandboxes"));
        for hosts in [&["80-x.box.example"][..], &["box.example"], &["modbox-x.y.box.example"], &["modbox-x.box.example", "localhost"], &[]]
        {
            assert_eq!(led(hosts, "/"), None, "{hosts:?}");
        }
        for (target, to) in [("/api-tokens/", "/api-tokens"), ("/sandboxes/a/?b=/", "/sandboxes/a?b=/"), ("/v1/sandbox/", "/v1/sandbox/")] {
            let mut request = Request::builder().uri(target).body(axum::body::Body::empty()).unwrap();
            without_slash(&mut request);
            assert_eq!(request.uri().to_string(), to);
        }
        let mut config = Config::new(Vec::new(), Auth::None);
        for (prefix, target, to) in [
            ("/api/v1", "/api/v1/session/?a=/", "/session?a=/"),
            ("/api/v1", "/api/v1/-/health/", "/-/health"),
            ("/api/v1", "/api/v1/sandboxes", "/api/v1/sandboxes"),
            ("/api/v1", "/api/v1session", "/api/v1session"),
            ("/x", "/x/session", "/session"),
            ("", "/session/", "/session"),
        ] {
            prefix.clone_into(&mut config.daiv.prefix);
            let mut request = Request::builder().uri(target).body(axum::body::Body::empty()).unwrap();
            without_prefix(&config, &mut request);
            without_slash(&mut request);
            assert_eq!(request.uri().to_string(), to, "{prefix}");
        }
    }

    #[test]
    fn every_route_of_a_dialect_is_below_its_prefix_and_needs_a_key() {
        for dialect in ALL {
            for Route { access, handlers: (_, paths, _), .. } in (dialect.routes)() {
                let is_public = paths.paths.keys().all(|path| path.starts_with("/-/"));
                assert!(if is_public { access == Access::Public } else { [Access::Key, Access::Own].contains(&access) });
                assert!(paths.paths.keys().all(|path| of(path).is_some_and(|of| of.name == dialect.name)), "{:?}", paths.paths.keys());
            }
        }
    }
}
