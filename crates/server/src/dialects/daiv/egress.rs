//! Ways out of a session, in the words of daiv-sandbox.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use caisson_core::{
    BUNDLE_VARIABLES, CERTIFICATE_VARIABLES, Error, Intercept, NO_PROXY_VARIABLES, Network, PROXY_VARIABLES, RequestRule, Secret,
};
use caisson_engine::SandboxUpdate;
use http::StatusCode;
use serde_json::Value;

use super::{
    answer::{bad_request, done, refusal},
    body::Fields,
    check::{self, Check, Wrong, value_error, wrong},
    python::repr,
    record::Named,
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
};

/// What a request that is refused is answered with.
const REFUSAL: &str = "egress: destination not allowed\n";
/// What is shown of a secret where it stands in what is wrong.
const UNSHOWN: &str = "**********";

pub(super) fn not_there() -> ApiError {
    bad_request("egress requires the egress proxy, which is not configured on this deployment")
}

/// What a request for a session says of it, if it does.
pub(super) fn asked_for(check: &mut Check<'_>) -> Option<Network> {
    let value = check.given("egress")?;
    let mut block = check.within(&["egress".into()], value)?;
    network(&mut block, value)
}

/// Takes out what is not for a session to say that has ways out.
pub(super) fn wins_over(environment: &mut BTreeMap<String, String>) {
    let ours = [&PROXY_VARIABLES[..], &NO_PROXY_VARIABLES, &BUNDLE_VARIABLES, &CERTIFICATE_VARIABLES].concat();
    environment.retain(|name, _| !ours.contains(&name.as_str()));
}

/// Reads a block. `None` where something is wrong with it, which is told.
fn network(block: &mut Check<'_>, whole: &Value) -> Option<Network> {
    let before = block.count();
    let policy = match block.given("policy") {
        None => {
            block.wrong(&["policy".into()], &without_values(whole), missing());
            None
        }
        Some(value) => block.within(&["policy".into()], value).map(|mut policy| rules(&mut policy, value)),
    };
    let secrets = match block.given("secrets") {
        None => BTreeMap::new(),
        Some(value) => secrets(block, value),
    };
    // As a whole it is looked at when nothing in it is wrong.
    let (Policy { allows, intercept, rules }, true) = (policy?, block.count() == before) else { return None };
    let unknown = rules.iter().find_map(|rule| rule.secret.as_ref().filter(|name| !secrets.contains_key(*name)).map(|name| (rule, name)));
    if let Some((rule, secret)) = unknown {
        let why = format!("rule for host {} references unknown secret {}", repr(rule.host.to_string().as_bytes()), repr(secret.as_bytes()));
        block.wrong(&[], &without_values(whole), value_error(&why));
        return None;
    }
    // Upstream takes secrets that nobody needs. They are not kept.
    let named: BTreeSet<String> = rules.iter().filter_map(|rule| rule.secret.clone()).collect();
    let made = Network::rules(if allows { &["*"] } else { &[] }, &[]).and_then(|network| {
        network.with(|made| {
            made.secrets = secrets.into_iter().filter(|(name, _)| named.contains(name)).collect();
            made.requests = rules;
            made.intercept = intercept;
            made.refusal = Some(REFUSAL.to_owned());
        })
    });
    made.inspect_err(|error| block.wrong(&[], &without_values(whole), value_error(&error.to_string()))).ok()
}

/// A block as it is shown: of its secrets the names, and their fields where they are well-formed.
fn without_values(block: &Value) -> Value {
    let mut shown = block.clone();
    match shown.get_mut("secrets") {
        Some(Value::Object(secrets)) => secrets.values_mut().for_each(hide),
        Some(other) => *other = UNSHOWN.into(),
        None => {}
    }
    shown
}

fn hide(secret: &mut Value) {
    match secret {
        Value::Object(fields) => {
            for (_, value) in fields.iter_mut().filter(|(name, _)| *name != "header") {
                *value = UNSHOWN.into();
            }
        }
        other => *other = UNSHOWN.into(),
    }
}

fn missing() -> Wrong {
    wrong("missing", "Field required")
}

struct Policy {
    allows: bool,
    intercept: Intercept,
    rules: Vec<RequestRule>,
}

fn rules(policy: &mut Check<'_>, whole: &Value) -> Policy {
    let before = policy.count();
    let default = policy.may("default", one_of(&["deny", "allow"]));
    let intercept = policy.may("intercept", one_of(&["all", "credentialed"]));
    let given = policy.may("rules", check::list).unwrap_or_default();
    let mut rules = Vec::new();
    for (index, value) in given.iter().enumerate() {
        let Some(mut rule) = policy.within(&["rules".into(), index.into()], value) else { continue };
        let host = rule.need("host", host);
        let methods = rule.may_texts("methods");
        if methods.as_ref().is_some_and(|methods| methods.is_empty()) {
            rule.wrong(&["methods".into()], &Value::Array(Vec::new()), value_error("methods must not be empty"));
        }
        let inject = rule.may("inject", check::text);
        match RequestRule::read(host.as_deref().unwrap_or("*"), &methods.unwrap_or_default(), None, inject) {
            Ok(read) => rules.push(read),
            Err(error) => rule.wrong(&["methods".into()], &value["methods"], value_error(&error.to_string())),
        }
    }
    let allows = default.as_deref() == Some("allow");
    if policy.count() == before && rules.is_empty() && !allows {
        policy.wrong(&[], whole, value_error("a policy that denies by default needs rules"));
    }
    let intercept = if intercept.as_deref() == Some("credentialed") { Intercept::Needed } else { Intercept::All };
    Policy { allows, intercept, rules }
}

