//! From a sandbox to an image.

use std::collections::BTreeMap;

use caisson_image::ConfigChange;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::{object, unique_or_null};

/// What a sandbox is to become.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CommitRequest)]
pub struct CommitBody {
    /// What the new image is called, such as `team/app:1`; `latest` where there is no tag. What had the name before keeps none.
    #[schema(example = "team/app:1")]
    pub name: String,
    /// What the image says about its programs; what is left out is as in the image that the sandbox was made of.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub config: Option<CommitConfigBody>,
    /// For the image's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Changes to what an image says about its programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = CommitConfig)]
pub struct CommitConfigBody {
    /// Beside those that there are, or in their place.
    #[serde(deserialize_with = "unique_or_null", skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// In place of the one that there is, as all that follows; an empty text or list takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Beside those that there are, or in their place.
    #[serde(deserialize_with = "unique_or_null", skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// `8080/tcp` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<Vec<String>>,
    /// What builds of this image run command lines with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

impl From<CommitConfigBody> for ConfigChange {
    fn from(body: CommitConfigBody) -> Self {
        let CommitConfigBody { env, working_dir, user, entrypoint, cmd, labels, exposed_ports, shell } = body;
        Self {
            env: env.unwrap_or_default(),
            work_dir: working_dir,
            user,
            entrypoint,
            cmd,
            labels: labels.unwrap_or_default(),
            exposed_ports,
            shell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_or_absent_leaves_alone_and_empty_clears() {
        let read = |text: &str| serde_json::from_str::<CommitBody>(text).map(|body| body.config.unwrap_or_default());
        let null = r#"{"name":"a","config":{"env":null,"working_dir":null,"user":null,"entrypoint":null,"cmd":null,"labels":null,"exposed_ports":null,"shell":null},"comment":null}"#;
        for text in [r#"{"name":"a"}"#, r#"{"name":"a","config":null}"#, r#"{"name":"a","config":{}}"#, null] {
            assert_eq!(ConfigChange::from(read(text).unwrap()), ConfigChange::default(), "{text}");
        }
        assert_eq!(read(r#"{"name":"a","config":{"cmd":[]}}"#).unwrap().cmd, Some(Vec::new()));
        for bad in
            [r#"{"name":"a","config":[]}"#, r#"{"name":"a","config":{"env":{"A":"1","A":"2"}}}"#, r#"{"name":"a","config":{"volumes":[]}}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
