//! Ways out of a session, of which there are none: what asks for one is refused by name.

use axum::response::Response;
use http::{HeaderName, StatusCode};
use serde_json::{Map, Value};

use super::{
    answer::{bad_request, refusal},
    body::Fields,
    check::{self, Check, Wrong, value_error, wrong},
    python::repr,
    record::Named,
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
};

pub(super) fn not_there() -> ApiError {
    bad_request("egress requires the egress proxy, which is not configured on this deployment")
}

/// Whether a request for a session has a block of it. What is wrong with the block is told before that there is nothing to do it with.
pub(super) fn is_asked_for(check: &mut Check<'_>) -> bool {
    let Some(value) = check.given("egress") else { return false };
    if let Some(mut block) = check.within(&["egress".into()], value) {
        shape(&mut block, value);
    }
    true
}

/// Looks at a block as upstream would before it is used.
fn shape(block: &mut Check<'_>, whole: &Value) {
    let before = block.count();
    let mut named = Vec::new();
    match block.given("policy") {
        None => drop(block.need("policy", |_| Err::<(), _>(not_an_object()))),
        Some(value) => {
            if let Some(mut policy) = block.within(&["policy".into()], value) {
                named = rules(&mut policy, value);
            }
        }
    }
    let secrets = match block.given("secrets") {
        None => Map::new(),
        Some(value) => secrets(block, value),
    };
    // As a whole it is looked at when nothing in it is wrong.
    if block.count() > before {
        return;
    }
    if let Some((host, secret)) = named.into_iter().find(|(_, secret)| !secrets.contains_key(secret)) {
        let why = format!("rule for host {} references unknown secret {}", repr(host.as_bytes()), repr(secret.as_bytes()));
        block.wrong(&[], whole, value_error(&why));
    }
}

fn not_an_object() -> Wrong {
    wrong("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
}

/// The hosts of rules, and what each of them is sent.
fn rules(policy: &mut Check<'_>, whole: &Value) -> Vec<(String, String)> {
    let before = policy.count();
    let default = policy.may("default", one_of(&["deny", "allow"]));
    policy.may("intercept", one_of(&["all", "credentialed"]));
    let rules = policy.may("rules", check::list).unwrap_or_default();
    let mut named = Vec::new();
    for (index, value) in rules.iter().enumerate() {
        let Some(mut rule) = policy.within(&["rules".into(), index.into()], value) else { continue };
        let host = rule.need("host", host);
        if rule.may_texts("methods").is_some_and(|methods| methods.is_empty()) {
            rule.wrong(&["methods".into()], &Value::Array(Vec::new()), value_error("methods must not be empty"));
        }
        named.extend(host.zip(rule.may("inject", check::text)));
    }
    if policy.count() == before && rules.is_empty() && default.as_deref() != Some("allow") {
        policy.wrong(&[], whole, value_error("a policy that denies by default needs rules"));
    }
    named
}

/// The secrets of a block by their names.
fn secrets(block: &mut Check<'_>, value: &Value) -> Map<String, Value> {
    let Value::Object(secrets) = value else {
        block.wrong(&["secrets".into()], value, wrong("dict_type", "Input should be a valid dictionary"));
        return Map::new();
    };
    for (name, value) in secrets {
        if let Some(mut secret) = block.within(&["secrets".into(), name.as_str().into()], value) {
            secret.need("header", header);
            secret.need("value", secret_value);
        }
    }
    secrets.clone()
}

fn one_of(names: &'static [&'static str; 2]) -> impl FnOnce(&Value) -> Result<String, Wrong> {
    let [first, second] = names;
    move |value| match value.as_str().filter(|text| names.contains(text)) {
        Some(text) => Ok(text.to_owned()),
        None => Err(check::literal_error(&format!("'{first}' or '{second}'"))),
    }
}

fn host(value: &Value) -> Result<String, Wrong> {
    let host = check::text(value)?;
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(value_error("host must be a pattern without blanks and control characters, and not empty"));
    }
    Ok(host)
}

fn header(value: &Value) -> Result<(), Wrong> {
    let name = check::text(value)?;
    HeaderName::from_bytes(name.as_bytes()).map(drop).map_err(|_| value_error("header must be an HTTP token"))
}

fn secret_value(value: &Value) -> Result<(), Wrong> {
    if check::text(value)?.contains(['\r', '\n', '\0']) {
        return Err(value_error("value must not contain CR, LF or NUL"));
    }
    Ok(())
}

/// Replaces the ways out of a session, of which there are none.
#[utoipa::path(put, path = "/session/{id}/egress", operation_id = "daiv_egress", tag = "daiv", params(("id" = String, Path)),
    request_body = Object, responses((status = 409, description = "There are none to replace")))]
pub(crate) async fn replace(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let mut faults = Vec::new();
    shape(&mut Check::new(&fields, &mut faults), &Value::Object(fields.clone()));
    check::done(Some(()), faults)?;
    match named.open_if_there(&app).await? {
        Some(_) => Err(refusal(StatusCode::CONFLICT, "Session has no egress proxy; nothing to refresh")),
        None => Err(refusal(StatusCode::NOT_FOUND, "Session not found")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(block: Value) -> Vec<String> {
        let Value::Object(fields) = json!({"egress": block}) else { unreachable!() };
        let mut faults = Vec::new();
        assert!(is_asked_for(&mut Check::new(&fields, &mut faults)));
        faults.iter().map(|fault| format!("{} {}", fault["loc"], fault["msg"].as_str().unwrap())).collect()
    }

    #[test]
    fn blocks_are_looked_at_before_they_are_refused() {
        let fine = json!({"default": "deny", "intercept": "all", "rules": [{"host": "*.github.com", "methods": ["GET"], "inject": "gh"}]});
        let secret = |header: &str, value: &str| json!({"gh": {"header": header, "value": value}});
        let none = Vec::<String>::new();
        assert_eq!(faults(json!({"policy": fine, "secrets": secret("Authorization", "Bearer x")})), none);
        assert_eq!(faults(json!({"policy": {"default": "allow"}})), none);
        for (block, expect) in [
            (json!(5), r#"["body","egress"] Input should be a valid dictionary or object"#),
            (json!({}), r#"["body","egress","policy"] Field required"#),
            (json!({"policy": {}}), r#"["body","egress","policy"] Value error, "#),
            (json!({"policy": {"default": "x"}}), r#"["body","egress","policy","default"] Input should be 'deny' or 'allow'"#),
            (json!({"policy": {"rules": [{"host": "a b"}]}}), r#"["body","egress","policy","rules",0,"host"] Value error, host "#),
            (
                json!({"policy": {"rules": [{"host": "a", "methods": []}]}}),
                r#"["body","egress","policy","rules",0,"methods"] Value error, "#,
            ),
            (
                json!({"policy": {"rules": [{"host": "a.b", "inject": "x"}]}}),
                r#"["body","egress"] Value error, rule for host 'a.b' references unknown secret 'x'"#,
            ),
            (json!({"policy": fine, "secrets": secret("a b", "x")}), r#"["body","egress","secrets","gh","header"] Value error, "#),
            (json!({"policy": fine, "secrets": secret("A", "x\n")}), r#"["body","egress","secrets","gh","value"] Value error, "#),
            (json!({"policy": fine, "secrets": []}), r#"["body","egress","secrets"] Input should be a valid dictionary"#),
        ] {
            let found = faults(block);
            assert!(found.len() == 1 && found[0].starts_with(expect), "{found:?}: {expect}");
        }
    }
}
