//! Templates as text: TOML, and JSON for those who have it.
//!
//! TOML knows no `null`, which is how the API says that there is no limit; here that is `"none"`.

use caisson_core::{Error, Result};
use serde_json::{Map, Value};

use crate::{json, native::types::RecipeBody};

/// Where `"none"` stands for no limit.
const LIMITS: [&str; 3] = ["lifetime_s", "idle_timeout_s", "timeout_s"];
const NONE: &str = "none";

/// The template that this text is, checked. JSON begins with a brace, with which no TOML does.
pub fn read(text: &str) -> Result<RecipeBody> {
    let recipe = if text.trim_start().starts_with('{') { of_json(text)? } else { of_toml(text)? };
    recipe.check()?;
    Ok(recipe)
}

/// The template as TOML that [`read`] takes again.
#[must_use]
pub fn write(recipe: &RecipeBody) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(recipe) else { return String::new() };
    let table: toml::Table = fields.into_iter().map(|(name, value)| (name, to_toml(value))).collect();
    toml::to_string(&table).unwrap_or_default()
}

fn invalid(message: String) -> Error {
    Error::invalid("invalid_template", message)
}

fn of_json(text: &str) -> Result<RecipeBody> {
    json::parse(text.as_bytes()).map_err(|error| invalid(error.parts().2.to_owned()))
}

fn of_toml(text: &str) -> Result<RecipeBody> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|c| **c == b'\n').count());
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        invalid(format!("{line}{}", error.message()))
    })?;
    let mut fields = Map::new();
    for (name, value) in table {
        let value = match to_json(&name, value)? {
            Value::String(text) if text == NONE && LIMITS.contains(&name.as_str()) => Value::Null,
            other => other,
        };
        fields.insert(name, value);
    }
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("`{path}`: ") };
        invalid(format!("{place}{}", error.into_inner()))
    })
}

fn to_json(place: &str, value: toml::Value) -> Result<Value> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Float(number) => match serde_json::Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None => return Err(invalid(format!("`{place}`: {number} is no figure here"))),
        },
        toml::Value::Datetime(date) => return Err(invalid(format!("`{place}`: no field is a date; put `{date}` in quotes"))),
        toml::Value::Array(items) => items.into_iter().map(|item| to_json(place, item)).collect::<Result<_>>()?,
        toml::Value::Table(table) => {
            let field = |(name, value): (String, toml::Value)| {
                let value = to_json(&format!("{place}.{name}"), value)?;
                Ok((name, value))
            };
            Value::Object(table.into_iter().map(field).collect::<Result<_>>()?)
        }
    })
}

/// What a template holds has a place in TOML: figures are within their bounds, and the only nulls are limits.
fn to_toml(value: Value) -> toml::Value {
    match value {
        Value::Null => NONE.into(),
        Value::Bool(truth) => truth.into(),
        Value::String(text) => text.into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::MAX).into(),
        },
        Value::Array(items) => items.into_iter().map(to_toml).collect::<Vec<_>>().into(),
        Value::Object(fields) => toml::Value::Table(fields.into_iter().map(|(name, value)| (name, to_toml(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        description = "all there is"
        image = "alpine:3.20"
        network = "none"
        storage = "disk"
        user = "root"
        hostname = "h"
        work_dir = "/srv"
        lifetime_s = "none"
        idle_timeout_s = 60
        timeout_s = 1.5
        setup = ["echo hi", ["apk", "add", "x"], { shell = "true", timeout_s = 5 }, { cmd = ["true"] }]

        [limits]
        memory_bytes = 268435456
        cpus = 0.5

        [env]
        A = "1"

        [metadata]
        team = "x"

        [interpreters]
        py = ["/opt/venv/bin/python3"]
    "#;

    #[test]
    fn what_is_written_is_read_as_what_it_was() {
        let recipe = read(WHOLE).unwrap();
        assert_eq!((recipe.lifetime_s.is_some(), recipe.lifetime_s.flatten().is_some(), recipe.setup.len()), (true, false, 4));
        let text = write(&recipe);
        assert_eq!(read(&text).unwrap(), recipe, "{text}");
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(read(&json).unwrap(), recipe, "{json}");
        assert_eq!(write(&read("").unwrap()), "");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (text, named) in [
            ("image = ", "line 1"),
            ("[limits]\nmemory_bytes = \"1G\"", "`limits.memory_bytes`"),
            ("limits.memory_bytes = 1", "`limits.memory_bytes`"),
            ("limits.cpus = 9999", "`limits.cpus`"),
            ("limits.cpus = nan", "`limits.cpus`"),
            ("image = \"UPPER case\"", "`image`"),
            ("env.CAISSON_X = \"1\"", "CAISSON_X"),
            ("env.A = 1", "`env.A`"),
            ("network = \"all\"", "network"),
            ("storage = \"tape\"", "storage"),
            ("user = \"nobody\"", "user"),
            ("hostname = \"-\"", "`hostname`"),
            ("work_dir = \"relative\"", "`work_dir`"),
            ("lifetime_s = 0", "`lifetime_s`"),
            ("lifetime_s = \"never\"", "`lifetime_s`"),
            ("timeout_s = -1", "`timeout_s`"),
            ("setup = [\"\"]", "`setup[0]`"),
            ("setup = [3]", "`setup[0]`"),
            ("setup = [\"a\", { shell = \"a\", cmd = [\"b\"] }]", "`setup[1]`"),
            ("setup = [{ shell = \"a\", timeout_s = 3601 }]", "`setup[0].timeout_s`"),
            ("setup = [{ shell = \"a\", wait = 1 }]", "`setup[0].wait`"),
            ("interpreters.cobol = [\"x\"]", "`cobol`"),
            ("interpreters.python = []", "`interpreters.python`"),
            ("interpreters = { py = [\"a\"], python = [\"b\"] }", "`interpreters.python`"),
            ("ready = [\"ruby\"]", "`ruby`"),
            ("ready = [\"py\", \"python\"]", "twice"),
            ("ready = [\"node\"]\npreload = [\"numpy\"]", "`preload`"),
            ("preload = [\"a b\"]", "`a b`"),
            ("pull = \"always\"", "`pull`"),
            ("name = \"x\"", "`name`"),
            ("template = \"x\"", "`template`"),
            ("description = 1979-05-27", "`description`"),
            ("{\"image\": 3}", "`image`"),
            ("{\"env\": {\"A\": \"1\", \"A\": \"2\"}}", "`env`"),
            ("{\"lifetime_s\": \"none\"}", "`lifetime_s`"),
        ] {
            let message = read(text).expect_err(text).to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
