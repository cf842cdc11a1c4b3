//! What the document tells is what holds: each bound is asked for and gone beyond, over HTTP.

use serde_json::{Map, Value, json};

use super::*;
use crate::testing::Bench;

/// A value on each side of a schema's bounds.
struct Edges {
    allowed: Vec<Value>,
    refused: Vec<Value>,
}

fn edges(schema: &Value) -> Edges {
    let (mut allowed, mut refused) = (Vec::new(), Vec::new());
    if let (Some(low), Some(high)) = (schema.get("minimum"), schema.get("maximum")) {
        allowed.extend([low.clone(), high.clone()]);
        match (low.as_u64(), high.as_u64()) {
            (Some(low), Some(high)) => refused.extend([json!(low as i64 - 1), json!(high + 1)]),
            _ => refused.extend([json!(low.as_f64().unwrap() / 2.0), json!(high.as_f64().unwrap() * 1.001), json!(-1)]),
        }
    }
    if let (Some(shortest), Some(longest)) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
        // A relative path is longer in the end.
        let begin = if [NO_NUL, ABSOLUTE].iter().any(|pattern| schema["pattern"] == *pattern) { "/" } else { "a" };
        let long = |length: u64| json!(begin.to_owned() + &"a".repeat(length as usize - 1));
        allowed.extend([shortest, longest].map(long));
        refused.extend([json!(""), long(longest + 1)]);
        refused.push(json!("a\0"));
    } else if schema["minLength"] == 1 {
        refused.push(json!(""));
    }
    if let Some(choices) = schema["enum"].as_array() {
        allowed.extend(choices.iter().cloned());
        refused.extend([json!("nope"), json!("")]);
    }
    if schema["pattern"] == BASE64 {
        allowed.extend(["", "QQ==", "QUI=", "QUJD"].map(Value::from));
        refused.extend(["Q", "QQ", "QR==", "QUK=", "QU-D", "QUJD\n", "===="].map(Value::from));
    }
    if schema["pattern"] == MODE {
        allowed.extend(["0", "777", "0777", "0o644", "00000777"].map(Value::from));
        refused.extend(["", "0o", "778", "1000", "-1", "+1", "0x1", " 7"].map(Value::from));
    }
    if let Some(most) = schema["maxProperties"].as_u64() {
        let labels = |count: u64| (0..count).map(|n| (n.to_string(), json!("x"))).collect::<Map<_, _>>();
        allowed.push(labels(most).into());
        refused.push(labels(most + 1).into());
    }
    if let Some(pattern) = schema["propertyNames"]["pattern"].as_str() {
        allowed.push(json!({"A b-c.ä": "\u{1}"}));
        refused.extend([json!({"": "x"}), json!({"a\0": "x"}), json!({"a": "\0"})]);
        if pattern.contains(RESERVED_ENV) {
            allowed.push(json!({"XCAISSON_A": ""}));
            refused.extend([json!({"CAISSON_A": "x"}), json!({"A=B": "x"})]);
        }
    }
    if schema["minItems"] == 1 {
        allowed.push(json!(["a"]));
        refused.push(json!([]));
    }
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        let of_one = edges(one);
        allowed.extend(of_one.allowed);
        refused.extend(of_one.refused);
    }
    Edges { allowed, refused }
}

/// The body with one field at this value; what it cannot stand beside goes.
fn with(base: &Value, field: &str, value: &Value) -> Value {
    let mut body = base.clone();
    if ["cmd", "language"].contains(&field) {
        body.as_object_mut().unwrap().remove("shell");
    }
    if field == "language" {
        body["code"] = json!("x");
    }
    body[field] = value.clone();
    body
}

/// Whether the request was found to be wrong, whatever became of it otherwise: this machine can launch nothing.
async fn is_refused(bench: &Bench, method: &str, target: &str, body: &str) -> bool {
    let answer = bench.ask(method, target, body).await;
    assert!(answer.status != 500, "{method} {target} {body:.200}: {}", answer.text);
    // That it has no upgrade is all that is wrong with what asks for a WebSocket here.
    answer.status == 400 && answer.code() != "websocket_required"
}

