//! What of a request goes into the sandbox.

use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request::Parts};
use http_body::Body as _;

use super::{
    asked::{Form, Place},
    cookies,
};
use crate::{
    auth::{self, Auth},
    caller::View,
    error::{ApiError, ApiResult},
};

/// What is about one connection and not about the request (RFC 9110 §7.6.1), whoever names it.
const OF_A_CONNECTION: [&str; 8] =
    ["connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
/// Ours to say, or ours to read.
const OURS: [&str; 10] = [
    "x-api-key",
    "x-boxed-api-key",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "expect",
];

/// Makes of the request that came the one that goes in. The program hears
///
/// - the path and the query as they were asked for, behind the port;
/// - as `Host` its own name where the port has one, so that it goes with `Origin`, and otherwise `localhost`, which every program takes;
/// - from us alone who asks and for what (`X-Forwarded-For`, `-Host`, `-Proto`, `-Prefix`);
/// - no key, no token of ours but the one in its own address, and no cookie of others.
pub(super) fn prepare(app: &View, place: &Place, asked: &str, peer: SocketAddr, upgrade: bool, head: &mut Parts) -> ApiResult<()> {
    head.uri = Uri::builder()
        .path_and_query(place.target())
        .build()
        .map_err(|_| ApiError::bad_request("invalid_path", "the path cannot be passed on"))?;
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let headers = &mut head.headers;
    remove_what_is_of_the_connection(headers);
    OURS.iter().for_each(|name| drop(headers.remove(*name)));
    // Whatever let the request in: a key that it shows beside a token is a key.
    if headers.get_all(header::AUTHORIZATION).iter().any(|value| is_key(app, value)) {
        headers.remove(header::AUTHORIZATION);
    }
    cookies::go_in(headers, place);
    let host = match place.form {
        Form::Host => asked.to_owned(),
        Form::Path { .. } => {
            // It may have a token in it, or tell other addresses of the API.
            headers.remove(header::REFERER);
            format!("localhost:{}", place.port)
        }
    };
    let mut say = |name: HeaderName, value: &str| {
        // What a client wrote as its host is checked to be text; anything else is left out.
        HeaderValue::from_str(value).map(|value| headers.insert(name, value)).ok();
    };
    say(header::HOST, &host);
    say(HeaderName::from_static("x-forwarded-for"), &peer.ip().to_canonical().to_string());
    say(HeaderName::from_static("x-forwarded-host"), asked);
    say(HeaderName::from_static("x-forwarded-proto"), app.links.scheme());
    if let Form::Path { in_path } = place.form {
        let token = place.token.as_deref().filter(|_| in_path);
        say(HeaderName::from_static("x-forwarded-prefix"), &app.links.prefix(place.id, place.port, token));
    }
    // Each request has a connection of its own.
    say(header::CONNECTION, if upgrade { "Upgrade" } else { "close" });
    if upgrade {
        say(header::UPGRADE, "websocket");
    }
    Ok(())
}

/// Whether an `Authorization` is one of ours.
fn is_key(app: &View, shown: &HeaderValue) -> bool {
    let alone = HeaderMap::from_iter([(header::AUTHORIZATION, shown.clone())]);
    let is_one = |keys| auth::check_key(app.app(), keys, &alone).is_ok() || auth::is_a_dialects_key(app.app(), shown);
    matches!(&app.config.auth, Auth::Keys(keys) if is_one(keys))
}

/// Says that a body of unknown length comes. Of methods that mostly have none, none would be passed on.
pub(crate) fn announce(body: &Body, headers: &mut HeaderMap) {
    if !body.is_end_stream() && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Removes what is about one connection, and what that says is.
pub(crate) fn remove_what_is_of_the_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // The end of a message is found by these, whatever is said of them.
    let essential = [header::CONTENT_LENGTH, header::HOST];
    named.iter().filter(|name| !essential.contains(name)).for_each(|name| drop(headers.remove(name)));
    OF_A_CONNECTION.iter().for_each(|name| drop(headers.remove(*name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_connection_ends_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-mine, Keep-Alive"),
            ("connection", "close, content-length"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("x-mine", "1"),
            ("x-theirs", "2"),
            ("content-length", "3"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_what_is_of_the_connection(&mut headers);
        let left: std::collections::BTreeSet<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["content-length", "x-theirs"].into());
    }
}
