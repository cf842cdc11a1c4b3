//! Images.

use std::{collections::BTreeMap, str::FromStr};

use caisson_core::{Error, ImageConfig, Result};
use caisson_image::{Collected, Inspected, InspectedLayer, LayerProgress, Listed, Login, Phase, Progress};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{field::object, time};

/// Whether an image is got from its registry before a sandbox is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    #[default]
    Never,
    /// Where it is not here.
    Missing,
    Always,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Never, Self::Missing, Self::Always];

    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Missing => "missing",
            Self::Always => "always",
        }
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid("invalid_request", format!("`pull` is `{}`, expected one of {known}", text.escape_default()))
        })
    }
}

/// An image to be got from its registry.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PullRequest)]
pub struct PullBody {
    /// Such as `alpine:3.20`, `ghcr.io/team/app:1` or `…@sha256:…`; `latest` where there is no tag.
    #[schema(example = "alpine:3.20")]
    pub name: String,
    /// For the image's registry. What is pulled with it belongs to the caller's tenant alone; all else is there for everybody, and the server's
    /// own logins are used for it.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginBody>,
}

/// Who asks a registry.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RegistryLogin)]
pub struct LoginBody {
    pub user: String,
    /// A password, or an access token. Kept only until the image is here.
    pub password: String,
}

impl std::fmt::Debug for LoginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginBody").finish_non_exhaustive()
    }
}

impl From<LoginBody> for Login {
    fn from(body: LoginBody) -> Self {
        Self { user: body.user, password: body.password }
    }
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Image)]
pub struct ImageBody {
    /// In full: `docker.io/library/alpine:3.20`.
    pub name: String,
    /// Of its content, whatever it is called: the digest of its configuration.
    pub id: String,
    /// Of its manifest, as registries know it.
    pub digest: String,
    /// As it came.
    pub size_bytes: u64,
    /// On the disk. Layers that several images have count for each.
    pub unpacked_bytes: u64,
    pub added_at: String,
    /// Whether it is the tenant's own, because it was pulled with a login of the tenant's.
    pub private: bool,
}

impl From<&Listed> for ImageBody {
    fn from(image: &Listed) -> Self {
        Self {
            name: image.name.clone(),
            id: image.id.to_string(),
            digest: image.digest.to_string(),
            size_bytes: image.size,
            unpacked_bytes: image.unpacked,
            added_at: time(Timestamp::from_second(image.added).unwrap_or(Timestamp::UNIX_EPOCH)),
            private: image.owner.is_some(),
        }
    }
}

/// What came with an import.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Imported)]
pub struct ImportedBody {
    pub images: Vec<ImageBody>,
}

/// All about one image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ImageDetails)]
pub struct ImageDetailsBody {
    #[serde(flatten)]
    pub image: ImageBody,
    /// When it was made, as it says itself.
    pub created_at: Option<String>,
    /// The lowest first.
    pub layers: Vec<ImageLayerBody>,
    pub config: ImageConfigBody,
}

impl From<&Inspected> for ImageDetailsBody {
    fn from(all: &Inspected) -> Self {
        Self {
            image: ImageBody::from(&all.listed),
            created_at: all.created.clone(),
            layers: all.layers.iter().map(ImageLayerBody::from).collect(),
            config: ImageConfigBody::from(&all.image.config),
        }
    }
}

/// A layer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ImageLayer)]
pub struct ImageLayerBody {
    /// As registries know it.
    pub digest: String,
    /// Unpacked.
    pub diff_id: String,
    pub size_bytes: u64,
    pub unpacked_bytes: u64,
    /// How many devices, fifos and sockets of it are not in sandboxes; and the first of them.
    pub left_out_total: u64,
    pub left_out: Vec<String>,
}

impl From<&InspectedLayer> for ImageLayerBody {
    fn from(layer: &InspectedLayer) -> Self {
        Self {
            digest: layer.digest.to_string(),
            diff_id: layer.diff_id.to_string(),
            size_bytes: layer.size,
            unpacked_bytes: layer.unpacked,
            left_out_total: layer.left_out,
            left_out: layer.left_out_named.clone(),
        }
    }
}

/// What an image says about the programs that run on it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ImageConfig)]
pub struct ImageConfigBody {
    /// `NAME=VALUE`, in its order.
    pub env: Vec<String>,
    pub work_dir: Option<String>,
    pub user: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// For people: nothing is opened because of it.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl From<&ImageConfig> for ImageConfigBody {
    fn from(config: &ImageConfig) -> Self {
        Self {
            env: config.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            work_dir: config.work_dir.clone(),
            user: config.user.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            exposed_ports: config.exposed_ports.clone(),
            labels: config.labels.clone(),
        }
    }
}

/// How far a pull has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = PullProgress)]
pub struct PullProgressBody {
    /// That have come, of all layers.
    pub bytes: u64,
    pub total_bytes: u64,
    /// Of the bytes, rounded down; 0 until it is known which layers there are.
    pub percent: u8,
    /// The lowest first.
    pub layers: Vec<PulledLayerBody>,
}

/// How far a layer has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = PulledLayer)]
pub struct PulledLayerBody {
    pub digest: String,
    /// `waiting`, `downloading`, `unpacking` or `done`.
    pub phase: String,
    /// That have come.
    pub bytes: u64,
    pub total_bytes: u64,
    pub percent: u8,
}

impl From<&Progress> for PullProgressBody {
    fn from(progress: &Progress) -> Self {
        let (bytes, total_bytes) = progress.bytes();
        Self {
            bytes,
            total_bytes,
            percent: percent(bytes, total_bytes),
            layers: progress.layers.iter().map(PulledLayerBody::from).collect(),
        }
    }
}

impl From<&LayerProgress> for PulledLayerBody {
    fn from(layer: &LayerProgress) -> Self {
        let (phase, bytes) = match layer.phase {
            Phase::Waiting => ("waiting", 0),
            Phase::Downloading(came) => ("downloading", came),
            Phase::Unpacking(_) => ("unpacking", layer.size),
            Phase::Done => ("done", layer.size),
        };
        let (digest, total_bytes) = (layer.digest.to_string(), layer.size);
        Self { digest, phase: phase.to_owned(), bytes, total_bytes, percent: percent(bytes, total_bytes) }
    }
}

fn percent(part: u64, whole: u64) -> u8 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

/// What was removed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CollectedImages)]
pub struct CollectedBody {
    /// Images that had no name any more.
    pub images: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// On the disk, about.
    pub freed_bytes: u64,
    /// Images without a name that stay because sandboxes use them.
    pub in_use: u64,
    /// A pull or an import is under way: whatever it may count on stays until another time.
    pub pull_under_way: bool,
}

impl From<&Collected> for CollectedBody {
    fn from(done: &Collected) -> Self {
        let Collected { images, layers, bytes, in_use, pull_under_way } = *done;
        Self { images, layers, freed_bytes: bytes, in_use, pull_under_way }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_never_promise_too_much() {
        for (part, whole, expect) in [(0, 0, 0), (0, 10, 0), (999, 1000, 99), (1000, 1000, 100), (u64::MAX, u64::MAX, 100), (2, 1, 100)] {
            assert_eq!(percent(part, whole), expect, "{part} of {whole}");
        }
    }

    #[test]
    fn logins_are_shown_to_nobody() {
        let body = LoginBody { user: "user".to_owned(), password: "secret".to_owned() };
        assert!(!format!("{:?}", PullBody { name: "x".to_owned(), login: Some(body) }).contains("secret"));
    }
}
