//! The API's description as a page for people. It is whole by itself: no script, and nothing from elsewhere.

use std::fmt::{Display, Formatter, Result, Write};

use serde_json::Value;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
code{font:.9em ui-monospace,monospace}nav a{margin-right:1em}summary{cursor:pointer;padding:.3em 0}\
summary b{display:inline-block;min-width:5em}table{border-collapse:collapse;margin:.5em 0 1em}\
td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0;border-top:1px solid #ddd}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}a{color:#8ab4f8}td,th{border-color:#444}}";

/// The page for a document of OpenAPI.
pub(super) fn page(document: &Value) -> String {
    let mut page = String::new();
    write(&mut page, document).expect("a string takes everything");
    page
}

fn write(page: &mut String, document: &Value) -> Result {
    let title = Text(&document["info"]["title"]);
    write!(page, "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>")?;
    write!(page, "<title>{title}: API</title><style>{STYLE}</style><h1>{title} {}</h1>", Text(&document["info"]["version"]))?;
    write!(page, "{}<p>For programs: <a href=/openapi.json>openapi.json</a></p><nav>", Prose(&document["info"]["description"]))?;
    let tags = || document["tags"].as_array().into_iter().flatten();
    for tag in tags() {
        write!(page, "<a href='#{0}'>{0}</a> ", Text(&tag["name"]))?;
    }
    write!(page, "<a href='#schemas'>schemas</a></nav>")?;
    for tag in tags() {
        write!(page, "<h2 id='{0}'>{0}</h2>{1}", Text(&tag["name"]), Prose(&tag["description"]))?;
        for (path, item) in members(&document["paths"]) {
            for (method, operation) in members(item).filter(|(_, operation)| is_of(operation, &tag["name"])) {
                self::operation(page, method, path, operation)?;
            }
        }
    }
    write!(page, "<h2 id=schemas>schemas</h2>")?;
    for (name, schema) in members(&document["components"]["schemas"]) {
        write!(page, "<details id='schema-{0}'><summary><code>{0}</code></summary>{1}", Escaped(name), Prose(&schema["description"]))?;
        write!(page, "<p>{}</p>{}</details>", Kind(schema), Members(schema))?;
    }
    Ok(())
}

fn is_of(operation: &Value, tag: &Value) -> bool {
    operation["tags"].as_array().is_some_and(|tags| tags.contains(tag))
}

fn operation(page: &mut String, method: &str, path: &str, operation: &Value) -> Result {
    let (method, path) = (Escaped(&method.to_uppercase()).to_string(), Escaped(path));
    write!(page, "<details id='{}'><summary><b>{method}</b> <code>{path}</code> ", Text(&operation["operationId"]))?;
    write!(page, "{}</summary>{}", Text(&operation["summary"]), Prose(&operation["description"]))?;
    let who = if operation["security"].is_array() { "Needs a key." } else { "Needs no key." };
    write!(page, "<p>{who}</p><table>")?;
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let needed = if parameter["required"] == true { ", required" } else { "" };
        write!(page, "<tr><td><code>{}</code><td>{}{needed}", Text(&parameter["name"]), Text(&parameter["in"]))?;
        write!(page, "<td>{}<td>{}", Kind(&parameter["schema"]), Prose(&parameter["description"]))?;
    }
    for (media, body) in members(&operation["requestBody"]["content"]) {
        write!(page, "<tr><td>body<td><code>{}</code><td>{}<td>", Escaped(media), Kind(&body["schema"]))?;
    }
    for (status, answer) in members(&operation["responses"]) {
        write!(page, "<tr><td>{}<td>", Escaped(status))?;
        let kinds: Vec<_> = members(&answer["content"]).collect();
        for (media, _) in &kinds {
            write!(page, "<code>{}</code> ", Escaped(media))?;
        }
        write!(page, "<td>")?;
        for (_, body) in &kinds {
            write!(page, "{} ", Kind(&body["schema"]))?;
        }
        write!(page, "<td>{}", Prose(&answer["description"]))?;
    }
    write!(page, "</table></details>")
}

fn members(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// Text that means nothing to HTML.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        for character in self.0.chars() {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '\'' => out.write_str("&#39;")?,
                '"' => out.write_str("&quot;")?,
                other => out.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A string, or nothing.
struct Text<'a>(&'a Value);

impl Display for Text<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        Escaped(self.0.as_str().unwrap_or_default()).fmt(out)
    }
}

/// A description: paragraphs, with code between backticks.
struct Prose<'a>(&'a Value);

impl Display for Prose<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        for paragraph in self.0.as_str().unwrap_or_default().split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            out.write_str("<p>")?;
            for (at, part) in paragraph.split('`').enumerate() {
                if at % 2 == 0 { write!(out, "{}", Escaped(part))? } else { write!(out, "<code>{}</code>", Escaped(part))? }
            }
            out.write_str("</p>")?;
        }
        Ok(())
    }
}

/// What a schema admits, in a few words.
struct Kind<'a>(&'a Value);

impl Display for Kind<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let schema = self.0;
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return write!(out, "<a href='#schema-{0}'>{0}</a>", Escaped(name));
        }
        if let Some(either) = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[*key].as_array()) {
            return list(out, either.iter().map(Kind), " or ");
        }
        if let Some(words) = schema["enum"].as_array() {
            return list(out, words.iter().map(|word| Escaped(word.as_str().unwrap_or("null"))), ", ");
        }
        match &schema["type"] {
            Value::String(kind) if kind == "array" => write!(out, "list of {}", Kind(&schema["items"])),
            Value::Array(kinds) => list(out, kinds.iter().map(Text), " or "),
            kind => Text(kind).fmt(out),
        }
    }
}

fn list<T: Display>(out: &mut Formatter<'_>, parts: impl Iterator<Item = T>, between: &str) -> Result {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            out.write_str(between)?;
        }
        part.fmt(out)?;
    }
    Ok(())
}

/// The fields of an object.
struct Members<'a>(&'a Value);

impl Display for Members<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let required = self.0["required"].as_array();
        out.write_str("<table>")?;
        for (name, field) in members(&self.0["properties"]) {
            let needed = if required.is_some_and(|names| names.iter().any(|one| one == name)) { "required" } else { "" };
            write!(out, "<tr><td><code>{}</code><td>{}<td>{needed}<td>{}", Escaped(name), Kind(field), Prose(&field["description"]))?;
        }
        out.write_str("</table>")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_document_says_is_text_and_nothing_else() {
        let page = page(&json!({
            "info": {"title": "<b>", "version": "1", "description": "a `<i>` & b"},
            "tags": [{"name": "one", "description": "first"}],
            "paths": {"/x/{id}": {"get": {
                "tags": ["one"], "operationId": "x", "summary": "Reads 'it'", "security": [],
                "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": ["string", "null"]}}],
                "responses": {"200": {"description": "fine", "content": {"text/plain": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
            }}},
            "components": {"schemas": {"Thing": {"type": "object", "required": ["a"], "properties": {"a": {"type": "array", "items": {"enum": ["p", "q"]}}}}}},
        }));
        for part in [
            "<title>&lt;b&gt;: API</title>",
            "<p>a <code>&lt;i&gt;</code> &amp; b</p>",
            "<b>GET</b> <code>/x/{id}</code> Reads &#39;it&#39;</summary>",
            "<tr><td><code>id</code><td>path, required<td>string or null<td>",
            "<tr><td>200<td><code>text/plain</code> <td><a href='#schema-Thing'>Thing</a> <td><p>fine</p>",
            "<tr><td><code>a</code><td>list of p, q<td>required<td>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