#[tokio::test]
async fn r6_8_what_the_document_says_of_figures_and_texts_is_what_holds() {
    let bench = Bench::roomy().await;
    let document: Value = serde_json::from_str(&crate::openapi::text()).unwrap();
    let (sandbox, execution) = ("/v1/sandboxes/sbx0000000000000000000000000", "/v1/executions/exe0000000000000000000000000");
    let program = json!({"shell": "true"});
    let mut tried = 0;
    for (schema, method, target, base, wrap) in [
        ("CreateSandbox", "POST", "/v1/sandboxes".to_owned(), json!({}), None),
        ("UpdateSandbox", "PATCH", sandbox.to_owned(), json!({}), None),
        ("ExecRequest", "POST", format!("{sandbox}/exec"), program.clone(), None),
        ("RunRequest", "POST", "/v1/run".to_owned(), program.clone(), None),
        ("CreateKey", "POST", "/v1/keys".to_owned(), json!({}), None),
        ("CreateWebhook", "POST", "/v1/webhooks".to_owned(), json!({"url": "https://example.com/"}), None),
        ("Recipe", "PUT", "/v1/templates/x".to_owned(), json!({}), None),
        ("UpdateQuotas", "PATCH", "/v1/tenants/x".to_owned(), json!({}), None),
        ("SignalRequest", "POST", format!("{execution}/signal"), json!({}), None),
        ("ResizeRequest", "POST", format!("{execution}/resize"), json!({"cols": 1, "rows": 1}), None),
        ("Terminal", "POST", format!("{sandbox}/exec"), json!({}), Some("terminal")),
        ("Limits", "POST", "/v1/sandboxes".to_owned(), json!({}), Some("limits")),
        ("Limits", "POST", "/v1/run".to_owned(), json!({}), Some("limits")),
        ("InputFile", "POST", "/v1/run".to_owned(), json!({"path": "a", "content": ""}), Some("files")),
    ] {
        for (field, told) in document["components"]["schemas"][schema]["properties"].as_object().unwrap() {
            let Edges { allowed, refused } = edges(told);
            for (value, expect) in allowed.iter().map(|value| (value, false)).chain(refused.iter().map(|value| (value, true))) {
                let mut body = with(&base, field, value);
                if field == "content_base64" {
                    body.as_object_mut().unwrap().remove("content");
                }
                let body = match wrap {
                    Some("terminal") => json!({"background": true, "terminal": body}),
                    Some("files") => json!({"shell": "true", "files": [body]}),
                    Some(name) => with(&if target == "/v1/run" { program.clone() } else { json!({}) }, name, &body),
                    None => body,
                };
                let body = body.to_string();
                assert_eq!(is_refused(&bench, method, &target, &body).await, expect, "{schema}.{field}: {method} {target} {body:.300}");
                tried += 1;
            }
        }
    }
    // Dialects refuse what their contracts refuse.
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| crate::dialects::of(path).is_none()) {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
                let told = if parameter["schema"]["items"].is_object() { &parameter["schema"]["items"] } else { &parameter["schema"] };
                let Edges { allowed, refused } = edges(told);
                for (value, expect) in allowed.iter().map(|value| (value, false)).chain(refused.iter().map(|value| (value, true))) {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let name = parameter["name"].as_str().unwrap();
                    let mut query = format!("{name}={}", percent(&value));
                    for other in
                        parameters.iter().filter(|other| other["in"] == "query" && other["required"] == true && other["name"] != name)
                    {
                        query += &format!("&{}=a", other["name"].as_str().unwrap());
                    }
                    let target = path.replace("/v1/sandboxes/{id}", sandbox).replace("/v1/executions/{id}", execution);
                    let target = target.replace("{id}", "whk0000000000000000000000000");
                    let refused = is_refused(&bench, &method.to_uppercase(), &format!("{target}?{query}"), "").await;
                    assert_eq!(refused, expect, "{method} {target}?{query:.300}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 200, "only {tried} values were tried");
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn labels_are_changed_to_labels_and_never_to_nothing() {
    let bench = Bench::new().await;
    let target = "/v1/sandboxes/sbx0000000000000000000000000";
    assert!(is_refused(&bench, "PATCH", target, r#"{"metadata": null}"#).await);
    let document: Value = serde_json::from_str(&crate::openapi::text()).unwrap();
    let told = &document["components"]["schemas"]["UpdateSandbox"];
    assert_eq!((&told["properties"]["metadata"]["type"], &told["required"]), (&json!("object"), &Value::Null));
}
