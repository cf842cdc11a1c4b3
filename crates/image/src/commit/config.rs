//! What the new image says about itself: what the one below says, but for what is changed. What nobody here reads stays as it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Commit;
use crate::{
    Error, config,
    manifest::MAX_DOCUMENT,
    store::{LayerRecord, Record},
};

/// What `docker commit` wrote about the container that an image was made of.
const OF_A_CONTAINER: [&str; 4] = ["container", "container_config", "id", "parent"];

/// Changes to what an image says about its programs. Variables and labels are set beside those that there are; everything else is replaced, and
/// taken away by what is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigChange {
    pub env: BTreeMap<String, String>,
    pub work_dir: Option<String>,
    pub user: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: Option<Vec<String>>,
    /// With what builds run command lines.
    pub shell: Option<Vec<String>>,
}

/// The configuration for the layers of `base`, and for the one above them if there is one.
pub(super) fn changed(below: &[u8], base: &Record, layer: Option<&LayerRecord>, what: &Commit) -> Result<Vec<u8>, Error> {
    let refuse = |why: &str| Error::Manifest { what: format!("image `{}`", what.base.name), why: why.to_owned() };
    let mut whole: Map<String, Value> = serde_json::from_slice(below).map_err(|_| refuse("its configuration cannot be read"))?;
    let now = format!("{:.3}", Timestamp::now());
    for name in OF_A_CONTAINER {
        whole.remove(name);
    }
    whole.insert("created".to_owned(), json!(now));
    let diff_ids = base.layers.iter().chain(layer).map(|layer| layer.diff_id.0.to_string());
    whole.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()}));
    whole.insert("history".to_owned(), history(whole.get("history"), base.layers.len(), &now, layer.is_none(), what.comment.as_deref()));
    let about = whole.entry("config").or_insert_with(|| json!({}));
    if about.is_null() {
        *about = json!({});
    }
    let about = about.as_object_mut().ok_or_else(|| refuse("what it says about its programs is no object"))?;
    apply(about, &what.change);
    let bytes = serde_json::to_vec(&whole).expect("it was JSON before");
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(refuse(&format!("with what was changed, its configuration has {} bytes, more than {MAX_DOCUMENT}", bytes.len())));
    }
    // It has to hold what is asked of those of others.
    config::parse("the new image", &bytes, base.layers.len() + usize::from(layer.is_some()))?;
    Ok(bytes)
}

/// What was done, with as many entries that have a layer as there are layers: some programs count them.
fn history(before: Option<&Value>, layers: usize, now: &str, is_empty: bool, comment: Option<&str>) -> Value {
    let with_layer = |entry: &Value| entry.get("empty_layer") != Some(&Value::Bool(true));
    let mut history = before.and_then(Value::as_array).cloned().unwrap_or_default();
    let told = history.iter().filter(|entry| with_layer(entry)).count();
    if told > layers {
        history.clear();
    }
    let untold = layers - history.iter().filter(|entry| with_layer(entry)).count();
    history.extend(std::iter::repeat_n(json!({"comment": "not told"}), untold));
    let mut entry = json!({"created": now, "created_by": "caisson commit"});
    if let Some(comment) = comment {
        entry["comment"] = json!(comment);
    }
    if is_empty {
        entry["empty_layer"] = json!(true);
    }
    history.push(entry);
    Value::Array(history)
}

fn apply(about: &mut Map<String, Value>, change: &ConfigChange) {
    if !change.env.is_empty() {
        let before = about.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
        about.insert("Env".to_owned(), env(&before, &change.env));
    }
    if !change.labels.is_empty() {
        let mut labels = about.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
        labels.extend(change.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
        about.insert("Labels".to_owned(), Value::Object(labels));
    }
    let mut replace = |name: &str, value: Option<Value>, is_empty: bool| match value {
        Some(_) if is_empty => drop(about.remove(name)),
        Some(value) => drop(about.insert(name.to_owned(), value)),
        None => {}
    };
    for (name, text) in [("WorkingDir", &change.work_dir), ("User", &change.user)] {
        replace(name, text.as_ref().map(|text| json!(text)), text.as_ref().is_some_and(String::is_empty));
    }
    for (name, list) in [("Entrypoint", &change.entrypoint), ("Cmd", &change.cmd), ("Shell", &change.shell)] {
        replace(name, list.as_ref().map(|list| json!(list)), list.as_ref().is_some_and(Vec::is_empty));
    }
    let ports = change.exposed_ports.as_ref();
    let as_object = |ports: &Vec<String>| Value::Object(ports.iter().map(|port| (port.clone(), json!({}))).collect());
    replace("ExposedPorts", ports.map(as_object), ports.is_some_and(Vec::is_empty));
}

/// In the order that there is; what is new comes behind it.
fn env(before: &[Value], change: &BTreeMap<String, String>) -> Value {
    let name_of = |line: &Value| line.as_str().and_then(|line| line.split('=').next()).map(str::to_owned);
    let mut left = change.clone();
    let mut lines = Vec::with_capacity(before.len() + change.len());
    for line in before {
        let name = name_of(line).filter(|name| change.contains_key(name));
        match name {
            // Once is enough.
            Some(name) => lines.extend(left.remove(&name).map(|value| json!(format!("{name}={value}")))),
            None => lines.push(line.clone()),
        }
    }
    lines.extend(left.into_iter().map(|(name, value)| json!(format!("{name}={value}"))));
    Value::Array(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn variables_and_labels_are_merged_and_all_else_is_replaced() {
        let before = json!({"Env": ["PATH=/bin", "A=1", "A=2", "B=x"], "Labels": {"a": "1"}, "Cmd": ["x"], "Entrypoint": ["y"], "User": "u",
            "WorkingDir": "/w", "ExposedPorts": {"1/tcp": {}}, "Healthcheck": {"Test": ["NONE"]}});
        let mut about = before.as_object().unwrap().clone();
        apply(&mut about, &ConfigChange::default());
        assert_eq!(Value::Object(about.clone()), before);
        let change = ConfigChange {
            env: map(&[("A", "3"), ("C", "a=b")]),
            labels: map(&[("b", "2")]),
            cmd: Some(Vec::new()),
            entrypoint: Some(vec!["z".to_owned()]),
            user: Some(String::new()),
            work_dir: Some("/n".to_owned()),
            exposed_ports: Some(vec!["2/udp".to_owned()]),
            shell: Some(vec!["/bin/bash".to_owned(), "-c".to_owned()]),
        };
        apply(&mut about, &change);
        let after = json!({"Env": ["PATH=/bin", "A=3", "B=x", "C=a=b"], "Labels": {"a": "1", "b": "2"}, "Entrypoint": ["z"],
            "WorkingDir": "/n", "ExposedPorts": {"2/udp": {}}, "Shell": ["/bin/bash", "-c"], "Healthcheck": {"Test": ["NONE"]}});
        assert_eq!(Value::Object(about), after);
    }

    #[test]
    fn the_history_has_an_entry_for_each_layer() {
        let with_layers = |history: &Value| {
            let entries = history.as_array().unwrap();
            entries.iter().filter(|entry| entry.get("empty_layer").is_none()).count()
        };
        for before in [None, Some(json!([])), Some(json!([{}, {"empty_layer": true}])), Some(json!([{}, {}, {}, {}])), Some(json!("x"))] {
            let history = history(before.as_ref(), 2, "now", false, Some("why"));
            assert_eq!(with_layers(&history), 3, "{before:?}");
            assert_eq!(history.as_array().unwrap().last().unwrap()["comment"], "why");
        }
        assert_eq!(with_layers(&history(None, 2, "now", true, None)), 2);
    }
}
