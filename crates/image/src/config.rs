//! What an image says about itself ([OCI image spec, config]).
//!
//! [OCI image spec, config]: https://github.com/opencontainers/image-spec/blob/main/config.md

use std::collections::BTreeMap;

use caisson_core::{Digest, ImageConfig};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    error::{in_short, shown},
    manifest::{Text, architecture},
};

/// What is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Of the unpacked layers, the lowest first, as many as the manifest has.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) about: ImageConfig,
    pub(crate) created: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    os: Option<String>,
    architecture: Option<String>,
    created: Option<String>,
    rootfs: RootFs,
    config: Option<RawAbout>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAbout {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads a configuration for a manifest with so many layers.
pub(crate) fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Config, Error> {
    let refuse = |why: String| Error::Manifest { what: what.to_owned(), why };
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("its configuration cannot be read ({})", in_short(&error))))?;
    let (os, machine) = (raw.os.as_deref().unwrap_or("linux"), raw.architecture.as_deref().unwrap_or(architecture()));
    if (os, machine) != ("linux", architecture()) {
        let there = vec![shown(&format!("{os}/{machine}"), 80)];
        return Err(Error::Platform { wanted: format!("linux/{}", architecture()), there });
    }
    if raw.rootfs.kind != "layers" {
        return Err(refuse("its root file system is not made of layers".to_owned()));
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(refuse(format!("it has {layers} layers, and its configuration says {}", raw.rootfs.diff_ids.len())));
    }
    let about = about(raw.config.unwrap_or_default()).map_err(refuse)?;
    let created = raw.created.map(|created| shown(&created, 64));
    Ok(Config { diff_ids: raw.rootfs.diff_ids.into_iter().map(|text| text.0).collect(), about, created })
}

fn about(raw: RawAbout) -> Result<ImageConfig, String> {
    let text = |what: &str, text: String| if text.contains('\0') { Err(format!("{what} has a NUL in it")) } else { Ok(text) };
    let all = |what: &str, list: Option<Vec<String>>| -> Result<Vec<String>, String> {
        list.unwrap_or_default().into_iter().map(|item| text(what, item)).collect()
    };
    let mut env = Vec::new();
    for line in raw.env.unwrap_or_default() {
        let line = text("a variable (`Env`)", line)?;
        // Without `=` it is a name with nothing in it.
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        if name.is_empty() {
            return Err("a variable (`Env`) has no name".to_owned());
        }
        env.push((name.to_owned(), value.to_owned()));
    }
    // As everybody reads it: from the root on.
    let from_root = |path: String| if path.starts_with('/') { path } else { format!("/{path}") };
    let optional = |what: &str, value: Option<String>| value.filter(|value| !value.is_empty()).map(|value| text(what, value)).transpose();
    Ok(ImageConfig {
        env,
        work_dir: optional("`WorkingDir`", raw.working_dir)?.map(from_root),
        user: optional("`User`", raw.user)?,
        entrypoint: all("`Entrypoint`", raw.entrypoint)?,
        cmd: all("`Cmd`", raw.cmd)?,
        exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
        labels: raw.labels.unwrap_or_default(),
    })
}

/// The configuration of a root file system that came without one.
pub(crate) fn write(diff_id: Digest) -> Vec<u8> {
    #[derive(Serialize)]
    struct Written<'a> {
        architecture: &'a str,
        os: &'a str,
        config: BTreeMap<String, String>,
        rootfs: RootFs,
    }
    let rootfs = RootFs { kind: "layers".to_owned(), diff_ids: vec![Text(diff_id)] };
    serde_json::to_vec(&Written { architecture: architecture(), os: "linux", config: BTreeMap::new(), rootfs })
        .expect("there is nothing in it that JSON cannot say")
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn text(config: &str) -> String {
        format!(r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":["{D}"]}},"config":{config}}}"#, architecture())
    }

    #[test]
    fn everything_about_programs_is_read() {
        let config = text(
            r#"{"Env":["PATH=/bin","A=b=c","BARE"],"WorkingDir":"srv","User":"www:1","Entrypoint":["/e"],"Cmd":null,
               "ExposedPorts":{"80/tcp":{}},"Labels":{"l":"v"},"Unknown":[[]]}"#,
        );
        let config = parse("it", config.as_bytes(), 1).unwrap();
        let about = config.about;
        let pairs: Vec<_> = about.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("PATH", "/bin"), ("A", "b=c"), ("BARE", "")]);
        assert_eq!(
            (about.work_dir.as_deref(), about.user.as_deref(), about.entrypoint.len(), about.cmd.len()),
            (Some("/srv"), Some("www:1"), 1, 0)
        );
        assert_eq!(
            (about.exposed_ports[0].as_str(), about.labels["l"].as_str(), config.diff_ids[0].to_string().as_str()),
            ("80/tcp", "v", D)
        );
        assert_eq!(parse("it", text("null").as_bytes(), 1).unwrap().about, ImageConfig::default());
        let written = write(D.parse().unwrap());
        assert_eq!(parse("it", &written, 1).unwrap().diff_ids, [D.parse().unwrap()]);
    }

    #[test]
    fn r5_3_what_cannot_be_meant_is_refused() {
        for (bad, why) in [
            (text(r#"{"Env":["=x"]}"#), "no name"),
            (text("{\"Env\":[\"A=\\u0000\"]}"), "NUL"),
            (text("{\"User\":\"\\u0000\"}"), "NUL"),
            (text("{}").replace("layers", "windows"), "not made of layers"),
            (text("{}").replace("sha256:", "sha256:../"), "a digest is"),
            (text("{}").replace("\"linux\"", "\"windows\""), "windows/"),
            (text(&"[".repeat(1000)), "cannot be read"),
            ("{}".to_owned(), "cannot be read"),
        ] {
            let error = parse("it", bad.as_bytes(), 1).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse("it", text("{}").as_bytes(), 2).unwrap_err().to_string().contains("2 layers"));
    }
}