/// The secrets of a block by their names.
fn secrets(block: &mut Check<'_>, value: &Value) -> BTreeMap<String, Secret> {
    let mut found = BTreeMap::new();
    let Value::Object(secrets) = value else {
        block.wrong(&["secrets".into()], &UNSHOWN.into(), wrong("dict_type", "Input should be a valid dictionary"));
        return found;
    };
    for (name, value) in secrets {
        // What is no object may be a value by mistake.
        let shown = if value.is_object() { value.clone() } else { UNSHOWN.into() };
        let Some(mut secret) = block.within(&["secrets".into(), name.as_str().into()], &shown) else { continue };
        let header = match secret.given("header") {
            None => {
                secret.wrong(&["header".into()], &UNSHOWN.into(), missing());
                None
            }
            Some(_) => secret.need("header", check::text),
        };
        let value = match secret.given("value") {
            None => {
                secret.wrong(&["value".into()], &UNSHOWN.into(), missing());
                None
            }
            Some(Value::String(value)) if value.contains(['\r', '\n', '\0']) => {
                secret.wrong(&["value".into()], &UNSHOWN.into(), value_error("value must not contain CR, LF or NUL"));
                None
            }
            Some(Value::String(value)) => Some(value.trim().to_owned()),
            Some(_) => {
                secret.wrong(&["value".into()], &UNSHOWN.into(), wrong("string_type", "Input should be a valid string"));
                None
            }
        };
        let Some((header, value)) = header.zip(value) else { continue };
        match Secret::given(name, &header, value) {
            Ok(made) => drop(found.insert(name.clone(), made)),
            Err(error) => secret.wrong(&["header".into()], &header.into(), value_error(&error.to_string())),
        }
    }
    found
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
    if host.contains(':') || RequestRule::read(&host, &[], None, None).is_err() {
        return Err(value_error("host must be a name, or a pattern of names such as *.example.org"));
    }
    Ok(host)
}

/// Replaces the ways out of a session, and its secrets.
#[utoipa::path(put, path = "/session/{id}/egress", operation_id = "daiv_egress", tag = "daiv", params(("id" = String, Path)),
    request_body = Object, responses((status = 204, description = "They hold"), (status = 409, description = "There are none to replace")))]
pub(crate) async fn replace(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let mut faults = Vec::new();
    let whole = Value::Object(fields.clone());
    let asked = network(&mut Check::new(&fields, &mut faults), &whole);
    let network = check::done(asked, faults)?;
    let not_found = || refusal(StatusCode::NOT_FOUND, "Session not found");
    let session = named.open_if_there(&app).await?.ok_or_else(not_found)?;
    session
        .work(&app, |session| async move {
            let gone = |error| match error {
                Error::NotFound { .. } | Error::Gone { .. } => not_found(),
                error => ApiError::from(error),
            };
            let sandbox = session.engine.sandbox(session.id).await.map_err(gone)?;
            // Those alone that were made by a block have one of ours.
            if sandbox.spec.network.as_rules().is_none_or(|rules| rules.refusal.is_none()) {
                return Err(refusal(StatusCode::CONFLICT, "Session has no egress proxy; nothing to refresh"));
            }
            let update = SandboxUpdate { network: Some(network), ..SandboxUpdate::default() };
            session.engine.update(session.id, update).await.map_err(gone)?;
            Ok(done())
        })
        .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(block: Value) -> Vec<String> {
        let Value::Object(fields) = json!({"egress": block}) else { unreachable!() };
        let mut faults = Vec::new();
        let asked = asked_for(&mut Check::new(&fields, &mut faults));
        assert_eq!(asked.is_some(), faults.is_empty());
        faults.iter().map(|fault| format!("{} {}", fault["loc"], fault["msg"].as_str().unwrap())).collect()
    }

    #[test]
    fn blocks_are_read_as_upstream_reads_them() {
        let fine = json!({"default": "deny", "intercept": "all", "rules": [{"host": "*.github.com", "methods": ["GET"], "inject": "gh"}]});
        let secret = |header: &str, value: &str| json!({"gh": {"header": header, "value": value}});
        let none = Vec::<String>::new();
        let hidden = json!({"policy": fine, "secrets": {"other": {"header": "A", "value": "hidden-value"}}});
        let Value::Object(fields) = json!({"egress": hidden}) else { unreachable!() };
        let mut shown = Vec::new();
        asked_for(&mut Check::new(&fields, &mut shown));
        assert!(!shown.is_empty() && !Value::from(shown).to_string().contains("hidden-value"));
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
            (json!({"policy": fine, "secrets": secret("A", "x\ny")}), r#"["body","egress","secrets","gh","value"] Value error, "#),
            (json!({"policy": fine, "secrets": []}), r#"["body","egress","secrets"] Input should be a valid dictionary"#),
        ] {
            let found = faults(block);
            assert!(found.len() == 1 && found[0].starts_with(expect), "{found:?}: {expect}");
        }
    }
}
