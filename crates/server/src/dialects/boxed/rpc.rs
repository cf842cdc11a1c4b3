//! JSON-RPC 2.0 as it is spoken on the WebSocket.

use serde_json::{Map, Value, json};

/// What a client's frame is.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// For standard input, with the id of the request that asks for an answer.
    Input(Vec<u8>, Option<Value>),
    /// Nothing to do but answer.
    Answer(String),
    /// Nothing to do at all.
    Nothing,
}

/// An object with a method is a request; everything else is input as it is.
pub(super) fn hear(frame: &[u8]) -> Heard {
    let Some(request) = request(frame) else { return Heard::Input(frame.to_vec(), None) };
    // Texts and figures are ids. What is kept of anything else could be many times as long as its frame.
    let id = request.get("id").filter(|id| id.is_string() || id.is_number()).cloned();
    let refuse = |code: i32, message: &str| match &id {
        Some(id) => Heard::Answer(failure(code, message, id)),
        None => Heard::Nothing,
    };
    if request.get("method").and_then(Value::as_str) != Some("repl.input") {
        return refuse(-32601, "Method not found");
    }
    match request.get("params").and_then(|params| params.get("data")).and_then(Value::as_str) {
        Some(data) => Heard::Input(data.as_bytes().to_vec(), id),
        None => refuse(-32602, "Invalid params: expected {\"data\": \"...\"}"),
    }
}

fn request(frame: &[u8]) -> Option<Map<String, Value>> {
    // Most of what is typed is none, and need not be parsed for that.
    if frame.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_slice(frame).ok()?;
    object.get("method").is_some_and(|method| !method.is_null()).then_some(object)
}

pub(super) fn success(id: &Value) -> String {
    json!({"jsonrpc": "2.0", "result": null, "id": id}).to_string()
}

/// Standard input took nothing.
pub(super) fn not_written(id: &Value) -> String {
    failure(-32602, "Failed to write to stdin", id)
}

fn failure(code: i32, message: &str, id: &Value) -> String {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}).to_string()
}

pub(super) fn notification(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_method_is_input_as_it_is() {
        for frame in [
            "ls\n",
            "",
            "5",
            "\"x\"",
            "null",
            "[1]",
            "{",
            "{}",
            r#"{"method": null}"#,
            r#"{"a": 1}"#,
            r#"[{"method": "exec"}]"#,
            "\u{e4}",
            &format!("{}1{}", r#"{"method":"#.repeat(200), "}".repeat(200)),
        ] {
            assert_eq!(hear(frame.as_bytes()), Heard::Input(frame.as_bytes().to_vec(), None), "{frame:.60}");
        }
        assert_eq!(hear(b"\xff{"), Heard::Input(b"\xff{".to_vec(), None));
    }

    #[test]
    fn input_is_asked_for_with_or_without_an_id() {
        assert_eq!(hear(br#"{"jsonrpc":"2.0","method":"repl.input","params":{"data":"x\n"}}"#), Heard::Input(b"x\n".to_vec(), None));
        assert_eq!(hear(br#" {"method":"repl.input","params":{"data":""},"id":"a"}"#), Heard::Input(Vec::new(), Some(json!("a"))));
        for id in ["null", "[[],[]]", "{}", "true"] {
            let frame = format!(r#"{{"method":"repl.input","params":{{"data":""}},"id":{id}}}"#);
            assert_eq!(hear(frame.as_bytes()), Heard::Input(Vec::new(), None), "{id}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_answered_where_an_answer_is_asked_for() {
        let code = |frame: &str| match hear(frame.as_bytes()) {
            Heard::Answer(text) => text.parse::<Value>().unwrap()["error"]["code"].as_i64().unwrap(),
            Heard::Nothing => 0,
            Heard::Input(..) => 1,
        };
        for (method, params, expect) in [
            (r#""exec""#, "{}", -32601),
            (r#""repl.start""#, "{}", -32601),
            ("5", "{}", -32601),
            ("{}", "{}", -32601),
            (r#""repl.input""#, "{}", -32602),
            (r#""repl.input""#, "[]", -32602),
            (r#""repl.input""#, "null", -32602),
            (r#""repl.input""#, r#"{"data": 5}"#, -32602),
            (r#""repl.input""#, r#"{"data": null}"#, -32602),
        ] {
            assert_eq!(code(&format!(r#"{{"method":{method},"params":{params},"id":10}}"#)), expect, "{method} {params}");
            assert_eq!(code(&format!(r#"{{"method":{method},"params":{params}}}"#)), 0, "{method} {params}");
        }
    }
}
