//! Why there is no answer, for people: a page where a browser asks for one. Programs get the JSON of all errors.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

use crate::error::ApiError;

/// The code for a port on which nobody listens.
pub(super) const NOT_LISTENING: &str = "port_not_listening";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:10vh auto;padding:0 1rem;color:#222;background:#fff}\
                     code{background:#eee;padding:.1em .3em;border-radius:3px}small{color:#666}\
                     @media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}code{background:#333}}";
const HELP: &str = "<p>Start a server in the sandbox and load this page again. For example, with the sandbox's id:</p>\
                    <p><code>caisson exec -d ID -- python3 -m http.server PORT</code></p>\
                    <p>It may listen on <code>127.0.0.1</code>, on <code>::1</code> or on all addresses: the sandbox has no network but its own.</p>";

/// Whether a page is asked for.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
}

/// The refusal in the words of whoever asks.
pub(super) fn refusal(refusal: ApiError, headers: &HeaderMap) -> Response {
    if !wanted(headers) {
        return refusal.into_response();
    }
    let body = refusal.clone().body().error;
    let title = match body.code.as_str() {
        NOT_LISTENING => "Nothing listens here yet",
        "token_expired" => "This link has expired",
        "invalid_token" | "unauthorized" => "This is private",
        "gone" => "The sandbox has ended",
        _ => "There is no answer",
    };
    let help = if body.code == NOT_LISTENING { HELP } else { "" };
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1><p>{}</p>{help}<p><small>{} · Caisson</small></p></html>\n",
        escaped(&body.message),
        escaped(&body.code),
    );
    // Status and headers are those of the JSON.
    let (head, _) = refusal.into_response().into_parts();
    let mut response = Html(page).into_response();
    *response.status_mut() = head.status;
    for (name, value) in head.headers.iter().filter(|(name, _)| ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name)) {
        response.headers_mut().insert(name, value.clone());
    }
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Messages quote what clients sent.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn accepting(kinds: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(kinds).unwrap())])
    }

    #[test]
    fn browsers_get_a_page_and_programs_json() {
        for (kinds, page) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, text/html;q=0.1", true),
            ("application/json", false),
            ("*/*", false),
            ("", false),
        ] {
            let error = ApiError::new(StatusCode::BAD_GATEWAY, NOT_LISTENING, "m").after(std::time::Duration::from_secs(1));
            let response = refusal(error, &accepting(kinds));
            assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (502, "1"), "{kinds}");
            assert_eq!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"), page, "{kinds}");
        }
    }

    #[tokio::test]
    async fn r6_4_pages_quote_nobody_as_markup() {
        let error = ApiError::bad_request("invalid_port", "`<script>alert(1)</script>&\"'` is no port");
        let response = refusal(error, &accepting("text/html"));
        assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;") && !text.contains("<script"), "{text}");
    }
}
