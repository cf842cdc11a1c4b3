//! Which backend makes a sandbox: the one that its request or its template names, or the server's own choice. Each stays with what it has made.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use caisson_core::{
    About, AgentStream, Backend, BackendError, Changes, Death, Error, Feature, Files, Given, Limits, LowerDirectory, Observed, Result,
    SandboxId, SandboxSpec, Storage, UpperSeen, Usage,
};

use crate::{doctor::Proof, figures};

/// All that an engine has. The first is the one that is taken where nobody says.
#[derive(Default)]
pub struct Backends {
    usable: Vec<Arc<dyn Backend>>,
    unusable: Vec<Unusable>,
    /// Who has which sandbox, where there is a choice.
    placed: Mutex<HashMap<SandboxId, usize>>,
    proofs: Mutex<HashMap<&'static str, Proof>>,
}

/// One that is allowed and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unusable {
    name: &'static str,
    why: String,
}

/// What is known of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    pub name: &'static str,
    /// Whether it is taken where nobody names one.
    pub is_default: bool,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
    pub about: About,
    pub features: Vec<Feature>,
    /// The limits that it cannot enforce in full, by their names in the API.
    pub weaker_limits: Vec<&'static str>,
    /// What the doctor has found last, since the start.
    pub proof: Option<Proof>,
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.usable.iter().map(|backend| backend.name()).collect();
        f.debug_struct("Backends").field("usable", &names).field("unusable", &self.unusable).finish_non_exhaustive()
    }
}

impl From<Arc<dyn Backend>> for Backends {
    fn from(backend: Arc<dyn Backend>) -> Self {
        Self { usable: vec![backend], ..Self::default() }
    }
}

impl<B: Backend> From<Arc<B>> for Backends {
    fn from(backend: Arc<B>) -> Self {
        Self::from(backend as Arc<dyn Backend>)
    }
}

impl Backends {
    /// One more to choose from.
    #[must_use]
    pub fn and(mut self, backend: Arc<dyn Backend>) -> Self {
        self.usable.push(backend);
        self
    }

    /// One that requests may name, and are refused for this reason.
    #[must_use]
    pub fn and_unusable(mut self, name: &'static str, why: String) -> Self {
        self.unusable.push(Unusable { name, why });
        self
    }

    /// What there is, the one that is taken where nobody says first.
    pub(crate) fn list(&self) -> Vec<BackendInfo> {
        let proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = self.usable.iter().enumerate().map(|(index, backend)| BackendInfo {
            name: backend.name(),
            is_default: index == 0,
            unusable: None,
            about: backend.about(),
            features: backend.features().to_vec(),
            weaker_limits: backend.weaker_limits().to_vec(),
            proof: proofs.get(backend.name()).cloned(),
        });
        let unusable = self.unusable.iter().map(|Unusable { name, why }| BackendInfo {
            name,
            is_default: false,
            unusable: Some(why.clone()),
            about: About::default(),
            features: Vec::new(),
            weaker_limits: Vec::new(),
            proof: None,
        });
        usable.chain(unusable).collect()
    }

