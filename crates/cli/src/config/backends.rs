//! Which backends sandboxes may be made by.

use std::path::PathBuf;

use caisson_docker::{Docker, Endpoint};
use caisson_oci::Kind;

use super::{
    Problems,
    layers::Layers,
    settings::Setting,
    sources::{Environment, Sources},
    values::{Reader, path},
};
use crate::printable;

/// What namespaces, dropped privileges and this program's own launcher make.
pub(crate) const NATIVE: &str = "native";

/// The names of those that requests may name, and where their runtimes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The one that is taken where nobody says first; each once.
    pub(crate) names: Vec<&'static str>,
    pub(crate) programs: Vec<(Kind, PathBuf)>,
    /// Where the Docker daemon is, if it is asked for sandboxes.
    pub(crate) docker: Option<Endpoint>,
}

impl Choice {
    /// One alone.
    pub(crate) fn only(name: &'static str) -> Self {
        Self { names: vec![name], programs: Vec::new(), docker: None }
    }

    /// One alone, its runtime where the environment says, for commands that have no other configuration.
    pub(crate) fn with_environment(name: &'static str) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let environment =
            Environment::about(&[Setting::OciRuntimes, Setting::DockerHost, Setting::DockerTlsVerify, Setting::DockerCertPath]);
        let layers = Layers::collect(&Sources { environment, ..Sources::default() }, &mut problems);
        let mut reader = Reader::new(&layers, &mut problems);
        let programs = reader.get(Setting::OciRuntimes, programs).unwrap_or_default();
        let docker = endpoint(&mut reader, &layers, &[name]);
        if problems.is_empty() { Ok(Self { programs, docker, ..Self::only(name) }) } else { Err(Problems(problems)) }
    }

    pub(crate) fn has_native(&self) -> bool {
        self.names.contains(&NATIVE)
    }

    /// Where the operator says that a runtime is.
    pub(crate) fn program(&self, kind: Kind) -> Option<PathBuf> {
        self.programs.iter().find(|(known, _)| *known == kind).map(|(_, path)| path.clone())
    }
}

/// `also` is what another setting asks for.
pub(super) fn read(reader: &mut Reader<'_>, layers: &Layers, also: Option<Kind>) -> Choice {
    let default = reader.get(Setting::Backend, name);
    let allowed = reader.get(Setting::Backends, list);
    let programs = reader.get(Setting::OciRuntimes, programs).unwrap_or_default();
    if let (Some(default), Some(allowed)) = (default, &allowed)
        && !allowed.contains(&default)
    {
        reader.problem(format!("CAISSON_BACKEND is `{default}`, which CAISSON_BACKENDS does not have; add it there"));
    }
    let first = default.or_else(|| allowed.as_ref()?.first().copied()).unwrap_or(NATIVE);
    let mut names = vec![first];
    for name in allowed.unwrap_or_default().into_iter().chain(also.map(Kind::backend)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for (kind, _) in &programs {
        if !names.contains(&kind.backend()) {
            let name = kind.backend();
            reader.problem(format!(
                "CAISSON_OCI_RUNTIMES has `{}`, and CAISSON_BACKENDS does not have `{name}`; add it there",
                kind.program()
            ));
        }
    }
    let docker = endpoint(reader, layers, &names);
    Choice { names, programs, docker }
}

/// A backend, by its name.
pub(crate) fn name(text: &str) -> Result<&'static str, String> {
    if text == NATIVE {
        return Ok(NATIVE);
    }
    if Docker::runtime(text).is_some() {
        // There are as many as are written in the configuration, and for as long as the program runs.
        return Ok(String::leak(text.to_owned()));
    }
    let runtimes = Kind::ALL.map(|kind| format!("`{}`", kind.backend())).join(", ");
    let found = Kind::of_backend(text).map(Kind::backend);
    found.ok_or_else(|| {
        format!("expected the name of a backend: `{NATIVE}`, {runtimes}, `docker`, or `docker:` and the name of a runtime of the daemon")
    })
}

/// Where the Docker daemon is, where one of these backends asks it. What the environment says to Docker's own programs is no problem elsewhere.
fn endpoint(reader: &mut Reader<'_>, layers: &Layers, names: &[&str]) -> Option<Endpoint> {
    if !names.iter().any(|name| Docker::runtime(name).is_some()) {
        return None;
    }
    // Empty is no.
    let verifies = layers.get(Setting::DockerTlsVerify).is_some_and(|given| !given.text.is_empty());
    let certificates = if verifies { reader.get(Setting::DockerCertPath, path) } else { None };
    if verifies && certificates.is_none() {
        reader.problem(
            "DOCKER_TLS_VERIFY asks for TLS, and DOCKER_CERT_PATH does not say where the certificates are; say so there".to_owned(),
        );
    }
    let host = reader.get(Setting::DockerHost, |text| Ok(text.to_owned()));
    match Endpoint::new(host.as_deref(), certificates) {
        Ok(endpoint) => Some(endpoint),
        Err(what) => {
            reader.problem(format!("DOCKER_HOST: {what}"));
            None
        }
    }
}

fn list(text: &str) -> Result<Vec<&'static str>, String> {
    let mut names = Vec::new();
    for part in text.split(',').map(str::trim) {
        let name = name(part)?;
        if names.contains(&name) {
            return Err(format!("has `{name}` twice; leave one out"));
        }
        names.push(name);
    }
    Ok(names)
}

/// `NAME=PATH`, several with commas between them.
fn programs(text: &str) -> Result<Vec<(Kind, PathBuf)>, String> {
    let mut programs: Vec<(Kind, PathBuf)> = Vec::new();
    for pair in text.split(',').map(str::trim) {
        let expected = || "expected NAME=PATH, such as runsc=/opt/gvisor/runsc; several are separated by commas".to_owned();
        let (name, path) = pair.split_once('=').ok_or_else(expected)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.program() == name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::program).join(", ");
            format!("has the runtime `{}`, and known are {known}", printable::text(name))
        })?;
        if !path.starts_with('/') {
            return Err(format!("has a path for `{name}` that is not absolute"));
        }
        if programs.iter().any(|(known, _)| *known == kind) {
            return Err(format!("has `{name}` twice; leave one out"));
        }
        programs.push((kind, path.into()));
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_known_by_name() {
        assert_eq!(list("native, oci:runsc"), Ok(vec!["native", "oci:runsc"]));
        assert_eq!(list("docker,docker:runsc"), Ok(vec!["docker", "docker:runsc"]));
        for bad in ["", "runsc", "oci:docker", "docker:", "docker:/x", "native,native", "native,"] {
            assert!(list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn runtimes_have_absolute_paths() {
        assert_eq!(programs("runc=/a,crun=/b").unwrap(), [(Kind::Runc, "/a".into()), (Kind::Crun, "/b".into())]);
        for bad in ["", "runc", "runc=a", "docker=/a", "runc=/a,runc=/b"] {
            assert!(programs(bad).is_err(), "{bad}");
        }
    }
}