    pub(crate) fn default_name(&self) -> &'static str {
        self.usable.first().map_or("none", |backend| backend.name())
    }

    /// The one of this name.
    pub(crate) fn named(&self, name: &str) -> Result<&dyn Backend> {
        if let Some(index) = self.position(name) {
            return Ok(&*self.usable[index]);
        }
        let there = self.names(|_| true);
        if self.unusable.iter().any(|unusable| unusable.name == name) {
            // The reason has paths of the host in it.
            let message = format!(
                "backend `{name}` cannot be used on this server; `caisson backend ls` tells an administrator why; there is {there}"
            );
            return Err(Error::unsupported(message));
        }
        let name = figures::tamed(name, 60);
        Err(Error::invalid(
            "unknown_backend",
            format!("backend `{name}` is not one of this server; there is {there} (its operator lists them in CAISSON_BACKENDS)"),
        ))
    }

    pub(crate) fn is_usable(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.usable.iter().position(|backend| backend.name() == name)
    }

    /// Settles which backend makes what is asked for. One that could not is refused, and one that could is named.
    pub(crate) fn resolve(&self, spec: &mut SandboxSpec) -> Result<()> {
        if spec.backend.is_empty() {
            self.default_name().clone_into(&mut spec.backend);
        }
        let backend = self.named(&spec.backend)?;
        let wanted = [
            (spec.storage == Storage::Disk, Feature::Disk, "storage `disk`"),
            (!spec.network.is_none(), Feature::Network, "network but `none`"),
        ];
        for (is_wanted, feature, what) in wanted {
            if is_wanted && !backend.features().contains(&feature) {
                return Err(self.lacks(backend.name(), feature, what));
            }
        }
        Ok(())
    }

    fn lacks(&self, name: &str, feature: Feature, what: &str) -> Error {
        let able = self.names(|backend| backend.features().contains(&feature));
        let remedy =
            if able.is_empty() { "`native` has, and this server does not offer it".to_owned() } else { format!("use backend {able}") };
        Error::unsupported(format!("backend `{name}` has no {what}; {remedy}"))
    }

    fn names(&self, is_fit: impl Fn(&dyn Backend) -> bool) -> String {
        let names: Vec<String> =
            self.usable.iter().filter(|backend| is_fit(&***backend)).map(|backend| format!("`{}`", backend.name())).collect();
        names.join(" or ")
    }

    pub(crate) fn proven(&self, name: &'static str, proof: Proof) {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).insert(name, proof);
    }

    /// The limits that are not enforced in full for what this spec asks for, by their names in the API.
    pub(crate) fn weaker_limits(&self, spec: &SandboxSpec) -> Vec<String> {
        self.named(&spec.backend).map(|backend| backend.weaker_limits().iter().map(|name| (*name).to_owned()).collect()).unwrap_or_default()
    }

    pub(crate) fn redirects(&self, spec: &SandboxSpec) -> bool {
        self.named(&spec.backend).is_ok_and(Backend::redirects)
    }

    pub(crate) async fn launch(&self, id: SandboxId, spec: &SandboxSpec, files: Files) -> Result<AgentStream, BackendError> {
        let index = self.position(&spec.backend).ok_or_else(|| {
            let name = figures::tamed(&spec.backend, 60);
            BackendError::Unsupported(format!("the sandbox was made by backend `{name}`, which this server does not have any more"))
        })?;
        if self.usable.len() > 1 {
            self.placed.lock().unwrap_or_else(PoisonError::into_inner).insert(id, index);
        }
        self.usable[index].launch(id, spec, files).await
    }

    /// Who has it; `None` where nobody does, as far as is known.
    fn holder(&self, id: SandboxId) -> Option<&Arc<dyn Backend>> {
        match &self.usable[..] {
            [only] => Some(only),
            several => self.placed.lock().unwrap_or_else(PoisonError::into_inner).get(&id).and_then(|index| several.get(*index)),
        }
    }

    fn known_holder(&self, id: SandboxId) -> Result<&Arc<dyn Backend>, BackendError> {
        self.holder(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))
    }

    pub(crate) async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        match self.holder(id) {
            Some(backend) => backend.destroy(id).await?,
            None => {
                for backend in &self.usable {
                    backend.destroy(id).await?;
                }
            }
        }
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    pub(crate) async fn discard(&self, id: SandboxId) -> Result<(), BackendError> {
        for backend in self.with_disks() {
            backend.discard(id).await?;
        }
        Ok(())
    }

    pub(crate) async fn set_aside(&self, id: SandboxId) -> Result<(), BackendError> {
        for backend in self.with_disks() {
            backend.set_aside(id).await?;
        }
        Ok(())
    }

    pub(crate) async fn kept(&self) -> Result<Vec<SandboxId>, BackendError> {
        let mut kept = Vec::new();
        for backend in self.with_disks() {
            kept.extend(backend.kept().await?);
        }
        Ok(kept)
    }

    fn with_disks(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.usable.iter().filter(|backend| backend.features().contains(&Feature::Disk))
    }

    pub(crate) async fn death(&self, id: SandboxId) -> Option<Death> {
        self.holder(id)?.death(id).await
    }

    pub(crate) async fn usage(&self, id: SandboxId) -> Option<Usage> {
        self.holder(id)?.usage(id).await
    }

    pub(crate) async fn adjust(&self, id: SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let holder = self.known_holder(id)?;
        holder.adjust(id, limits).await
    }

    pub(crate) async fn changes(&self, id: SandboxId, given: &[Given]) -> Result<Changes, BackendError> {
        let holder = self.known_holder(id)?;
        if !holder.features().contains(&Feature::Commit) {
            return Err(BackendError::Unsupported(self.lacks(holder.name(), Feature::Commit, "commit").to_string()));
        }
        holder.changes(id, given).await
    }

    pub(crate) async fn layer(&self, id: SandboxId, directory: &LowerDirectory, seen: UpperSeen) -> Result<(), BackendError> {
        let holder = self.known_holder(id)?;
        holder.layer(id, directory, seen).await
    }

    pub(crate) async fn list_left(&self) -> Result<Vec<Observed>, BackendError> {
        let mut left = Vec::new();
        for backend in &self.usable {
            left.extend(backend.list().await?);
        }
        Ok(left)
    }

    pub(crate) async fn shutdown(&self) {
        for backend in &self.usable {
            backend.shutdown().await;
        }
    }
}
